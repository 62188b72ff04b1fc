// SPDX-License-Identifier: GPL-2.0-or-later

package fsck

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// installed looks at the records that say which version of the packages called name is
// installed for k: the link, and how its modules looked.
func (c *checker) installed(name string, k tree.Target) {
	link, record := c.m.Tree.InstalledLink(name, k), c.m.Tree.PlacedFile(name, k)
	recorded, known := c.m.Modules(k).Recorded(name)
	if files.Exists(record) && !known {
		c.add(Finding{Path: record, Is: "it cannot be read", Do: "it is removed: a module in the place of ours counts as ours", mend: remove(record)})
	}
	if observe.HasInstalled(c.seen.Packages, name, k) {
		return
	}
	best, how := c.version(name, k, c.m.Tree.InstalledVersion(name, k), recorded)
	_, exists := c.views[k]
	there := files.Exists(link)
	f := Finding{Path: link, Is: "it does not lead to a build for this kernel"}
	switch {
	case !there && how == "" && !known:
		return
	case !exists && there:
		f.Is, f.Do, f.mend = "it leads to no build, and the kernel is gone", "it is removed", func() error { return c.m.Tree.ClearInstalled(name, k) }
	case !exists:
		f.Path, f.Is, f.Do, f.mend = record, "the kernel is gone", "it is removed", remove(record)
	case how != "":
		if !there {
			f.Is = "it is gone, but " + how
		}
		f.Do, f.Again = best.String()+" is installed for "+k.Release+" again", &Work{ID: best, Kernel: k, Goal: plan.Installed}
		f.mend = func() error { return c.clear(best, k) }
	case there:
		f.Lost = fmt.Sprintf("the build, and what it was made from; modules of it that are still in %s stay; add %s again, or remove them", c.m.Kernel(k).Dir, name)
	default:
		left := c.m.Modules(k).Left(name)
		if len(left) == 0 {
			return // the classic command has uninstalled it
		}
		f.Path, f.Is = record, "what it is about is in place, and nobody has it: "+strings.Join(left, ", ")
		f.Lost = fmt.Sprintf("which version of %s was installed for %s; install one, or remove them: dkms install %[1]s -k %[2]s", name, k.Release)
	}
	c.add(f)
}

// clear makes way for a build of id for k, which is to be installed: it registers id, if only
// its link is missing, and moves aside what is of another kind than it should be.
func (c *checker) clear(id tree.ID, k tree.Target) error {
	var errs []error
	dir := c.m.Tree.ModuleDir(id, k)
	for dir != c.m.Tree.Dir {
		if fi, err := os.Lstat(dir); err == nil && !fi.IsDir() {
			errs = append(errs, c.aside(dir))
		}
		dir = filepath.Dir(dir)
	}
	if fi, err := os.Lstat(c.m.Tree.InstalledLink(id.Name, k)); err == nil && fi.Mode()&fs.ModeSymlink == 0 {
		errs = append(errs, c.aside(c.m.Tree.InstalledLink(id.Name, k)))
	}
	if source := c.sourceOf(id); source != "" && !files.Exists(c.m.Tree.SourceDir(id)) {
		errs = append(errs, c.m.Tree.Register(id, source))
	}
	return errors.Join(errs...)
}

// aside gives the file at path a name that this program passes over.
func (c *checker) aside(path string) error {
	to := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".damaged")
	c.m.Note(to + ": this was in the way, and is moved aside")
	return os.Rename(path, to)
}

// version returns the version of the package called name that should be the installed one
// for k, and how that is known; "" if nothing shows it. Linked is what its link says.
func (c *checker) version(name string, k tree.Target, linked string, recorded map[string]string) (id tree.ID, how string) {
	for _, s := range c.views[k].Packages {
		if s.Name != name || !s.Built || len(s.Modules) == 0 {
			continue
		}
		modules := c.placement(s, k).Modules
		all := func(is func(place.Module) bool) bool {
			return !slices.ContainsFunc(modules, func(m place.Module) bool { return !is(m) })
		}
		switch {
		case all(func(m place.Module) bool { return m.Location != "" && c.m.Modules(k).Intact(s.ID, m) }):
			return s.ID, "the modules of " + s.ID.String() + " are in place"
		case all(func(m place.Module) bool {
			sum := files.Sum(filepath.Join(c.m.Tree.ModuleDir(s.ID, k), m.File))
			return sum != "" && sum == recorded[m.File]
		}):
			id, how = s.ID, "those of "+s.ID.String()+" were placed"
		}
	}
	if to := (tree.ID{Name: name, Version: linked}); how == "" && linked != "" && (c.sourceOf(to) != "" || files.Exists(c.m.Tree.SourceDir(to))) {
		return to, "it names " + linked
	}
	return id, how
}

func (c *checker) placement(s observe.Seen, k tree.Target) place.Placement {
	return observe.Placement(c.m, c.seen.Packages, observe.Installed(c.seen.Packages, k), k, s)
}

// kernel looks at what is built for a kernel that exists, and at its directory.
func (c *checker) kernel(k tree.Target, view observe.View) {
	modules := c.m.Modules(k)
	temps, err := modules.Temporaries()
	if err != nil {
		c.unknown(c.m.Kernel(k).Dir, err)
	}
	for _, path := range temps {
		c.add(Finding{Path: path, Is: "a killed run left it", Do: "it is removed", mend: modules.Tidy})
	}
	list := filepath.Join(c.m.Kernel(k).Dir, "modules.dep")
	index := kmod.ReadList(list)
	var lacking []string
	cert := c.certificate(k)
	for _, s := range view.Packages {
		if !s.Built || c.ctx.Err() != nil {
			continue
		}
		p := c.placement(s, k)
		c.build(s, k, p, cert)
		for _, m := range p.Modules {
			rel, err := filepath.Rel(c.m.Kernel(k).Dir, modules.Path(m))
			if s.Installed && s.TakenBy == (tree.ID{}) && m.Location != "" && err == nil && modules.Holds(s.ID, modules.Path(m)) && index[kmod.ModuleName(m.File)] != rel {
				lacking = append(lacking, rel)
			}
		}
	}
	if len(lacking) > 0 {
		c.add(Finding{Path: filepath.Join(c.m.Kernel(k).Dir, "modules.dep"), Is: "it lacks " + strings.Join(lacking, ", "), Do: "depmod makes it again",
			mend: func() error {
				_, err := follow.Owe(c.m, k, follow.Owed(c.m, k).And(follow.Due{Depmod: true}))
				return err
			}, Again: &Work{Kernel: k}})
	}
}

// certificate returns the certificate that modules for k are signed with; nil if none is
// known.
func (c *checker) certificate(k tree.Target) *x509.Certificate {
	key, err := c.m.SigningKey(c.m.Kernel(k))
	if err != nil {
		return nil
	}
	cert, _, _ := kmod.ReadCertificate(cmp.Or(key.Cert, key.File))
	return cert
}

// build looks at one build for a kernel that exists, and at where its modules are placed.
func (c *checker) build(s observe.Seen, k tree.Target, p place.Placement, cert *x509.Certificate) {
	dir, modules := c.m.Tree.TargetDir(s.ID, k), c.m.Modules(k)
	if record := fingerprint.File(dir); files.Exists(record) && !fingerprint.Whole(dir) {
		c.add(Finding{Path: record, Is: "it cannot be read", Do: "it is removed: the build counts as current", mend: remove(record)})
	}
	sums, theirs := fingerprint.Sums(dir)
	recorded, _ := modules.Recorded(s.Name)
	for _, file := range c.modules(s, sums) {
		path := filepath.Join(c.m.Tree.ModuleDir(s.ID, k), file)
		m := place.Module{File: file}
		if i := slices.IndexFunc(p.Modules, func(m place.Module) bool { return m.File == file }); i >= 0 {
			m = p.Modules[i]
		} else if i := slices.IndexFunc(s.Conf.Modules, func(m conf.Module) bool { return strings.HasPrefix(file, m.DestName+".ko") }); i >= 0 {
			m.Location = s.Conf.Modules[i].DestLocation
		}
		is := flaw(path, sums[file], theirs, cert)
		if is == "" {
			if s.Installed && s.TakenBy == (tree.ID{}) && m.Location != "" {
				c.placed(s, k, m, cert)
			}
			continue
		}
		f := Finding{Path: path, Is: is, Do: fmt.Sprintf("%s is built again for %s", s.ID, k.Release), Again: &Work{ID: s.ID, Kernel: k, Goal: plan.Built, Build: true}}
		if s.Installed {
			f.Again.Goal = plan.Installed
		}
		want := cmp.Or(sums[file], recorded[file])
		if fi, err := os.Lstat(path); s.Installed && m.Location != "" && want != "" && files.Sum(modules.Path(m)) == want && (err != nil || fi.Mode().IsRegular()) {
			f.Do, f.Again = "it is copied back from "+modules.Path(m), nil
			f.mend = func() error { return modules.TakeBack(s.ID, m) }
		}
		c.add(f)
	}
}

// modules returns the file names of the modules that the build of s has or should have.
func (c *checker) modules(s observe.Seen, sums map[string]string) []string {
	list := append(slices.Collect(maps.Keys(sums)), s.Modules...)
	for _, m := range s.Conf.Modules {
		if !slices.ContainsFunc(list, func(file string) bool { return strings.HasPrefix(file, m.DestName+".ko") }) {
			list = append(list, m.DestName+".ko")
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// flaw says what is wrong with the module in the file at path, which had this sum when it was
// made, if that is known; empty if nothing is. Theirs reports whether another program may have
// made it since: then a signature is as good as the sum.
func flaw(path, sum string, theirs bool, cert *x509.Certificate) string {
	if _, err := os.Lstat(path); err != nil {
		return "it is gone"
	}
	is := ""
	if sum != "" && files.Sum(path) != sum {
		is = "it is not what was built"
	}
	if _, _, ok := kmod.SplitName(filepath.Base(path)); !ok { // Module.symvers
		return is
	}
	data, err := kmod.ReadFile(path)
	if err == nil {
		_, err = kmod.ReadInfo(path)
	}
	if err != nil {
		return err.Error()
	}
	switch ours, err := verify(data, cert); {
	case ours && err == nil && theirs:
		is = ""
	case err != nil && !errors.Is(err, kmod.ErrForm):
		is = "its signature is not one of what it holds: " + err.Error()
	}
	return is
}

// verify reports whether a module says that it is signed with the key of cert, which is nil if
// nobody knows it, and verifies the signature if so.
func verify(module []byte, cert *x509.Certificate) (ours bool, err error) {
	by, ok := kmod.SignedBy(module)
	if !ok || cert == nil || by != kmod.SignerOf(cert) {
		return false, nil
	}
	return true, kmod.Verify(module, cert)
}

// resigned says what is wrong with the module in the file at path, which is what was built but
// for its signature; empty if somebody has signed it again, or with another key.
func resigned(path string, cert *x509.Certificate) string {
	data, err := kmod.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if _, err := verify(data, cert); err != nil {
		return "its signature is damaged: " + err.Error()
	}
	return ""
}

// placed looks at where m, a module that is built as it should be, is placed.
func (c *checker) placed(s observe.Seen, k tree.Target, m place.Module, cert *x509.Certificate) {
	dest := c.m.Modules(k).Path(m)
	f := Finding{Path: dest, Do: fmt.Sprintf("%s is placed for %s again", s.ID, k.Release), Again: &Work{ID: s.ID, Kernel: k, Goal: plan.Installed},
		mend: func() error { return c.vacate(c.m.Kernel(k).Dir, dest) }}
	switch fi, err := os.Lstat(dest); {
	case err != nil && s.Current:
		// The kernel's own is as good.
	case err != nil:
		f.Is = "it is gone"
	case fi.IsDir():
		f.Is = "it is a directory"
	case c.m.Modules(k).Intact(s.ID, m):
		if files.Sum(dest) != files.Sum(filepath.Join(c.m.Tree.ModuleDir(s.ID, k), m.File)) && fi.Mode().IsRegular() {
			f.Is = resigned(dest, cert)
			f.mend = func() error {
				_, err := follow.Owe(c.m, k, follow.Owed(c.m, k).And(follow.Due{Modules: follow.ModuleNames(dest)}))
				return errors.Join(err, c.m.Modules(k).PlaceAgain(s.ID, m))
			}
		}
	case s.Current && !c.m.Modules(k).Holds(s.ID, dest):
		// It is somebody else's, and to stay.
	default:
		f.Is = "it is not what was built"
	}
	if f.Is != "" {
		c.add(f)
	}
}

// vacate has the module at dest, below the kernel's directory top, be placed again: its times
// may say that it is what was built. It moves aside what is of another kind than it should be.
func (c *checker) vacate(top, dest string) error {
	var errs []error
	for dir := filepath.Dir(dest); files.Below(top, dir) && dir != top; dir = filepath.Dir(dir) {
		if fi, err := os.Stat(dir); err == nil && !fi.IsDir() {
			errs = append(errs, c.aside(dir))
		}
	}
	fi, err := os.Lstat(dest)
	switch {
	case err != nil:
	case fi.IsDir():
		errs = append(errs, c.aside(dest))
	case fi.Mode().IsRegular():
		errs = append(errs, os.Chtimes(dest, time.Time{}, time.Now()))
	}
	return errors.Join(errs...)
}
