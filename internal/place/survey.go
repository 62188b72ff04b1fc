// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
	"dkms-kernel-install/internal/version"
)

// found is what a module meets in the kernel's directory.
type found struct {
	module Module
	// foreign are the modules of its name that are not the package's, the one in use
	// first, and stale those that are.
	foreign, stale []string
	// kept says which of these is to stay, and why; empty if none is. Refused reports
	// whether that one is newer.
	kept    string
	refused bool
}

// surveyAll surveys the modules of p, and returns why those that are not to be placed
// are not, by file. It is all or none, but for the modules that Others have placed.
func (k *Kernel) surveyAll(p Placement) (list []found, keeps map[string]string, err error) {
	keeps = map[string]string{}
	refused, all := "", true
	for _, m := range p.Modules {
		if m.Location == "" {
			continue // the conf no longer says where it goes
		}
		f, err := k.survey(p, m)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, f)
		if all = all && f.kept != ""; f.refused {
			refused = f.kept
		}
	}
	for _, f := range list {
		switch {
		case refused != "":
			keeps[f.module.File] = refused
		case all || !p.Explicit && k.holder(p, k.Path(f.module)) != tree.ID{}:
			keeps[f.module.File] = f.kept
		}
	}
	return list, keeps, nil
}

// Keeps returns why the modules of p would not be placed, each in a line; nil if one would
// be, or if that cannot be told.
func (k *Kernel) Keeps(p Placement) (why []string) {
	list, keeps, err := k.surveyAll(p)
	for _, f := range list {
		if err != nil || keeps[f.module.File] == "" {
			return nil
		}
		why = append(why, f.module.File+": "+keeps[f.module.File])
	}
	return why
}

// survey looks at the modules in the kernel's directory that have the name of m.
func (k *Kernel) survey(p Placement, m Module) (found, error) {
	f := found{module: m}
	if err := k.read(); err != nil {
		return f, err
	}
	var ours kmod.Info
	dest := k.Path(m)
	for _, path := range k.index[kmod.ModuleName(m.File)] {
		if k.mine(p, m, path) {
			// It may be from a build that is gone. As a foreign module it
			// would take the place of the one in the archive.
			f.stale = append(f.stale, path)
		} else {
			f.foreign = append(f.foreign, path)
		}
	}
	slices.SortFunc(f.foreign, func(a, b string) int {
		return cmp.Or(k.rank(a, dest)-k.rank(b, dest), strings.Compare(a, b))
	})
	if p.Force {
		return f, nil
	}
	for _, path := range slices.Concat(f.foreign, f.stale) {
		version, by := k.version(p, path), k.holder(p, path)
		own := slices.Contains(f.stale, path)
		if own && (!p.KeepNewer || version == "" || version == p.Version) {
			continue
		}
		if by != (tree.ID{}) && !p.Explicit {
			f.kept = fmt.Sprintf("%s is of %s", path, by)
			continue
		}
		if p.Override {
			continue
		}
		theirs, err := kmod.ReadInfo(path)
		if err != nil {
			continue // it is not a module, and so not newer
		}
		if ours == (kmod.Info{}) {
			if ours, err = kmod.ReadInfo(filepath.Join(k.Tree.ModuleDir(p.ID, k.Target), m.File)); err != nil {
				return f, err
			}
		}
		why, newer := compare(ours, theirs)
		if newer || why != "" && f.kept == "" && !own && by == (tree.ID{}) {
			f.kept, f.refused = fmt.Sprintf("%s has %s", path, why), newer
		}
		if newer {
			break
		}
	}
	return f, nil
}

// mine reports whether the file at path, a module of the same name as m, is the
// package's.
func (k *Kernel) mine(p Placement, m Module, path string) bool {
	if k.own(p, path) {
		return true
	}
	if !p.Installed || !k.atDest(m, path) || k.holder(p, path) != (tree.ID{}) {
		return false
	}
	// Without a record, a module at the destination of an installed package is the
	// package's, even if it was changed since. With one, it may be another that the
	// kernel's package or somebody has put there.
	_, known := k.record(p.Name)
	return !known || k.alike(p, m, path)
}

// alike reports whether the file at path is no module, or one of the same version as what
// a version of p built for m: then it is that, and damaged.
func (k *Kernel) alike(p Placement, m Module, path string) bool {
	theirs, err := kmod.ReadInfo(path)
	return err != nil || slices.ContainsFunc(p.Versions, func(v string) bool {
		ours, err := kmod.ReadInfo(filepath.Join(k.Tree.ModuleDir(tree.ID{Name: p.Name, Version: v}, k.Target), m.File))
		return err == nil && ours.Version == theirs.Version && (ours.Version != "" || ours.SrcVersion == theirs.SrcVersion)
	})
}

// rank orders modules of one name by which is likely in use: the one in the directory
// of dest, then those in updates, in extra, and elsewhere.
func (k *Kernel) rank(path, dest string) int {
	switch {
	case filepath.Dir(path) == filepath.Dir(dest):
		return 0
	case strings.HasPrefix(path, filepath.Join(k.Dir, "updates")+"/"):
		return 1
	case strings.HasPrefix(path, filepath.Join(k.Dir, "extra")+"/"):
		return 2
	}
	return 3
}

// compare returns why theirs is kept instead of ours, and whether that is because it is
// newer; "" if ours is placed.
func compare(ours, theirs kmod.Info) (why string, newer bool) {
	if ours.Version != "" && theirs.Version != "" {
		switch version.Compare(theirs.Version, ours.Version) {
		case 1:
			return fmt.Sprintf("the newer version %s (ours: %s)", theirs.Version, ours.Version), true
		case -1:
			return "", false
		}
	}
	if ours.SrcVersion != "" && ours.SrcVersion == theirs.SrcVersion {
		return "the same version", false
	}
	if ours.Version != "" && ours.Version == theirs.Version && (ours.SrcVersion == "" || theirs.SrcVersion == "") {
		return "the same version " + ours.Version, false
	}
	return "", false
}

// own reports whether the file at path is a link into the package's directory in the
// tree, or what some version of it built. Such a file is the package's even if it
// does not count as installed: a run may have been killed in between.
func (k *Kernel) own(p Placement, path string) bool {
	if to, err := os.Readlink(path); err == nil {
		return strings.HasPrefix(to, filepath.Join(k.Tree.Dir, p.Name)+"/")
	}
	return k.version(p, path) != "" || k.recorded(p.Name, path)
}

// version returns the version of the package that built the file at path; "" if none
// did.
func (k *Kernel) version(p Placement, path string) string {
	for _, v := range append([]string{p.Version}, p.Versions...) {
		id := tree.ID{Name: p.Name, Version: v}
		if k.Holds(id, path) || signedSince(path, filepath.Join(k.Tree.ModuleDir(id, k.Target), filepath.Base(path))) {
			return v
		}
	}
	return ""
}

// holder returns the one of p.Others that has placed the file at path; the zero ID if
// none has.
func (k *Kernel) holder(p Placement, path string) tree.ID {
	for _, id := range p.Others {
		if id.Name != p.Name && k.Holds(id, path) {
			return id
		}
	}
	return tree.ID{}
}

// atDest reports whether path, a module of the same name as m, is in the directory in
// which m goes. It may be compressed in another way.
func (k *Kernel) atDest(m Module, path string) bool {
	return m.Location != "" && filepath.Dir(path) == filepath.Dir(k.Path(m))
}
