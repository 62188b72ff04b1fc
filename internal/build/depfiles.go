// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
)

// maxDepfile and maxDepfiles are more, in bytes, than one depfile and all of a build
// have.
const maxDepfile, maxDepfiles = 16 << 20, 512 << 20

// unnamed returns why Key does not name all that the build read, as far as its
// depfiles tell; nil if it does. A depfile is what kbuild (.NAME.o.cmd) and compilers
// (NAME.d) leave beside an object: it lists the sources and headers that the object was
// made from.
func (j *job) unnamed(ctx context.Context) error {
	v, err := j.view()
	if err != nil {
		return err
	}
	r := &readFiles{names: j.Names, view: v, known: map[string]bool{}}
	left := int64(maxDepfiles)
	found := false
	err = files.Walk(ctx, j.staging.build, func(at int, name string, st *unix.Stat_t) error {
		kbuild := strings.HasSuffix(name, ".cmd")
		if st.Mode&unix.S_IFMT != unix.S_IFREG || !kbuild && !strings.HasSuffix(name, ".d") {
			return nil
		}
		if left -= st.Size; st.Size > maxDepfile || left < 0 {
			return fmt.Errorf("%s is too large for a depfile", name)
		}
		text, dir, err := readDepfile(at, name)
		if err != nil {
			return err
		}
		rules := dependencies(text, kbuild)
		found = found || len(rules) > 0
		for _, rule := range rules {
			if err := r.check(rule, move(dir, v.copy, v.build), j.Kernel.SourceDir); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && !found && len(j.Conf.Modules) > 0 {
		err = errors.New("it left no depfiles, which tell what it read")
	}
	return err
}

// readDepfile returns the text of the file called name in the open directory at, and
// the path of the directory. The build made both.
func readDepfile(at int, name string) (text, dir string, err error) {
	f, err := openAt(at, name)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDepfile))
	if err != nil {
		return "", "", err
	}
	dir, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", at))
	return string(b), dir, err
}

// openAt opens the file called name in the open directory at, but follows no symbolic link
// and waits for nobody.
func openAt(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// rule is what a depfile says of one object.
type rule struct {
	target string
	deps   []string
}

// dependencies returns what a depfile says, which is of kbuild's kind or a compiler's.
func dependencies(text string, kbuild bool) (rules []rule) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		target, deps, ok := strings.Cut(line, ":")
		if kbuild {
			// Other lines have commands, or refer to these.
			target, deps, ok = strings.Cut(line, " := ")
			name, isDeps := strings.CutPrefix(target, "deps_")
			if !isDeps {
				name, isDeps = strings.CutPrefix(target, "source_")
			}
			target, ok = name, ok && isDeps
		}
		if r := (rule{strings.TrimSpace(target), words(deps)}); ok && len(r.deps) > 0 {
			rules = append(rules, r)
		}
	}
	return rules
}

// words splits s, and leaves out what make is to expand: the options of the kernel's
// configuration that count, as $(wildcard include/config/OPTION).
func words(s string) (list []string) {
	inside := false
	for word := range strings.FieldsSeq(s) {
		if inside = inside || strings.HasPrefix(word, "$("); inside {
			inside = !strings.HasSuffix(word, ")")
			continue
		}
		list = append(list, word)
	}
	return list
}

// readFiles checks whether what a build read has a name.
type readFiles struct {
	names func(path string) bool
	view  *view
	known map[string]bool
}

// check returns an error unless the build made, or the key names, all that r says. The
// depfile is in dir. Objects with an absolute path were made in the directory headers
// of the kernel, others in a directory of the build.
func (f *readFiles) check(r rule, dir, headers string) error {
	base := headers
	if !filepath.IsAbs(r.target) {
		base = strings.TrimSuffix(dir, "/"+filepath.Dir(filepath.Clean(r.target)))
	}
	for _, dep := range r.deps {
		if !filepath.IsAbs(dep) {
			dep = base + "/" + dep
		}
		if f.known[dep] {
			continue
		}
		path, err := f.view.real(dep, 0)
		if err != nil {
			return fmt.Errorf("nobody knows what was in %s, which it read", dep)
		}
		if !files.Below(f.view.build, path) && !f.names(path) {
			return fmt.Errorf("it read %s", path)
		}
		f.known[dep] = true
	}
	return nil
}

// view is the file system as commands of a build see it. Paths in it are called seen
// here, and those by which this process finds the same files, host. They differ for the
// build directory alone; what commands keep in /tmp, nobody can tell later.
type view struct {
	build string            // the build directory, as seen
	copy  string            // the same, host
	links map[string]string // what real returned
}

func (j *job) view() (*view, error) {
	// What is there only for the build cannot be followed here.
	build, err := filepath.EvalSymlinks(j.Tree.PackageDir(j.ID))
	if err != nil {
		return nil, err
	}
	copy, err := filepath.EvalSymlinks(j.staging.build)
	return &view{filepath.Join(build, filepath.Base(j.Tree.BuildDir(j.ID))), copy, map[string]string{}}, err
}

// move returns the clean path below to that corresponds to path below from; path, if it
// is not below.
func move(path, from, to string) string {
	if !files.Below(from, path) {
		return path
	}
	return to + strings.TrimPrefix(path, from)
}

// maxLinks is how many symbolic links one may lead to in turn, as for the kernel.
const maxLinks = 40

// real returns the absolute path, as seen, clean and without symbolic links, which
// links is how many of led to it. It is an error if there is no such file.
func (v *view) real(path string, links int) (string, error) {
	if found, ok := v.links[path]; ok {
		return found, nil
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 || links > maxLinks {
		return "", unix.ELOOP
	}
	dir, name := "/", path[i+1:]
	if i > 0 {
		var err error
		if dir, err = v.real(path[:i], links); err != nil {
			return "", err
		}
	}
	found := dir
	switch name {
	case "", ".":
	case "..":
		found = filepath.Dir(dir)
	default:
		found = filepath.Join(dir, name)
		to, err := os.Readlink(move(found, v.build, v.copy))
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return "", err
		}
		if err == nil {
			if !filepath.IsAbs(to) {
				to = dir + "/" + to
			}
			if found, err = v.real(to, links+1); err != nil {
				return "", err
			}
		}
	}
	v.links[path] = found
	return found, nil
}
