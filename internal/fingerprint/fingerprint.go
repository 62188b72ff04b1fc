// Package fingerprint tells whether a build is still what would be built now: it
// names what goes into a build by content, and keeps that name beside the build.
// A fingerprint holds no times, inodes, paths or host names: two machines with
// the same source, headers and compiler come to the same one.
package fingerprint

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/tree"
)

// Build names what went into one build.
type Build struct {
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
func (was Build) Differs(now Build) string {
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
		if was.Depends[name] != now.Depends[name] {
			parts = append(parts, name)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, " and ") + " changed since it was built"
}

// String is one short word for all of b.
func (b Build) String() string {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// keyRules counts the changes to what a key names.
const keyRules = 1

// Key names a build completely: b, and what this machine makes of it, as effective
// tells, which is written as JSON. Two builds with the same key have the same
// result. It is of no use for [Build.Differs]: what a conf evaluates to may change
// with each boot.
func Key(b Build, effective ...any) (string, error) {
	text, err := json.Marshal(struct {
		Rules     int
		Build     Build
		Effective []any
	}{keyRules, b, effective})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Outside returns the files that symbolic links below the folders paths lead to
// outside of them, which [Cache.Source] does not read. It reports false where
// there is more that builds may read and Source does not: folders outside, files
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

// file is the record's name in the folder of a build. The classic command does
// not look at it, and removes it with the build.
const file = ".fingerprint.json"

// record is how a Build is kept. Modules says which files it is about: somebody
// else may have built anew and left the record.
type record struct {
	Build   Build
	Modules map[string]string
}

// Read returns what the build in dir, a folder K/A of the tree, was made from; ok
// is false where nobody recorded it.
func Read(dir string) (b Build, ok bool) {
	var r record
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil || json.Unmarshal(text, &r) != nil {
		return Build{}, false
	}
	modules, err := modules(dir)
	return r.Build, err == nil && maps.Equal(modules, r.Modules)
}

// Write records what the build in dir was made from.
func Write(dir string, b Build) error {
	modules, err := modules(dir)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(record{b, modules}, "", "\t")
	if err != nil {
		return err
	}
	// Under a name that the next run cleans away. A record that is lost or
	// damaged is as good as none.
	tmp := filepath.Join(dir, tree.TempName(file))
	if err := os.WriteFile(tmp, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, file))
}

// modules returns the stamps of the modules in the build in dir, by file name.
// They are not the modules' hashes: reading all of them would take longer than
// everything else that a run does which finds nothing to do.
func modules(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "module"))
	if err != nil {
		return nil, err
	}
	stamps := map[string]string{}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		stamps[e.Name()] = fmt.Sprintf("%d bytes of %d", fi.Size(), fi.ModTime().UnixNano())
	}
	return stamps, nil
}

// walk calls visit for every file and symbolic link below dir, in order of their
// names. What is neither, and the folders of version control, which change when
// somebody looks at them, are passed over.
func walk(dir string, visit func(rel string, path string, fi fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != dir && slices.Contains(versionControl, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() && d.Type() != fs.ModeSymlink {
			return nil
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went just now
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		return cmp.Or(err, visit(rel, path, fi))
	})
}
