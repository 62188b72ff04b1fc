// SPDX-License-Identifier: GPL-2.0-or-later

// Package fingerprint names what goes into a build by its content, and keeps that
// name beside the build, to find out whether the same would be built now. A
// fingerprint holds no times, inodes or host names, and paths only if they are
// settings: machines with the same source, settings, headers and compiler get the
// same one.
package fingerprint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/rules"
)

// Fingerprint names what went into one build.
type Fingerprint struct {
	// Rules is the number of changes so far to what this program does to a module,
	// [rules.Build].
	Rules int
	// Source is the hash of the package's source, and of its directory in
	// /etc/dkms, which has patches.
	Source string
	// Settings begins with the hash of the files that override the package's
	// dkms.conf. The other settings that shape its build follow.
	Settings string
	// Headers is the hash of the kernel's headers; "" if there are none.
	Headers string
	// Compiler is what the compiler, and the programs that MAKE and the build's
	// environment name, print as their versions.
	Compiler string
	// Depends has, for each name in BUILD_DEPENDS, the version of the package that
	// is installed. After a space follows the short form of that build's
	// fingerprint, if there is one.
	Depends map[string]string
	// Signer names the certificate whose key has signed the modules; empty if none has,
	// or if nobody knows.
	Signer string `json:",omitempty"`
}

// OtherSigner reports whether the modules are signed, and now is signed with another key.
func (was Fingerprint) OtherSigner(now Fingerprint) bool {
	return was.Signer != "" && now.Signer != "" && was.Signer != now.Signer
}

// Differs returns, for people, which parts of was differ from now; "" if none do.
func (was Fingerprint) Differs(now Fingerprint) string {
	var parts []string
	for _, p := range []struct {
		name  string
		other bool
	}{
		{"its source", was.Source != now.Source},
		{"its settings", was.Settings != now.Settings},
		{"the kernel's headers", was.Headers != now.Headers},
		{"the compiler", was.Compiler != now.Compiler},
		{"this program", was.Rules != now.Rules},
	} {
		if p.other {
			parts = append(parts, p.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.Depends)) {
		// A version alone comes from a build without a fingerprint.
		if before, after := was.Depends[name], now.Depends[name]; before != after && !strings.HasPrefix(before, after+" ") {
			parts = append(parts, name)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, " and ") + " changed since it was built"
}

// String returns a short hash of b, of 16 hex digits.
func (b Fingerprint) String() string {
	b.Signer = "" // what is built is the same
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Key returns the key under which the result of a build is stored, a SHA-256 in hex.
// It covers b and effective, values that become JSON: what dkms.conf and the settings
// come to on this machine. Builds with the same key have the same result. Effective is
// not part of a Fingerprint because it may change with each boot, and a build must not
// become stale by that.
func Key(b Fingerprint, effective ...any) (string, error) {
	text, err := json.Marshal(struct {
		Rules     int
		Build     Fingerprint
		Effective []any
	}{rules.Key, b, effective})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Outside returns the files outside each of the directories paths that symbolic links
// in it lead to by absolute paths: [Hashes.Source] does not read them. Whole reports
// whether those are all that a build may read and Source does not. It is false if there
// are other links to the outside, such as to directories or to files that do not exist
// yet, or records of version control, which some builds take their version from.
func Outside(paths ...string) (files []string, whole bool) {
	whole = true
	for _, top := range paths {
		real, err := filepath.EvalSymlinks(top)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				if slices.Contains(versionControl, d.Name()) && path != top {
					return errOutside
				}
				if d.Type() != fs.ModeSymlink {
					return nil
				}
				file, err := outside(top, real, path)
				if file != "" {
					files = append(files, file)
				}
				return err
			})
		}
		whole = whole && err == nil
	}
	slices.Sort(files)
	return slices.Compact(files), whole
}

var errOutside = errors.New("it leads out of the source")

// outside returns the file outside of the directory top that the symbolic link at path,
// below top, leads to; "" if it leads to something below top. Real is top without
// links. It returns an error if the link leads to anything else, or may lead elsewhere
// from the copy of top that is built.
func outside(top, real, path string) (string, error) {
	to, err := os.Readlink(path)
	if err != nil {
		return "", err
	}
	if filepath.IsAbs(to) {
		// Not cleaned by itself: what is before a ".." may be a link.
		if to, err = filepath.EvalSymlinks(path); err != nil {
			return "", err
		}
		if files.Below(real, to) {
			return "", nil
		}
		if fi, err := os.Stat(to); err != nil || !fi.Mode().IsRegular() {
			return "", errOutside
		}
		return to, nil
	}
	dir, err := filepath.Rel(top, filepath.Dir(path))
	if err != nil {
		return "", err
	}
	// Nor here: a ".." is what it seems only at the beginning.
	if slices.Contains(strings.Split(strings.TrimLeft(to, "./"), "/"), "..") || !filepath.IsLocal(filepath.Join(dir, to)) {
		return "", errOutside
	}
	return "", nil
}

var versionControl = []string{".git", ".hg", ".svn"}

// file is the name of the record in a build's directory. The classic dkms does not
// read it, and removes it with the build.
const file = ".fingerprint.json"

// record is the JSON form in which a Fingerprint is kept. Modules has the stamps of the
// modules that it is for: another program may have replaced them, and left the record. Sums
// has the SHA-256 sums of all files beside them, too, for those who have the time to look for
// damage.
// While those of a new build are not in place, Was is the record of the ones that are.
type record struct {
	Build   Fingerprint
	Modules map[string]string
	Sums    map[string]string `json:",omitempty"`
	Was     *record           `json:",omitempty"`
}

// File returns the path of the record of the build in dir.
func File(dir string) string { return filepath.Join(dir, file) }

// Read returns the fingerprint that [Write] recorded for the build in dir, a directory
// K/A of the tree, whose modules are in the files called modules. It reports false if
// there is no record, or if the record is for other modules.
func Read(dir string, modules []string) (Fingerprint, bool) {
	r := read(dir)
	if r == nil {
		return Fingerprint{}, false
	}
	for _, name := range modules {
		if _, ok := r.Modules[name]; !ok {
			return Fingerprint{}, false
		}
	}
	return r.Build, true
}

// read returns the record of the modules that are in place in dir; nil if there is none.
func read(dir string) *record {
	last, ok := files.ReadState[record](File(dir))
	if !ok {
		return nil
	}
	for r := &last; r != nil; r = r.Was {
		content := !slices.ContainsFunc(slices.Collect(maps.Values(r.Modules)), isTime)
		if now, err := stamps(filepath.Join(dir, "module"), slices.Collect(maps.Keys(r.Modules)), content); err == nil && maps.Equal(now, r.Modules) {
			r.Was = nil
			return r
		}
	}
	return nil
}

// Write records f as the fingerprint of the build in dir, a directory K/A of the tree,
// whose modules are in the files called modules in the directory at: that of its modules,
// or one that is about to take its place. In an image, times are not those that the modules
// will have: then the record knows them by their content.
func Write(dir, at string, f Fingerprint, modules []string, image bool) error {
	now, err := stamps(at, modules, image)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	sums := map[string]string{}
	for _, e := range entries {
		if sum := files.Sum(filepath.Join(at, e.Name())); sum != "" {
			sums[e.Name()] = sum
		}
	}
	return files.WriteState(File(dir), record{f, now, sums, read(dir)}, files.Options{})
}

// Whole reports whether the record of the build in dir can be read.
func Whole(dir string) bool {
	_, ok := files.ReadState[record](File(dir))
	return ok
}

// Sums returns the SHA-256 sums, in hex, that the files in the directory module of the build in
// dir had when it was recorded, by name; nil if that is not known. Theirs reports whether
// another program may have replaced them since: sizes or times differ.
func Sums(dir string) (sums map[string]string, theirs bool) {
	if r := read(dir); r != nil {
		return r.Sums, false
	}
	last, _ := files.ReadState[record](File(dir))
	return last.Sums, true
}

const ofTime = " bytes of "

// isTime reports whether stamp has the size and the modification time of a module.
func isTime(stamp string) bool { return strings.Contains(stamp, ofTime) }

// stamps returns the size and the modification time of each of the modules called names in
// the directory dir, or its SHA-256 sum if content is set. A sum is safer, but reading all
// modules takes longer than the rest of a run that finds nothing to do.
func stamps(dir string, names []string, content bool) (map[string]string, error) {
	list := map[string]string{}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		list[name] = strconv.FormatInt(st.Size, 10) + ofTime + strconv.FormatInt(st.Mtim.Nano(), 10)
		if content {
			list[name] = files.Sum(filepath.Join(dir, name))
		}
	}
	return list, nil
}

// visitor is called with a file or symbolic link: its path relative to the top of the
// walk, its whole path, and its status.
type visitor func(rel, path string, st *unix.Stat_t) error

// walk calls visit for every regular file and symbolic link below dir, each directory
// in order of the names. If dir is a file, or a link to one, walk calls visit for that
// alone, with the name ".". Directories of version control, which may change when they
// are only looked at, are passed over. A dir that does not exist is empty.
func walk(dir string, visit visitor) error {
	fd, err := files.Open(unix.AT_FDCWD, dir)
	switch {
	case err == nil:
		return walkDir(fd, dir, "", visit)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, unix.ENOTDIR):
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if isFile(&st) {
		return visit(".", dir, &st)
	}
	return nil
}

func isFile(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }
func isLink(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFLNK }

// walkDir is walk for the open directory fd, which it closes. Its path is dir. Its path
// relative to the top is rel, which is empty or ends in a slash.
func walkDir(fd int, dir, rel string, visit visitor) error {
	defer unix.Close(fd)
	entries, err := files.List(fd)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path, rel := dir+"/"+e.Name, rel+e.Name
		switch e.Kind {
		case unix.DT_DIR:
			if !slices.Contains(versionControl, e.Name) {
				var sub int
				if sub, err = files.Open(fd, e.Name); err == nil {
					err = walkDir(sub, path, rel+"/", visit)
				}
			}
		case unix.DT_REG, unix.DT_LNK:
			var st unix.Stat_t
			err = unix.Fstatat(fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was removed just now
			}
			if err != nil {
				return &fs.PathError{Op: "lstat", Path: path, Err: err}
			}
			if isFile(&st) || isLink(&st) {
				err = visit(rel, path, &st)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
