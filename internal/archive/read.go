// SPDX-License-Identifier: GPL-2.0-or-later

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/codec"
)

const (
	// MaxBytes is how many bytes an archive may unpack to. The largest packages
	// have sources of some hundred megabytes, and modules of as much for each
	// kernel.
	MaxBytes = 4 << 30

	// MaxEntries is how many files and directories an archive may have. The source
	// of the kernel itself has fewer.
	MaxEntries = 100_000

	// blockSize is that of tar.
	blockSize = 512

	// maxName is the length in bytes that a path in an archive may have: it
	// gets longer by the directory that it goes to, and the system takes 4096.
	maxName = 1024

	// maxDepth is how many directories deep a path may lead; each costs time for
	// each file in it.
	maxDepth = 100

	// maxNameFile is the size in bytes of the files that hold a name.
	maxNameFile = 1024
)

// limits are what one archive may take.
type limits struct {
	bytes   int64
	entries int
}

// Contents is what an archive holds. Paths of an unpacked one are relative to the
// directory that it was unpacked to.
type Contents struct {
	// Source is the directory of the package's source; empty in an archive of
	// binaries alone.
	Source string
	// Name and Version are the package's, and Conf the path of its dkms.conf. Only
	// an archive of binaries alone has them.
	Name, Version, Conf string
	// Binaries of an unpacked archive are sorted by release, then architecture.
	Binaries []Binaries
}

// Binaries are what a package's build for one kernel made.
type Binaries struct {
	Release, Arch string
	Dir           string
}

// Extract unpacks the archive in the size bytes of r to the directory dir, which is
// empty, and tells what it holds. It makes directories, files and symbolic links, of
// which none leads out of the source; all belong to the caller, no one else can
// write to them, and their times are the archive's. Whatever else an archive
// may hold is an error, as is one that is damaged or larger than [MaxBytes] or
// [MaxEntries]. Nothing is written outside of dir; what is in it after an error
// is for the caller to delete.
func Extract(ctx context.Context, r io.ReaderAt, size int64, dir *os.Root) (Contents, error) {
	return extract(ctx, r, size, dir, limits{MaxBytes, MaxEntries})
}

func extract(ctx context.Context, r io.ReaderAt, size int64, dir *os.Root, l limits) (Contents, error) {
	data, err := decompress(r, size)
	if err != nil {
		return Contents{}, fmt.Errorf("it is damaged: %w", err)
	}
	defer data.Close()
	in := &input{ctx: ctx, r: data, left: l.bytes, max: l.bytes}
	x := extractor{
		in: in, tar: tar.NewReader(in), dir: dir, limits: l, left: l,
		directories: map[string]time.Time{}, files: map[string]bool{}, links: map[string]string{},
	}
	if err := x.all(); err != nil {
		return Contents{}, err
	}
	c, err := x.contents()
	if err == nil {
		err = x.finish(c)
	}
	return c, err
}

// maxWindow is how many bytes of memory a decoder may use: xz -9 wants so much.
const maxWindow = 64 << 20

// compressions are those that archives may have. A tar may begin as data of others do.
var compressions = []codec.Compression{codec.Gzip, codec.XZ, codec.Zstd, codec.Bzip2}

// decompress returns a reader of what the archive in r is when unpacked.
func decompress(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	head := make([]byte, codec.MaxMagic)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return codec.NewReader(r, size, codec.Detect(head[:n], compressions...), maxWindow)
}

// errSize is why an archive is not read to its end.
type errSize int64

func (max errSize) Error() string { return fmt.Sprintf("it unpacks to more than %d bytes", int64(max)) }

// input is the unpacked archive.
type input struct {
	ctx   context.Context
	r     io.Reader
	left  int64 // bytes that may still come
	max   int64 // bytes that might come at first
	zeros int   // how many zeros came last
}

func (in *input) Read(p []byte) (int, error) {
	if err := context.Cause(in.ctx); err != nil {
		return 0, err
	}
	n, err := in.r.Read(p)
	if n > 0 {
		text := len(bytes.TrimRight(p[:n], "\x00"))
		if text > 0 {
			in.zeros = 0
		}
		in.zeros += n - text
	}
	if in.left -= int64(n); in.left < 0 {
		return n, errSize(in.max)
	}
	return n, err
}

// extractor unpacks one archive. The keys of its maps are clean paths.
type extractor struct {
	in          *input
	tar         *tar.Reader
	dir         *os.Root
	limits      limits
	left        limits
	directories map[string]time.Time // with their times, if the archive has them
	files       map[string]bool
	links       map[string]string // symbolic links, which are made last
}

// all unpacks all entries but symbolic links.
func (x *extractor) all() error {
	for {
		h, err := x.tar.Next()
		switch {
		case err == nil, errors.Is(err, tar.ErrInsecurePath): // it is looked at below
			if err := x.entry(h); err != nil {
				return fmt.Errorf("%.300q: %w", h.Name, err)
			}
		case err != io.EOF:
			return x.damaged(err)
		case x.in.left == x.in.max:
			return errors.New("it is empty")
		case x.in.zeros < blockSize:
			// A block of zeros is what ends an archive.
			return x.damaged(io.ErrUnexpectedEOF)
		default:
			// The checksums of compressed data come after it.
			_, err := io.Copy(io.Discard, x.in)
			return x.damaged(err)
		}
	}
}

// damaged makes an error of what reading the archive ended with.
func (x *extractor) damaged(err error) error {
	if err == nil {
		return nil
	}
	if err := context.Cause(x.in.ctx); err != nil {
		return err
	}
	var size errSize
	var file *fs.PathError
	switch {
	case errors.As(err, &size):
		return size
	case errors.As(err, &file):
		return err // the disk's fault
	case x.left.entries == x.limits.entries:
		return errors.New("it is not a tar archive, or a damaged one")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it is damaged: it ends too early")
	}
	return fmt.Errorf("it is damaged: %w", err)
}

// entry unpacks one entry.
func (x *extractor) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment, as git leaves it
	}
	if err := x.count(); err != nil {
		return err
	}
	name, err := local(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return x.directory(name, h.ModTime)
	}
	if name == "." {
		return errors.New("the archive's top is no directory")
	}
	if err := x.free(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return x.file(name, h, h.Size, x.tar)
	case tar.TypeLink:
		return x.hardLink(name, h)
	case tar.TypeSymlink:
		if leadsOut(name, h.Linkname) {
			return fmt.Errorf("it is a symbolic link to %.300q, which may lead out of the archive", h.Linkname)
		}
		x.links[name] = h.Linkname
		return nil
	case tar.TypeChar, tar.TypeBlock:
		return errors.New("it is a device")
	case tar.TypeFifo:
		return errors.New("it is a FIFO")
	}
	return fmt.Errorf("it is of an unknown type, %q", h.Typeflag)
}

// count counts something that is unpacked.
func (x *extractor) count() error {
	if x.left.entries--; x.left.entries < 0 {
		return fmt.Errorf("the archive has more than %d entries", x.limits.entries)
	}
	return nil
}

// local makes a clean path of a name in an archive, and refuses one that is not
// below the archive's top.
func local(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("it has no name")
	case strings.Count(name, "/") > maxDepth:
		return "", fmt.Errorf("it is more than %d directories deep", maxDepth)
	case len(name) > maxName:
		return "", fmt.Errorf("its name has more than %d bytes", maxName)
	case strings.HasPrefix(name, "/"):
		return "", errors.New("its name is an absolute path")
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", errors.New(`its name has a ".." in it`)
	case strings.Contains(name, "\x00"):
		return "", errors.New("its name has a NUL in it")
	}
	return path.Clean(name), nil
}

// free makes the directories that name is in, and refuses a name that is there
// already.
func (x *extractor) free(name string) error {
	if _, ok := x.directories[name]; ok || x.taken(name) {
		return errors.New("the archive has it twice")
	}
	return x.directory(path.Dir(name), time.Time{})
}

// taken reports whether name is one of something that is not a directory.
func (x *extractor) taken(name string) bool {
	_, link := x.links[name]
	return link || x.files[name]
}

// directory makes a directory and those that it is in. The archive may have it
// several times.
func (x *extractor) directory(name string, mtime time.Time) error {
	if name == "." {
		return nil
	}
	_, there := x.directories[name]
	if !there {
		if x.taken(name) {
			return fmt.Errorf("%.300q is a directory, and something else before", name)
		}
		if err := x.directory(path.Dir(name), time.Time{}); err != nil {
			return err
		}
		if err := x.count(); err != nil {
			return err // not every directory is an entry of its own
		}
		if err := x.dir.Mkdir(name, 0o755); err != nil {
			return err
		}
	}
	if !there || !mtime.IsZero() {
		x.directories[name] = mtime
	}
	return nil
}

// file makes a file of size bytes of content.
func (x *extractor) file(name string, h *tar.Header, size int64, content io.Reader) error {
	if h.FileInfo().Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return errors.New("it is a file that runs as another user or group (setuid, setgid)")
	}
	if size > x.left.bytes {
		return errSize(x.limits.bytes)
	}
	x.left.bytes -= size
	f, err := x.dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	x.files[name] = true
	// Not more than was said, and not less.
	n, err := io.CopyN(f, content, size)
	if err != nil && n < size {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		f.Close()
		return x.damaged(err)
	}
	// Nobody else may write, and its owner may read.
	mode := h.FileInfo().Mode()&0o755 | 0o600
	if strings.HasPrefix(name, mainTree+"/") {
		mode = 0o644
		if path.Base(path.Dir(name)) == "log" {
			mode = 0o640 // as builds here leave it
		}
	}
	if err := errors.Join(f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return x.setTime(name, h.ModTime)
}

// hardLink makes a copy of a file that was unpacked before.
func (x *extractor) hardLink(name string, h *tar.Header) error {
	to, err := local(h.Linkname)
	if err != nil || !x.files[to] {
		return fmt.Errorf("it is a link to %.300q, which is not a file of the archive", h.Linkname)
	}
	f, err := x.dir.Open(to)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return x.file(name, h, fi.Size(), f)
}

// setTime sets the time of a file. One in the future would confuse make.
func (x *extractor) setTime(name string, t time.Time) error {
	if now := time.Now(); t.After(now) {
		t = now
	}
	if epoch := time.Unix(0, 0); t.Before(epoch) {
		t = epoch
	}
	return x.dir.Chtimes(name, t, t)
}

// contents tells what was unpacked.
func (x *extractor) contents() (c Contents, err error) {
	if _, ok := x.directories[mainTree]; !ok {
		if c.Source = x.onlySource(); c.Source == "" {
			return c, errors.New("it is not an archive of a package: it has no dkms.conf at its top, and none in exactly one directory there")
		}
		return c, nil
	}
	switch {
	case x.files[sourceTree+"/"+confFile]:
		c.Source = sourceTree
	case x.files[binariesOnly+"/"+nameFile] && x.files[binariesOnly+"/"+versionFile]:
		if c.Name, err = x.line(binariesOnly + "/" + nameFile); err != nil {
			return c, err
		}
		if c.Version, err = x.line(binariesOnly + "/" + versionFile); err != nil {
			return c, err
		}
		if x.files[binariesOnly+"/"+confFile] {
			c.Conf = binariesOnly + "/" + confFile
		}
	default:
		return c, fmt.Errorf("it is not an archive of a package: it has %s, but neither %s/%s nor %s/%s", mainTree, sourceTree, confFile, binariesOnly, nameFile)
	}
	for _, name := range slices.Sorted(maps.Keys(x.directories)) {
		if parts := strings.Split(name, "/"); len(parts) == 3 && parts[0] == mainTree {
			c.Binaries = append(c.Binaries, Binaries{Release: parts[1], Arch: parts[2], Dir: name})
		}
	}
	return c, nil
}

// onlySource returns the directory of the source in an archive that has nothing
// else; "" where there is none, or more than one.
func (x *extractor) onlySource() (dir string) {
	if x.files[confFile] {
		return "."
	}
	for name := range x.files {
		if path.Base(name) == confFile && strings.Count(name, "/") == 1 {
			if dir != "" {
				return ""
			}
			dir = path.Dir(name)
		}
	}
	return dir
}

// line returns the first line of an unpacked file.
func (x *extractor) line(name string) (string, error) {
	f, err := x.dir.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNameFile))
	first, _, _ := strings.Cut(string(text), "\n")
	return first, err
}

// finish makes the symbolic links and sets the times of directories.
func (x *extractor) finish(c Contents) error {
	for _, name := range slices.Sorted(maps.Keys(x.links)) {
		inSource, ok := strings.CutPrefix(name, c.Source+"/")
		if c.Source == "." {
			inSource, ok = name, true
		}
		if !ok || c.Source == "" {
			return fmt.Errorf("%.300q: it is a symbolic link outside of the source", name)
		}
		if leadsOut(inSource, x.links[name]) {
			return fmt.Errorf("%.300q: it is a symbolic link to %.300q, which may lead out of the source", name, x.links[name])
		}
		if err := x.dir.Symlink(x.links[name], name); err != nil {
			return err
		}
	}
	for name, mtime := range x.directories {
		if mtime.IsZero() {
			continue
		}
		if err := x.setTime(name, mtime); err != nil {
			return err
		}
	}
	return nil
}
