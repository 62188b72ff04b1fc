// SPDX-License-Identifier: GPL-2.0-or-later

// Package failure is how work that failed is told to a person: what failed,
// why, and what to do next.
package failure

import (
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// Failure is an error that a person can act on.
type Failure struct {
	// What failed, as "build failed".
	What string
	// Why is the decisive line; Log the file with all lines, where there is
	// one.
	Why, Log string
	// Hint is what to do next; empty where nothing better than Why is known.
	Hint string
	// Status is the exit status that the classic dkms command has for it.
	Status int
	// Lasting says that the same work fails again while nothing changes: it is
	// not about a lack of room, of memory, of time, or of a program.
	Lasting bool
	// Err is the cause, where it is an error of its own.
	Err error
}

// Exit statuses of the classic dkms command.
const (
	StatusUsage       = 1  // not root, or arguments missing
	StatusNotFound    = 2  // no source, unknown option
	StatusAlready     = 3  // already there, or not in the tree
	StatusNoConf      = 4  // no conf file, broken
	StatusPatchUnsafe = 5  // a patch is missing or unsafe
	StatusNoAll       = 5  // --all where it makes no sense
	StatusInstalled   = 5  // already installed
	StatusPatch       = 6  // a patch does not apply
	StatusInstall     = 6  // install failed
	StatusNoModule    = 7  // a built module is missing
	StatusBadConf     = 8  // the conf has errors
	StatusNoPerm      = 9  // not a DKMS tree, or no permission
	StatusMake        = 10 // make failed
	StatusAutoinstall = 11 // at least one package failed
	StatusNoArch      = 12 // no architecture
	StatusDepends     = 13 // BUILD_DEPENDS missing
	StatusKernelHook  = 14 // kernel_preinst or kernel_prerm failed
	StatusHeaders     = 21 // kernel headers missing
	StatusExclusive   = 77 // skipped by BUILD_EXCLUSIVE
	StatusPreInstall  = 101
)

func (f *Failure) Error() string {
	s := f.What
	if f.Why != "" {
		s += ": " + f.Why
	}
	if f.Log != "" {
		s += " (" + f.Log + ")"
	}
	return s
}

func (f *Failure) Unwrap() error { return f.Err }

// From makes a Failure of any error: err itself where it is one already, else
// one of the given kind with the hint that fits the cause.
func From(err error, what string, status int) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{What: what, Why: strings.ReplaceAll(err.Error(), "\n", "; "), Hint: hint(err), Status: status, Err: err}
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room on that file system, then run it again"
	case errors.Is(err, unix.EROFS):
		return "that file system is read-only: remount it writable, then run it again"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root"
	case errors.Is(err, unix.ENOTDIR):
		return "a file stands where a directory should be: move it away, then run it again"
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTEMPTY):
		return "something else stands where that file should be: move it away, then run it again"
	case errors.Is(err, unix.ENAMETOOLONG):
		return "the package's name is too long for the file system: shorten it"
	}
	return ""
}
