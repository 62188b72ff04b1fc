package engine

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
)

// A kernel whose modules changed is settled when depmod has run and its initramfs
// has them. A run that is killed before that would leave nothing to notice it by:
// the modules themselves are current. So what has to follow is noted before the
// first of them changes, in a file of the tree, .unsettled-K-A, which is removed
// when all of it is done.

// unsettled is what has to be done for one kernel.
type unsettled struct {
	Depmod bool
	// Modules are names of those that changed and that an initramfs may carry.
	Modules []string
	// Fresh is a package that was not installed for the kernel before.
	Fresh string
	// Changed tells one run's note from another's: when it was made, in
	// nanoseconds.
	Changed int64
}

func (u unsettled) empty() bool { return !u.Depmod && len(u.Modules) == 0 }

// and is u and more.
func (u unsettled) and(more unsettled) unsettled {
	modules := slices.Concat(u.Modules, more.Modules)
	slices.Sort(modules)
	u.Depmod, u.Modules = u.Depmod || more.Depmod, slices.Compact(modules)
	if more.Fresh != "" {
		u.Fresh = more.Fresh
	}
	return u
}

// note is what this run knows of a kernel's file: what earlier runs owe, and what
// the file says, which is that and what this run may come to owe.
type note struct{ owed, file unsettled }

func (e *Engine) unsettledFile(k tree.Target) string {
	return filepath.Join(e.Tree.Dir, unsettledPrefix+k.Release+"-"+k.Arch)
}

const unsettledPrefix = ".unsettled-"

// unsettledKernels returns the kernels that have such a file and that match.
func (e *Engine) unsettledKernels(match func(tree.Target) bool) (kernels []tree.Target) {
	files, _ := filepath.Glob(filepath.Join(e.Tree.Dir, unsettledPrefix+"*"))
	for _, file := range files {
		name := strings.TrimPrefix(filepath.Base(file), unsettledPrefix)
		i := strings.LastIndexByte(name, '-')
		if k := (tree.Target{Release: name[:max(i, 0)], Arch: name[i+1:]}); k.Release != "" && match(k) {
			kernels = append(kernels, k)
		}
	}
	return kernels
}

// note returns what is known of k. The caller holds e.mu.
func (e *Engine) note(k tree.Target) *note {
	if n := e.notes[k]; n != nil {
		return n
	}
	n := &note{owed: e.readUnsettled(k)}
	n.file = n.owed
	e.notes[k] = n
	return n
}

func (e *Engine) readUnsettled(k tree.Target) (u unsettled) {
	b, err := os.ReadFile(e.unsettledFile(k))
	if err != nil {
		return u
	}
	if json.Unmarshal(b, &u) != nil {
		return unsettled{Depmod: true}
	}
	return u
}

// owed returns what has to be done for k because of what has happened.
func (e *Engine) owed(k tree.Target) unsettled {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.note(k).owed
}

// foresee notes what will have to be done for k if what now begins is cut short.
// The caller holds the lock of the tree.
func (e *Engine) foresee(k tree.Target, u unsettled) error {
	u.Depmod = !e.Options.NoDepmod
	if !e.renews {
		u.Modules, u.Fresh = nil, ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.note(k)
	u = n.file.and(u)
	u.Changed = time.Now().UnixNano()
	return e.writeUnsettled(k, n, u)
}

// owe notes what is left to do for k. The caller holds the lock of the tree.
func (e *Engine) owe(k tree.Target, u unsettled) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.note(k)
	u.Changed = n.file.Changed
	n.owed = u
	return e.writeUnsettled(k, n, u)
}

// writeUnsettled makes the file of k, of which n knows what is in it, say u. That
// is on the disk before what it is about.
func (e *Engine) writeUnsettled(k tree.Target, n *note, u unsettled) error {
	file := e.unsettledFile(k)
	if u.empty() {
		if n.file.empty() {
			return nil
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		n.file = u
		return nil
	}
	if n.file.Changed == u.Changed && n.file.Depmod == u.Depmod && n.file.Fresh == u.Fresh && slices.Equal(n.file.Modules, u.Modules) {
		return nil
	}
	b, err := json.Marshal(u)
	if err != nil {
		return err
	}
	tmp := filepath.Join(e.Tree.Dir, tree.TempName(filepath.Base(file)))
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	n.file = u
	return tree.SyncDir(e.Tree.Dir)
}

// moduleNames returns the names of the modules in files.
func moduleNames(files ...string) []string {
	var names []string
	for _, file := range files {
		name, _, _ := kmod.SplitName(filepath.Base(file))
		names = append(names, name)
	}
	return names
}
