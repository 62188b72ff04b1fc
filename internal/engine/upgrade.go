package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/tree"
)

// An RPM upgrade runs the new package's scripts, which add M/V, and then those of
// the old one, which remove it: where both are of one version, the second would
// undo the first. So an add leaves a note for the rpm process that it runs in,
// and a remove in the same process heeds it. The note is a file in the tree,
// .rpm-upgrade-PID-START, with a package in each line; START is when the process
// began, in the kernel's clock ticks.

const upgradePrefix = ".rpm-upgrade-"

// NoteUpgrade notes that the RPM transaction which runs us has added id. The
// caller holds the lock.
func (e *Engine) NoteUpgrade(id tree.ID) error {
	e.forgetUpgrades()
	f, err := os.OpenFile(e.upgradeFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, id)
		f.Close()
	}
	if err != nil {
		return failure.From(err, "cannot note the upgrade of "+id.String(), failure.StatusNoPerm)
	}
	return nil
}

// Upgrading says whether the RPM transaction that runs us has added id. Where it
// has, the source of id may have been replaced in its place, which the package's
// scripts do not say again: from now on a build of it is stale when it was made
// from another source, or when nobody knows what it was made from. The rest does
// not count, so that what build was told on its command line, and install is not,
// makes no second build. The caller holds the lock.
func (e *Engine) Upgrading(id tree.ID) bool {
	b, _ := os.ReadFile(e.upgradeFile())
	if !slices.Contains(strings.Fields(string(b)), id.String()) {
		return false
	}
	e.upgrading = id
	return true
}

// Upgraded says whether the RPM transaction that runs us has added id, and forgets
// it. The caller holds the lock.
func (e *Engine) Upgraded(id tree.ID) bool {
	e.forgetUpgrades()
	file := e.upgradeFile()
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	lines := strings.Fields(string(b))
	i := slices.Index(lines, id.String())
	if i < 0 {
		return false
	}
	if lines = slices.Delete(lines, i, i+1); len(lines) == 0 {
		os.Remove(file)
	} else if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		e.Events.Note(err.Error())
	}
	return true
}

// forgetUpgrades removes the notes for processes that have ended.
func (e *Engine) forgetUpgrades() {
	old, _ := filepath.Glob(filepath.Join(e.Tree.Dir, upgradePrefix+"*"))
	for _, file := range old {
		pid, start, _ := strings.Cut(strings.TrimPrefix(filepath.Base(file), upgradePrefix), "-")
		n, _ := strconv.Atoi(pid)
		if _, now := process(n); now != start {
			os.Remove(file)
		}
	}
}

// upgradeFile returns the note's file for the process that runs our caller: rpm
// runs a shell, which runs us.
func (e *Engine) upgradeFile() string {
	pid, _ := process(os.Getppid())
	_, start := process(pid)
	return filepath.Join(e.Tree.Dir, fmt.Sprintf("%s%d-%s", upgradePrefix, pid, start))
}

// process returns the parent of a process and when it began, from /proc/PID/stat,
// see proc(5); zero values where there is none.
func process(pid int) (parent int, start string) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// The second field is a name in parentheses, which may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if err != nil || len(fields) < 20 {
		return 0, ""
	}
	parent, _ = strconv.Atoi(fields[1])
	return parent, fields[19]
}
