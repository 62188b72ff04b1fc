// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"bytes"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// An RPM upgrade runs the scripts of the new package, which add M/V, and then those of
// the old one, which remove it. If both have the same version, the removal would undo
// the addition. So an add leaves a note for the rpm process that it runs in, and a remove
// in the same process heeds it. The note is a file in the tree, .rpm-upgrade-PID-START,
// with a package in each line; START is when the process began, in clock ticks of the
// kernel. A remove takes the package out of the note, and a note whose process has ended
// goes with the next run.

const upgradePrefix = ".rpm-upgrade-"

// NoteUpgrade notes that the RPM transaction which runs this process has added id. The
// caller holds the lock of the tree.
func NoteUpgrade(m *machine.Machine, id tree.ID) error {
	ForgetUpgrades(m)
	f, err := os.OpenFile(upgradeFile(m), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, id)
		f.Close()
	}
	if err != nil {
		return failure.From(err, "cannot note the upgrade of "+id.String(), failure.StatusNoPerm)
	}
	return nil
}

// Upgrading reports whether the RPM transaction that runs this process has added id. If
// so, the source of id may have been replaced in its place, which the package's scripts
// do not say again; see [observe.Scope].
func Upgrading(m *machine.Machine, id tree.ID) bool {
	return slices.Contains(upgrades(m), id.String())
}

// upgrades returns what the RPM transaction that runs this process has added.
func upgrades(m *machine.Machine) []string {
	b, _ := os.ReadFile(upgradeFile(m)) // without it, nothing
	return strings.Fields(string(b))
}

// EndUpgrade forgets that the RPM transaction which runs this process has added id, and
// reports whether it had. The caller holds the lock of the tree.
func EndUpgrade(m *machine.Machine, id tree.ID) bool {
	ForgetUpgrades(m)
	lines := upgrades(m)
	i := slices.Index(lines, id.String())
	if i < 0 {
		return false
	}
	file := upgradeFile(m)
	if lines = slices.Delete(lines, i, i+1); len(lines) == 0 {
		os.Remove(file)
	} else if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		m.Note(err.Error())
	}
	return true
}

// ForgetUpgrades removes the notes for processes that have ended, and reports whether
// none is left. The caller holds the lock of the tree.
func ForgetUpgrades(m *machine.Machine) (none bool) {
	notes, _ := filepath.Glob(filepath.Join(m.Tree.Dir, upgradePrefix+"*"))
	none = true
	for _, file := range notes {
		pid, start, _ := strings.Cut(strings.TrimPrefix(filepath.Base(file), upgradePrefix), "-")
		n, _ := strconv.Atoi(pid)
		if _, now := process(n); now == start || os.Remove(file) != nil {
			none = false
		}
	}
	return none
}

// BeingUpgraded reports whether a package manager runs this process to take out id, which
// a new version replaces. It looks at the arguments of the scripts that it runs: dpkg has
// its prerm upgrade, and RPM tells a scriptlet how many versions of the package will be
// there in the end. RPM tells those of a new package the same, which may take out another
// one for good: so the new version has to be registered, which with RPM comes first.
// Pacman runs the script of its hook for a package that it upgrades as for one that it
// removes: unless pacman was told to remove, it may be either, and the script of the hook
// after the transaction removes what is kept of a package of which no version is left.
func BeingUpgraded(m *machine.Machine, id tree.ID) bool {
	for _, args := range ancestors() {
		for i, arg := range args[:len(args)-1] {
			switch name, next := filepath.Base(arg), args[i+1]; {
			case os.Getenv("DPKG_MAINTSCRIPT_NAME") == "prerm" && (name == "prerm" || strings.HasSuffix(name, ".prerm")):
				return next == "upgrade" || next == "failed-upgrade"
			case isScriptlet(name):
				all, err := m.Tree.Read()
				return staying() > 0 && err == nil && hasOther(all, id)
			case strings.HasSuffix(arg, "/libalpm/scripts/dkms"):
				return next == "remove" && !pacmanRemoves()
			}
		}
	}
	return false
}

// pacmanRemoves reports whether pacman runs this process, and was told to remove packages.
func pacmanRemoves() bool {
	for _, args := range ancestors() {
		if filepath.Base(args[0]) == "pacman" && slices.ContainsFunc(args, func(arg string) bool {
			return arg == "--remove" || strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") && strings.Contains(arg, "R")
		}) {
			return true
		}
	}
	return false
}

// InPackageManager reports whether a package manager runs this process.
func InPackageManager() bool {
	if os.Getenv("DPKG_MAINTSCRIPT_NAME") != "" || os.Getenv("EBUILD_PHASE") != "" {
		return true
	}
	for _, args := range ancestors() {
		for _, arg := range args[:min(2, len(args))] { // the second one is a script's
			switch filepath.Base(arg) {
			case "apt", "apt-get", "aptitude", "dpkg", "dnf", "dnf5", "emerge", "pacman", "packagekitd", "rpm", "rpm-ostree", "yum", "zypper":
				return true
			}
		}
	}
	return InScriptlet()
}

// InScriptlet reports whether a script of an RPM package runs this process.
func InScriptlet() bool {
	_, found := rpm()
	return found
}

// upgradeFile returns the file of the note for the rpm process.
func upgradeFile(m *machine.Machine) string {
	pid, _ := rpm()
	_, start := process(pid)
	return filepath.Join(m.Tree.Dir, fmt.Sprintf("%s%d-%s", upgradePrefix, pid, start))
}

// rpm returns the rpm process that runs this one, and whether it found a script of rpm's
// between the two: rpm writes the script to a file rpm-tmp.XXXXXX, and runs a shell with
// it. Without one, it returns the grandparent, which is rpm if its shell reads the script
// otherwise.
func rpm() (pid int, found bool) {
	for parent, args := range ancestors() {
		if slices.ContainsFunc(args, isScriptlet) {
			pid, found = parent, true // a shell above may have forked this one
		}
	}
	if !found {
		pid, _ = process(os.Getppid())
	}
	return pid, found
}

// staying returns how many versions of the package whose script RPM runs here will be
// there in the end; 0 if RPM runs none.
func staying() int {
	for _, args := range ancestors() {
		if i := slices.IndexFunc(args[:len(args)-1], isScriptlet); i >= 0 {
			n, _ := strconv.Atoi(args[i+1])
			return n
		}
	}
	return 0
}

func isScriptlet(arg string) bool { return strings.HasPrefix(filepath.Base(arg), "rpm-tmp.") }

// ancestors returns the processes above this one, but for the first of all: the parent of
// each, and its arguments with an empty one at the end.
func ancestors() iter.Seq2[int, []string] {
	return func(yield func(parent int, args []string) bool) {
		parent := 0
		for pid := os.Getppid(); pid > 1; pid = parent {
			parent, _ = process(pid)
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if !yield(parent, strings.Split(string(text), "\x00")) {
				return
			}
		}
	}
}

// process returns the parent of a process and when it began, from /proc/PID/stat,
// see proc(5); zero values if there is none.
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
