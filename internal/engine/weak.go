package engine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/tree"
)

// Weak modules: where the kernels of a distribution keep one binary interface
// (kABI), a module that was installed into one of them serves others too, by
// links in their weak-updates folders. A script of the distribution makes and
// removes these links. It reads the paths of modules, one a line: of those that
// came, when they are there; of those that an uninstallation takes away, before;
// and of those that an installation replaced, after they went.

// weakVerb is what happens to modules.
type weakVerb string

const (
	weakAdd    weakVerb = "add"
	weakRemove weakVerb = "remove"
)

// weakCommand returns the command that hears of modules in kernel k; nil where
// the distribution has none, or nobody wants it.
func (e *Engine) weakCommand(verb weakVerb, release string) []string {
	// The directive's name works as a variable of the environment too, for
	// all packages.
	if off := os.Getenv("NO_WEAK_MODULES"); off != "" && !strings.EqualFold(off, "no") {
		return nil
	}
	switch {
	case e.Distro.Is("rhel", "centos"):
		return []string{e.System.WeakModules, "--no-initramfs", "--" + string(verb) + "-modules"}
	case e.Distro.Is("suse"):
		return []string{e.System.WeakModules2, "--" + string(verb) + "-kernel-modules", release}
	}
	return nil
}

// weakPlaced tells what an installation of a package with the conf c did.
func (e *Engine) weakPlaced(ctx context.Context, c conf.Conf, res place.Result, r *Result) {
	e.tellWeak(ctx, weakRemove, c, res.Removed, r)
	e.tellWeak(ctx, weakAdd, c, res.Placed, r)
}

// weakLeaving tells that the modules of p, which has the conf c, are about to be
// removed.
func (e *Engine) weakLeaving(ctx context.Context, c conf.Conf, p place.Package, r *Result) {
	if e.weakCommand(weakRemove, r.Kernel.Release) == nil {
		return
	}
	if files, err := e.placer(r.Kernel).Files(p); err == nil { // else nothing can be removed either
		e.tellWeak(ctx, weakRemove, c, files, r)
	}
}

// tellWeak tells the distribution of the modules called paths, whose package has
// the conf c. A failure is one of the links, not of the work: it becomes a
// warning in r.
func (e *Engine) tellWeak(ctx context.Context, verb weakVerb, c conf.Conf, paths []string, r *Result) {
	args := e.weakCommand(verb, r.Kernel.Release)
	if args == nil || c.NoWeakModules || len(paths) == 0 || !exists(args[0]) || !e.realKernels() {
		return
	}
	e.weakMu.Lock()
	defer e.weakMu.Unlock()
	limit := cmp.Or(e.System.WeakTimeout, 10*time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %v", limit))
	defer cancel()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n") + "\n")
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	err := child.Run(ctx, cmd)
	if err == nil {
		return
	}
	hint := fmt.Sprintf("other kernels may lack them; to tell it again: dkms install --force %s -k %s", r.ID, r.Kernel.Release)
	if verb == weakRemove {
		hint = "links to them may be left: see find " + e.Settings.InstallTree + "/*/weak-updates -xtype l"
	}
	why := err.Error()
	if line := out.lastLine(); line != "" {
		why += ": " + line
	}
	r.Warnings = append(r.Warnings, fmt.Sprintf("%s failed: %s (%s)", strings.Join(args, " "), why, hint))
}

// realKernels says whether modules go where the scripts look for them.
func (e *Engine) realKernels() bool {
	a, errA := os.Stat(e.Settings.InstallTree)
	b, errB := os.Stat(e.System.Modules)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-4096):]
	return len(p), nil
}

// lastLine returns the last line that says something, shortened.
func (t *tail) lastLine() string {
	lines := bytes.Split(bytes.TrimSpace(t.b), []byte("\n"))
	last := strings.ToValidUTF8(string(lines[len(lines)-1]), "?")
	if len(last) > 200 {
		last = strings.ToValidUTF8(last[:200], "") + "…"
	}
	return last
}

// weak returns the packages whose modules the kernel called release shares, all
// of them, with the kernel that each is installed for. As in the classic
// command, the links decide, whoever made them.
func (e *Engine) weak(release string, packages []tree.Package) map[tree.ID]tree.Target {
	if e.weakCommand(weakAdd, release) == nil {
		return nil
	}
	links := map[string][]string{} // where they lead, by the name of the file
	// What cannot be read is no link; there may be no such folder at all.
	_ = filepath.WalkDir(filepath.Join(e.Settings.InstallTree, release, "weak-updates"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSymlink {
			return nil
		}
		if to, err := filepath.EvalSymlinks(path); err == nil && filepath.Base(to) == d.Name() {
			links[d.Name()] = append(links[d.Name()], to)
		}
		return nil
	})
	if len(links) == 0 {
		return nil
	}
	found := map[tree.ID]tree.Target{}
	for _, p := range packages {
		for _, b := range p.Builds {
			if b.Installed && b.Release != release && len(b.Modules) > 0 && e.sharedBy(links, p.ID, b) {
				found[p.ID] = b.Target
			}
		}
	}
	return found
}

// sharedBy says whether links lead to all modules of b, a build of id: to where
// they are installed, or, where those are links themselves, into the tree.
func (e *Engine) sharedBy(links map[string][]string, id tree.ID, b tree.Build) bool {
	var in []string
	for _, dir := range []string{filepath.Join(e.Settings.InstallTree, b.Release), e.Tree.ModuleDir(id, b.Target)} {
		if dir, err := filepath.EvalSymlinks(dir); err == nil {
			in = append(in, dir+"/")
		}
	}
	for _, file := range b.Modules {
		if !slices.ContainsFunc(links[file], func(to string) bool {
			return slices.ContainsFunc(in, func(dir string) bool { return strings.HasPrefix(to, dir) }) &&
				e.placer(b.Target).Holds(id, to)
		}) {
			return false
		}
	}
	return true
}

// weakStatus tells of the packages for which [Engine.weak] says something.
func (e *Engine) weakStatus(packages []tree.Package, matchPackage func(tree.ID) bool, matchKernel func(tree.Target) bool) []Status {
	if e.weakCommand(weakAdd, "") == nil {
		return nil
	}
	var list []Status
	kernels, _ := os.ReadDir(e.Settings.InstallTree) // no folder, no links
	for _, kernel := range kernels {
		weak := e.weak(kernel.Name(), packages)
		for _, p := range packages {
			from, ok := weak[p.ID]
			k := tree.Target{Release: kernel.Name(), Arch: from.Arch}
			if ok && matchPackage(p.ID) && matchKernel(k) {
				list = append(list, Status{ID: p.ID, Kernel: k, State: StateWeak, WeakFrom: from.Release})
			}
		}
	}
	return list
}
