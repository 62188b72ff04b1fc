// SPDX-License-Identifier: GPL-2.0-or-later

// Package scripts runs the scripts of packages that follow what they are for: POST_ADD,
// POST_INSTALL and POST_REMOVE. A run that is killed in between would leave nothing to
// notice it by. So each script is noted before, in a file of the tree, .owed-HASH, which
// goes when the script has ended: it runs at least once, and after a killed run perhaps
// twice.
package scripts

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// Script is the script that a directive of a package names, for a kernel.
type Script struct {
	tree.ID
	Kernel    tree.Target
	Directive string
	Value     string // of the directive; empty if there is no script
}

func (s Script) String() string {
	return fmt.Sprintf("%s for %s: %s", s.ID, s.Kernel.Release, s.Directive)
}

const prefix = ".owed-"

// file returns the path of the note. Names of packages and kernels could make it too
// long.
func (s Script) file(m *machine.Machine) string {
	hash := sha256.Sum256(fmt.Appendf(nil, "%q", s))
	return filepath.Join(m.Tree.Dir, fmt.Sprintf("%s%x", prefix, hash[:8]))
}

// Owe notes the script, if there is one. The note is on the disk when Owe returns. The
// caller holds the lock of the tree.
func (s Script) Owe(m *machine.Machine) error {
	if s.Value == "" {
		return nil
	}
	return files.WriteState(s.file(m), s, files.Options{Durable: true})
}

// Forget removes the note, if there is one.
func (s Script) Forget(m *machine.Machine) {
	if err := files.Remove(s.file(m)); err != nil {
		m.Note(fmt.Sprintf("warning: %s may run once more: %v", s, err))
	}
}

// Run runs the script, if there is one. The note stays if ctx is done before the script
// has ended.
func (s Script) Run(ctx context.Context, m *machine.Machine) error {
	if s.Value == "" {
		return nil
	}
	err := observe.Environment(m, s.ID, s.Kernel).Script(ctx, m.Tree.SourceDir(s.ID), s.Directive, s.Value)
	if ctx.Err() == nil {
		s.Forget(m)
	}
	return err
}

// RunOwed runs the scripts that earlier runs noted and were cut short before. The caller
// holds the lock of the tree.
func RunOwed(ctx context.Context, m *machine.Machine) {
	for _, file := range notes(m) {
		s, ok := files.ReadState[Script](file)
		if !ok || !s.due(m) {
			os.Remove(file) // if it cannot, the next run tries again
			continue
		}
		m.Note(s.String() + " is run now: an earlier run was cut short before its end")
		if err := s.Run(ctx, m); err != nil {
			m.Note("warning: " + err.Error())
		}
	}
}

// Owed reports whether a script is noted.
func Owed(m *machine.Machine) bool { return len(notes(m)) > 0 }

func notes(m *machine.Machine) []string {
	list, _ := filepath.Glob(filepath.Join(m.Tree.Dir, prefix+"*"))
	return list
}

// due reports whether what the script is for is done, and was not undone, and its source
// is there.
func (s Script) due(m *machine.Machine) bool {
	fi, err := os.Stat(m.Tree.SourceDir(s.ID))
	installed := m.Tree.InstalledVersion(s.Name, s.Kernel)
	switch {
	case err != nil || !fi.IsDir():
		return false
	case s.Directive == "POST_INSTALL":
		return installed == s.Version
	case s.Directive == "POST_REMOVE":
		return installed == ""
	}
	return true
}
