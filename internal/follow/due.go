// SPDX-License-Identifier: GPL-2.0-or-later

package follow

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// Due is what has to be done for a kernel whose modules changed: depmod has to run,
// its initramfs may carry them, and post_transaction may be set. A run that is killed before that would leave
// nothing to notice it by, for the modules themselves are current. So what is due
// is noted before the first of them changes, in a file of the tree,
// .unsettled-K-A, which goes when all of it is done.
type Due struct {
	Depmod bool
	// Modules are names of those that changed and that an initramfs may carry.
	Modules []string
	// Fresh is a package that was not installed for the kernel before.
	Fresh string
	// Transaction reports whether post_transaction has to run.
	Transaction bool `json:",omitempty"`
	// Changed tells the note of one run from that of another: when it was made,
	// in nanoseconds.
	Changed int64
}

// And returns what is due by d and by more.
func (d Due) And(more Due) Due {
	modules := slices.Concat(d.Modules, more.Modules)
	slices.Sort(modules)
	d.Depmod, d.Modules = d.Depmod || more.Depmod, slices.Compact(modules)
	d.Transaction = d.Transaction || more.Transaction
	if more.Fresh != "" {
		d.Fresh = more.Fresh
	}
	return d
}

func (d Due) empty() bool { return !d.Depmod && len(d.Modules) == 0 && !d.Transaction }

const duePrefix = ".unsettled-"

func dueFile(m *machine.Machine, k tree.Target) string {
	return filepath.Join(m.Tree.Dir, duePrefix+k.Release+"-"+k.Arch)
}

// Owed returns what is noted as due for k. A note that is damaged asks for depmod.
func Owed(m *machine.Machine, k tree.Target) Due {
	due, ok := files.ReadState[Due](dueFile(m, k))
	if !ok && files.Exists(dueFile(m, k)) {
		return Due{Depmod: true}
	}
	return due
}

// Owing returns the kernels that match accepts for which something is due.
func Owing(m *machine.Machine, match func(tree.Target) bool) (kernels []tree.Target) {
	notes, _ := filepath.Glob(filepath.Join(m.Tree.Dir, duePrefix+"*"))
	for _, file := range notes {
		if k, ok := tree.ParseTarget(strings.TrimPrefix(filepath.Base(file), duePrefix)); ok && match(k) {
			kernels = append(kernels, k)
		}
	}
	return kernels
}

// Foresee notes what will be due for k if what now begins is cut short: more, as
// far as the policy wants it, besides what is noted already. The note is on the disk
// when Foresee returns. The caller holds the lock of the tree, and no other
// goroutine works on k.
func Foresee(m *machine.Machine, k tree.Target, p Policy, more Due) error {
	more.Depmod, more.Transaction = !p.NoDepmod, postTransaction(m, k) != ""
	if p.Initramfs == Leave {
		more.Modules, more.Fresh = nil, ""
	}
	due := Owed(m, k).And(more)
	due.Changed = time.Now().UnixNano()
	return owe(m, k, due)
}

// Owe notes what is left to do for k, and returns the note. The caller holds the lock
// of the tree.
func Owe(m *machine.Machine, k tree.Target, due Due) (Due, error) {
	noted := Owed(m, k)
	due.Changed = noted.Changed
	if due.Depmod == noted.Depmod && due.Fresh == noted.Fresh && due.Transaction == noted.Transaction && slices.Equal(due.Modules, noted.Modules) {
		return due, nil
	}
	return due, owe(m, k, due)
}

func owe(m *machine.Machine, k tree.Target, due Due) error {
	file := dueFile(m, k)
	if due.empty() {
		return files.Remove(file)
	}
	return files.WriteState(file, due, files.Options{Durable: true})
}

// ModuleNames returns the names of the modules in the files of these names or paths.
func ModuleNames(paths ...string) []string {
	var names []string
	for _, path := range paths {
		name, _, _ := kmod.SplitName(filepath.Base(path))
		names = append(names, name)
	}
	return names
}
