package build

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Stage makes dir a fresh copy of the folder source, whatever was there before.
func Stage(ctx context.Context, source, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return stageInto(ctx, source, dir, ".")
}

// stageInto copies the folder source over the folder sub of dir: folders, files,
// and symbolic links as they are, of which none can make it write outside dir.
// Modes and times are kept, since make goes by them; what is none of the three
// (a FIFO, a device) has no business in a source and is left out, as are the
// set-user-ID bits.
func stageInto(ctx context.Context, source, dir, sub string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var folders []func() error // times of folders, set after their content
	err = filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		to := filepath.Join(sub, rel)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if err := root.MkdirAll(to, 0o755); err != nil {
				return err
			}
			folders = append(folders, func() error {
				// Searchable for us, whatever the source's owner thought.
				return errors.Join(root.Chmod(to, fi.Mode().Perm()|0o700), root.Chtimes(to, fi.ModTime(), fi.ModTime()))
			})
			return nil
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := root.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return root.Symlink(target, to)
		case fi.Mode().IsRegular():
			return copyFile(path, root, to, fi)
		}
		return nil
	})
	for i := len(folders) - 1; i >= 0 && err == nil; i-- {
		err = folders[i]()
	}
	return err
}

// Cost tells how long the source may take to build, compared to others: the size
// of what is compiled.
func Cost(source string) (cost int64) {
	filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(path) == ".c" {
			if fi, err := d.Info(); err == nil {
				cost += fi.Size()
			}
		}
		return nil
	})
	return cost
}

func copyFile(from string, root *os.Root, to string, fi fs.FileInfo) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := root.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := root.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Chmod(fi.Mode().Perm()|0o400), out.Close()); err != nil {
		return err
	}
	return root.Chtimes(to, fi.ModTime(), fi.ModTime())
}
