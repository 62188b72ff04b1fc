// SPDX-License-Identifier: GPL-2.0-or-later

// Package fingerprint reports whether a build is still what would be built now: it
// names what goes into a build by content, and keeps that name beside the build.
// A fingerprint holds no times, inodes, paths or host names: two machines with
// the same source, headers and compiler come to the same one.
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
	// Rules counts the changes to what this program itself does to a module.
	Rules int
	// Source is of the package's source, patches and scripts, Settings of what
	// overrides its dkms.conf, Headers of the kernel's headers; each a hash.
	Source, Settings, Headers string
	// Compiler is what the kernel's compiler calls itself.
	Compiler string
	// Depends are, by the names in BUILD_DEPENDS, the versions of those
	// packages and what they in turn were built from.
	Depends map[string]string
}

// Differs says which parts of was are otherwise in now, for a person to read; ""
// where none is.
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
		// A version alone is of a build that nobody recorded.
		if before, after := was.Depends[name], now.Depends[name]; before != after && !strings.HasPrefix(before, after+" ") {
			parts = append(parts, name)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, " and ") + " changed since it was built"
}

// String is one short word for all of b.
func (b Fingerprint) String() string {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Key names a build completely: b, and what this machine makes of it, as effective
// tells, which is written as JSON. Two builds with the same key have the same
// result. It is of no use for [Fingerprint.Differs]: what a conf evaluates to may change
// with each boot.
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

// Outside returns the files that symbolic links below the directories paths lead to
// outside of them, which [Hashes.Source] does not read. It reports false where
// there is more that builds may read and Source does not: directories outside, files
// that may come to be there, or the records of version control, which some take
// their version from.
func Outside(paths ...string) (files []string, whole bool) {
	whole = true
	for _, top := range paths {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if slices.Contains(versionControl, d.Name()) && path != top {
				whole = false
				return fs.SkipAll
			}
			if d.Type() != fs.ModeSymlink {
				return nil
			}
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			abs := filepath.IsAbs(to)
			if !abs {
				to = filepath.Join(filepath.Dir(path), to)
			}
			if to == top || strings.HasPrefix(to, top+"/") {
				return nil
			}
			// A relative one leads elsewhere from where the source is built.
			fi, err := os.Stat(to)
			if err != nil || !abs || !fi.Mode().IsRegular() {
				whole = false
				return fs.SkipAll
			}
			files = append(files, to)
			return nil
		})
		whole = whole && err == nil
	}
	slices.Sort(files)
	return slices.Compact(files), whole
}

var versionControl = []string{".git", ".hg", ".svn"}

// file is the record's name in the directory of a build. The classic command does
// not look at it, and removes it with the build.
const file = ".fingerprint.json"

// record is how a Fingerprint is kept. Modules says which files it is about: somebody
// else may have built again and left the record.
type record struct {
	Build   Fingerprint
	Modules map[string]string
}

// Read returns what the build in dir, a directory K/A of the tree, was made from,
// whose modules are in the files called modules. It reports false if that is not
// recorded, or the record is of other modules.
func Read(dir string, modules []string) (Fingerprint, bool) {
	r, ok := files.ReadState[record](filepath.Join(dir, file))
	if !ok {
		return Fingerprint{}, false
	}
	for _, name := range modules {
		if _, ok := r.Modules[name]; !ok {
			return r.Build, false
		}
	}
	for name, was := range r.Modules {
		if now, err := stampOfModule(dir, name); err != nil || now != was {
			return r.Build, false
		}
	}
	return r.Build, true
}

// Write records that the build in dir, a directory K/A of the tree, was made from
// f. Its modules are in the files called modules.
func Write(dir string, f Fingerprint, modules []string) error {
	r := record{Build: f, Modules: map[string]string{}}
	for _, name := range modules {
		var err error
		if r.Modules[name], err = stampOfModule(dir, name); err != nil {
			return err
		}
	}
	return files.WriteState(filepath.Join(dir, file), r, files.Options{})
}

// stampOfModule returns what changes with a module in the build in dir. It is not
// a hash: to read all modules would take longer than everything else that a run
// does which finds nothing to do.
func stampOfModule(dir, name string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "module", name), &st); err != nil {
		return "", &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return strconv.FormatInt(st.Size, 10) + " bytes of " + strconv.FormatInt(st.Mtim.Nano(), 10), nil
}

// visitor is told of a file or symbolic link: its path below the top of a walk, its
// whole path, and what it is.
type visitor func(rel, path string, st *unix.Stat_t) error

// walk calls visit for every file and symbolic link below dir, in order of their
// names, or for dir itself, called ".", where it is, or leads to, a file. What is
// neither, and the directories of version control, which change when somebody looks at
// them, are passed over; so is a dir that does not exist.
func walk(dir string, visit visitor) error {
	fd, err := files.Open(unix.AT_FDCWD, dir)
	switch {
	case err == nil:
		return walkFolder(fd, dir, "", visit)
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

// walkFolder is walk for the open directory fd, which it closes, whose path is dir and
// whose path below the top ends in a slash, where it is not empty.
func walkFolder(fd int, dir, rel string, visit visitor) error {
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
					err = walkFolder(sub, path, rel+"/", visit)
				}
			}
		case unix.DT_REG, unix.DT_LNK:
			var st unix.Stat_t
			err = unix.Fstatat(fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it went just now
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
