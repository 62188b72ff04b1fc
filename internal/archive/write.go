// SPDX-License-Identifier: GPL-2.0-or-later

package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/codec"
)

// Write writes an archive of contents to w, with the binaries in their order. The
// same files with the same times give the same bytes. It leaves out symbolic links in
// the source that lead out of it, whatever is no file, directory or symbolic link, and
// all links in binaries, and logs in them that this process may not read. It returns the
// paths that those would have in the archive.
func Write(ctx context.Context, w io.Writer, c codec.Compression, contents Contents) (left []string, err error) {
	z, err := codec.NewWriter(w, c, codec.WriterOptions{})
	if err != nil {
		return nil, err
	}
	a := writer{ctx: ctx, tar: tar.NewWriter(z)}
	err = a.contents(contents)
	if err == nil {
		err = a.tar.Close()
	}
	if err == nil {
		err = z.Close()
	}
	return a.left, err
}

type writer struct {
	ctx  context.Context
	tar  *tar.Writer
	time time.Time // of what the archive has and no directory has
	left []string
}

func (a *writer) contents(c Contents) error {
	if c.Source != "" {
		c.Conf = filepath.Join(c.Source, confFile)
	}
	fi, err := os.Stat(c.Conf)
	if err != nil {
		return err
	}
	a.time = fi.ModTime()
	// This directory is what an archive of a package is known by, with builds in
	// it or without.
	if err := a.directory(mainTree); err != nil {
		return err
	}
	made := map[string]bool{}
	for _, b := range c.Binaries {
		dir := path.Join(mainTree, b.Release)
		if !made[dir] {
			made[dir] = true
			if err := a.directory(dir); err != nil {
				return err
			}
		}
		if err := a.tree(b.Dir, path.Join(dir, b.Arch), false); err != nil {
			return err
		}
	}
	if c.Source != "" {
		return a.tree(c.Source, sourceTree, true)
	}
	if err := a.directory(binariesOnly); err != nil {
		return err
	}
	for _, f := range []struct{ name, value string }{{nameFile, c.Name}, {versionFile, c.Version}} {
		text := f.value + "\n"
		h := &tar.Header{Name: path.Join(binariesOnly, f.name), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), ModTime: a.time}
		if err := a.header(h); err != nil {
			return err
		}
		if _, err := io.WriteString(a.tar, text); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(filepath.Dir(c.Conf))
	if err != nil {
		return err
	}
	defer root.Close()
	return a.file(root, filepath.Base(c.Conf), path.Join(binariesOnly, confFile))
}

// header writes a header that tells of nobody's account and of the time with
// all its digits: by these, a build is known to be the one that a record of it
// speaks of.
func (a *writer) header(h *tar.Header) error {
	h.Format = tar.FormatPAX
	return a.tar.WriteHeader(h)
}

// directory writes a directory of the format's own.
func (a *writer) directory(name string) error {
	return a.header(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: a.time})
}

// tree writes the directory dir, whose name in the archive is top.
func (a *writer) tree(dir, top string, links bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	// In order of names.
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(a.ctx)
		}
		if err != nil {
			return err
		}
		to := path.Join(top, name)
		switch d.Type() {
		case fs.ModeDir:
			fi, err := d.Info()
			if err != nil {
				return err
			}
			return a.header(&tar.Header{Name: to + "/", Typeflag: tar.TypeDir, Mode: int64(fi.Mode().Perm()), ModTime: fi.ModTime()})
		case fs.ModeSymlink:
			target, err := root.Readlink(name)
			if err != nil {
				return err
			}
			if links && !leadsOut(name, target) {
				fi, err := d.Info()
				if err != nil {
					return err
				}
				return a.header(&tar.Header{Name: to, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777, ModTime: fi.ModTime()})
			}
		case 0:
			err := a.file(root, name, to)
			if links || path.Dir(name) != "log" || !errors.Is(err, fs.ErrPermission) {
				return err
			}
		}
		a.left = append(a.left, to)
		return nil
	})
}

// file writes the file called name in root.
func (a *writer) file(root *os.Root, name, to string) error {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s: it is not a regular file", f.Name())
	}
	h := &tar.Header{Name: to, Typeflag: tar.TypeReg, Mode: int64(fi.Mode().Perm()), Size: fi.Size(), ModTime: fi.ModTime()}
	if err := a.header(h); err != nil {
		return err
	}
	if _, err := io.CopyN(a.tar, f, fi.Size()); errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: it became shorter while it was read", f.Name())
	} else if err != nil {
		return err
	}
	return nil
}
