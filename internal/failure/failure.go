// SPDX-License-Identifier: GPL-2.0-or-later

// Package failure describes work that failed for a person: what failed, why, and what
// to do next.
package failure

import (
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// Failure is an error that a person can act on.
type Failure struct {
	// What is what failed, such as "build failed".
	What string
	// Why is the cause, in one line.
	Why string
	// Log is the file with all that was printed, or "" if there is none.
	Log string
	// Hint is what to do next. It is empty if nothing helps more than Why.
	Hint string
	// Status is the exit status that the classic dkms command has for it.
	Status int
	// Lasting reports whether the same work fails again until the package, the kernel
	// or a setting changes. A lack of room, memory or time, or of a program, is not
	// lasting.
	Lasting bool
	// Again reports whether an earlier run has told the same, and nothing has changed since.
	Again bool
	// Err is the cause, or nil if that is no error.
	Err error
}

// Exit statuses of the classic dkms command; dkms(8) describes them.
const (
	StatusUsage       = 1   // not root, or arguments missing
	StatusNotFound    = 2   // no source, unknown option
	StatusAlready     = 3   // already there, or not in the tree
	StatusNoConf      = 4   // no dkms.conf, or the package is broken
	StatusPatchUnsafe = 5   // a patch is missing or unsafe
	StatusNoAll       = 5   // --all where it makes no sense
	StatusPatch       = 6   // a patch does not apply
	StatusInstall     = 6   // installation failed
	StatusNoModule    = 7   // a built module is missing
	StatusBadConf     = 8   // dkms.conf has errors
	StatusNoPerm      = 9   // not a DKMS tree, or no permission
	StatusMake        = 10  // make failed
	StatusAutoinstall = 11  // at least one package failed
	StatusNoArch      = 12  // no architecture
	StatusDepends     = 13  // a package of BUILD_DEPENDS is missing
	StatusKernelHook  = 14  // kernel_preinst or kernel_prerm failed
	StatusHeaders     = 21  // the kernel's headers are missing
	StatusExclusive   = 77  // passed over because of BUILD_EXCLUSIVE
	StatusPreInstall  = 101 // PRE_INSTALL failed
)

// Error returns What, Why and Log in one line.
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

// Line returns s as one line, lest text from a package pass for a line of ours.
func Line(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// From returns err as a Failure. If err is none, From makes one of what and status,
// with the hint that fits err.
func From(err error, what string, status int) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{What: what, Why: Line(err.Error()), Hint: hint(err), Status: status, Err: err}
}

// hint returns what to do about a common err, or "".
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
