// SPDX-License-Identifier: GPL-2.0-or-later

// Package store keeps the results of builds, so that nothing is built twice: sets of
// files, each under a key that names everything that they were made from.
//
// A [Dir] keeps each entry in one file, named by the key, so that it appears and
// disappears in one step. The file begins with three lines: the name of the format,
// the SHA-256 of the third line in hex, and the manifest in JSON, which has the key and
// each file's name, size, SHA-256 and whether it may be executed. The contents of the
// files follow in the order of the manifest, as one zstd stream. The modification time
// of the entry is when it was last used.
//
// The modules in a store are signed and placed in /lib/modules. So a directory or an
// entry that other users may write to is not used. The hashes guard against damage,
// not against people.
package store

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
)

// A Store keeps builds under keys, each of which names everything that a build is
// made from. It may be used by several goroutines and processes at once.
type Store interface {
	// Get makes the directory dir and puts the entry of key into it. It reports
	// whether there is one. If it reports false, it leaves no directory behind.
	Get(key, dir string) (bool, error)
	// Put makes parts the entry of key, in place of an earlier one. It maps the
	// names that Get uses, relative to its directory, to the paths of files and
	// directories.
	Put(key string, parts map[string]string) error
	// Tidy removes entries that are not worth keeping any longer.
	Tidy()
	// String returns where the store is, for people.
	String() string
}

// Dir is a Store in a local directory. It is for the user who owns the directory; others
// find nothing in it.
type Dir struct {
	Path string // empty for a store that is off
	// MaxSize is how many bytes all entries together may take after [Dir.Tidy].
	// 0 switches the store off: Get finds nothing, and Put keeps nothing.
	MaxSize int64
	// MaxAge is how long an entry may remain unused until [Dir.Tidy] removes it;
	// 0 means without limit.
	MaxAge time.Duration

	added atomic.Bool // by Put, since the last Tidy
}

const (
	format = "dkms-kernel-install build 1\n"
	// maxManifest bounds the third line, and maxContent the files' sizes together,
	// in bytes. An entry with more is damaged.
	maxManifest = 8 << 20
	maxContent  = 8 << 30
	// window bounds, in bytes, how far back a stream may refer, and so the memory
	// that reading it takes.
	window = 8 << 20
)

// manifest is the table of contents of an entry.
type manifest struct {
	Key   string
	Files []file
}

// file is one file of an entry. Its name is a path with slashes, relative to the
// directory that the entry is unpacked to.
type file struct {
	Name   string
	Size   int64
	SHA256 string
	Exec   bool `json:",omitempty"` // somebody may execute it
}

// errDamaged marks errors in an entry itself: [Dir.Get] removes such an entry.
var errDamaged = errors.New("the entry is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// validKey reports whether key is a hash in hex. It is the name of a file.
func validKey(key string) bool {
	return len(key) >= 32 && len(key) <= 128 && strings.Trim(key, "0123456789abcdef") == ""
}

func (d *Dir) path(key string) string { return filepath.Join(d.Path, key) }

func (d *Dir) String() string { return d.Path }

// off reports whether the store keeps nothing.
func (d *Dir) off() bool { return d.MaxSize <= 0 || d.Path == "" }

// usable returns an error unless the store is on and only this user may write to its
// directory. If make is set, it makes the directory if that is missing.
func (d *Dir) usable(make bool) error {
	if d.off() {
		return fs.ErrNotExist
	}
	if make {
		if err := os.MkdirAll(filepath.Dir(d.Path), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(d.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	fi, err := os.Lstat(d.Path)
	if err != nil {
		return err
	}
	if !fi.IsDir() || !ours(fi) {
		return fmt.Errorf("%s is not a directory that only this user may write to: remove it", d.Path)
	}
	return nil
}

// ours reports whether a file belongs to this user, and no other may write to it.
func ours(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid() && fi.Mode()&0o022 == 0
}

// Put implements [Store]. A directory in parts stands for all files below it. If one
// of them is not a regular file, or the entry is larger than MaxSize, Put returns an
// error. If the store is off, it keeps nothing and returns nil.
func (d *Dir) Put(key string, parts map[string]string) error {
	if d.off() {
		return nil
	}
	if !validKey(key) {
		return fmt.Errorf("%q is not a key", key)
	}
	if err := d.usable(true); err != nil {
		return err
	}
	m, paths, err := list(key, parts)
	if err != nil {
		return err
	}
	f, err := files.Create(d.path(key), 0o600, files.Options{})
	if err != nil {
		return err
	}
	if err := d.write(f, m, paths); err != nil {
		return errors.Join(err, f.Close())
	}
	d.added.Store(true)
	return f.Commit()
}

// list returns the manifest of the entry of key, and the path of each of its files.
func list(key string, parts map[string]string) (m manifest, paths []string, err error) {
	m.Key = key
	for _, top := range slices.Sorted(maps.Keys(parts)) {
		err := filepath.WalkDir(parts[top], func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(parts[top], p)
			if err != nil {
				return err
			}
			name := path.Join(top, rel)
			if !d.Type().IsRegular() {
				return fmt.Errorf("%s is not a regular file", name)
			}
			f, err := digest(p)
			f.Name = name
			m.Files, paths = append(m.Files, f), append(paths, p)
			return err
		})
		if err != nil {
			return m, nil, err
		}
	}
	return m, paths, m.check(key)
}

// digest returns the size, hash and mode of the file called path, without its name.
func digest(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return file{}, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	return file{Size: n, SHA256: hex.EncodeToString(h.Sum(nil)), Exec: fi.Mode()&0o111 != 0}, err
}

// write writes an entry to f: the manifest m and the files at paths.
func (d *Dir) write(f io.Writer, m manifest, paths []string) error {
	out := &limited{w: f, left: d.MaxSize}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) >= maxManifest {
		return fmt.Errorf("%d files are too many", len(m.Files))
	}
	if _, err := fmt.Fprintf(out, "%s%x\n%s\n", format, sha256.Sum256(text), text); err != nil {
		return err
	}
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(window/2))
	if err != nil {
		return err
	}
	for _, p := range paths {
		if err := pour(z, p); err != nil {
			return errors.Join(err, z.Close())
		}
	}
	return z.Close()
}

// pour copies the content of the file called path to w.
func pour(w io.Writer, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// limited is a writer that fails once more than left bytes are written.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= int64(len(b)); l.left < 0 {
		return 0, errors.New("it is larger than the whole cache may be")
	}
	return l.w.Write(b)
}

// Get implements [Store]. It compares every file with its hash. If the entry is
// damaged, Get removes it and reports false. If dir is there already, Get returns an
// error and leaves it as it is.
func (d *Dir) Get(key, dir string) (bool, error) {
	if !validKey(key) || d.usable(false) != nil {
		return false, nil
	}
	f, err := os.OpenFile(d.path(key), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, nil
	}
	defer f.Close()
	err = os.MkdirAll(filepath.Dir(dir), 0o755)
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return false, err
	}
	if err = unpack(f, key, dir); err == nil {
		now := time.Now()
		_ = os.Chtimes(d.path(key), now, now)
		return true, nil
	}
	if errors.Is(err, errDamaged) {
		os.Remove(d.path(key))
		err = nil
	}
	return false, errors.Join(err, os.RemoveAll(dir))
}

// Damaged returns the paths of the entries that are not whole, and what is wrong with them.
// They stay.
func (d *Dir) Damaged() map[string]error {
	found := map[string]error{}
	if d.usable(false) != nil {
		return found
	}
	entries, _ := os.ReadDir(d.Path)
	for _, e := range entries {
		f, err := os.OpenFile(d.path(e.Name()), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if !validKey(e.Name()) || err != nil {
			continue
		}
		if err := unpack(f, e.Name(), ""); errors.Is(err, errDamaged) {
			found[f.Name()] = err
		}
		f.Close()
	}
	return found
}

// unpack checks the entry f and writes its files below dir, unless that is empty.
func unpack(f *os.File, key, dir string) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || !ours(fi) {
		return damaged("it is not a file that only this user may write to")
	}
	in := bufio.NewReader(f)
	m, err := readManifest(in, key)
	if err != nil {
		return err
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return damaged("%v", err)
	}
	defer z.Close()
	extract := func(f file, z io.Reader) error { return f.copy(io.Discard, z) }
	if dir != "" {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer root.Close()
		extract = func(f file, z io.Reader) error { return f.extract(root, z) }
	}
	for _, file := range m.Files {
		if err := extract(file, z); err != nil {
			return err
		}
	}
	// The stream must end here, and the entry with it.
	if n, err := z.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return damaged("there is more in it than its manifest says")
	}
	return nil
}

// extract writes the file from the stream z, below root.
func (f file) extract(root *os.Root, z io.Reader) error {
	if err := root.MkdirAll(path.Dir(f.Name), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if f.Exec {
		mode = 0o755
	}
	out, err := root.OpenFile(f.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = f.copy(out, z)
	return errors.Join(err, out.Chmod(mode), out.Close())
}

// copy copies the content of the file from the stream z to out, and compares it with its hash.
func (f file) copy(out io.Writer, z io.Reader) error {
	h := sha256.New()
	in := &reading{r: io.LimitReader(z, f.Size)}
	n, err := io.Copy(io.MultiWriter(out, h), in)
	switch {
	case in.err != nil:
		return damaged("%s: %v", f.Name, in.err)
	case err == nil && (n != f.Size || hex.EncodeToString(h.Sum(nil)) != f.SHA256):
		return damaged("%s is not what it was", f.Name)
	}
	return err
}

// reading is a reader that keeps its error, to tell it from an error in writing.
type reading struct {
	r   io.Reader
	err error
}

func (r *reading) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// readManifest reads the three lines of the entry of key, and checks them.
func readManifest(r *bufio.Reader, key string) (m manifest, err error) {
	head := make([]byte, len(format)+2*sha256.Size+1)
	if _, err := io.ReadFull(r, head); err != nil || !bytes.HasPrefix(head, []byte(format)) || head[len(head)-1] != '\n' {
		return m, damaged("it is of another format")
	}
	var text []byte
	for {
		part, err := r.ReadSlice('\n')
		text = append(text, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) || len(text) > maxManifest {
			return m, damaged("it has no manifest")
		}
	}
	text = text[:len(text)-1]
	if fmt.Sprintf("%x", sha256.Sum256(text)) != string(head[len(format):len(head)-1]) {
		return m, damaged("its manifest is not what it was")
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, damaged("%v", err)
	}
	return m, m.check(key)
}

// check returns an error unless m can be the manifest of the entry of key: no name
// leads out of the directory, no file stands where another has its directory, and the
// files are not too large.
func (m manifest) check(key string) error {
	if m.Key != key {
		return damaged("it is of another key")
	}
	kind := map[string]string{}
	left := int64(maxContent)
	for _, f := range m.Files {
		if !fs.ValidPath(f.Name) || f.Name == "." || strings.ContainsAny(f.Name, "\x00\\") {
			return damaged("%q cannot be the name of a file in it", f.Name)
		}
		if kind[f.Name] != "" {
			return damaged("%q is in it twice", f.Name)
		}
		kind[f.Name] = "file"
		for dir := path.Dir(f.Name); dir != "."; dir = path.Dir(dir) {
			if kind[dir] == "file" {
				return damaged("%q is a file and a directory", dir)
			}
			kind[dir] = "directory"
		}
		if f.Size < 0 || f.Size > left {
			return damaged("%d bytes of %q are too many", f.Size, f.Name)
		}
		left -= f.Size
	}
	return nil
}

// tidied is the file in a store whose modification time is that of the last Tidy.
const tidied = ".tidied"

// Tidy removes the entries that are older than MaxAge, and those that were not used
// for the longest time until the rest takes no more than MaxSize. If the store is off,
// it removes all. It does nothing if Put has added nothing since the last Tidy, which
// is less than a day ago.
func (d *Dir) Tidy() {
	if d.Path == "" {
		return
	}
	last, err := os.Lstat(filepath.Join(d.Path, tidied))
	if !d.added.Swap(false) && d.MaxSize > 0 && err == nil && time.Since(last.ModTime()).Abs() < 24*time.Hour {
		return
	}
	if fi, err := os.Lstat(d.Path); err != nil || !fi.IsDir() || !ours(fi) {
		return
	}
	files.Clean(d.Path)
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return
	}
	type used struct {
		path string
		size int64
		last time.Time
	}
	var all []used
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && validKey(e.Name()) {
			all = append(all, used{d.path(e.Name()), fi.Size(), fi.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b used) int { return cmp.Or(b.last.Compare(a.last), strings.Compare(a.path, b.path)) })
	left := d.MaxSize
	for _, u := range all {
		left -= u.size
		// Another process may have removed it already, which is as good.
		if left < 0 || d.MaxAge > 0 && time.Since(u.last) > d.MaxAge {
			os.Remove(u.path)
		}
	}
	stamp := filepath.Join(d.Path, tidied)
	if d.MaxSize > 0 {
		// If it cannot be written, the next run tidies again.
		_ = files.Write(stamp, strings.NewReader(""), 0o600, files.Options{})
		return
	}
	os.Remove(stamp)
	os.Remove(d.Path)
}
