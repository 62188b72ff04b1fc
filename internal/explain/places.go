// SPDX-License-Identifier: GPL-2.0-or-later

package explain

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/initramfs"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/secureboot"
	"dkms-kernel-install/internal/tree"
)

// places is where a kernel's modules are looked for. It is read once for all packages.
type places struct {
	k       tree.Target
	dir     string
	index   func() map[string]string // paths in modules.dep, by module
	builtin func() map[string]string // in modules.builtin
	black   func() map[string]string // what keeps modules from being loaded, and where that is said
	image   func() image
	loading func() secureboot.World // of what is signed now
}

// image is the kernel's initramfs, if there is one, or why that cannot be told.
type image struct {
	initramfs.Initramfs
	there bool
	err   error
}

func newPlaces(m *machine.Machine, k tree.Target) *places {
	dir := m.Kernel(k).Dir
	return &places{
		k: k, dir: dir,
		index:   sync.OnceValue(func() map[string]string { return kmod.ReadList(filepath.Join(dir, "modules.dep")) }),
		builtin: sync.OnceValue(func() map[string]string { return kmod.ReadList(filepath.Join(dir, "modules.builtin")) }),
		black:   sync.OnceValue(func() map[string]string { return blacklist(m, k.Release == m.Running) }),
		loading: sync.OnceValue(func() secureboot.World { return m.Loading(k) }),
		image: sync.OnceValue(func() image {
			i, ok, err := initramfs.System{Root: m.Root, Modules: strings.TrimPrefix(m.Kernels.Modules, m.Root)}.Find(k.Release)
			return image{i, ok, err}
		}),
	}
}

// links returns what is true of the modules of s, which is installed: the worst of them
// for each step.
func (p *places) links(m *machine.Machine, s observe.Seen) (list []Link) {
	var modules []placed
	for _, mod := range observe.Placement(m, nil, nil, p.k, s).Modules {
		modules = append(modules, placed{kmod.ModuleName(mod.File), m.Modules(p.k).Path(mod)})
	}
	if len(modules) == 0 {
		return nil
	}
	list = append(list, p.signed(s, modules), p.indexed(modules), p.inInitramfs(modules), p.blacklisted(modules))
	if p.k.Release == m.Running {
		list = append(list, loaded(m, s.Name, modules))
	}
	return list
}

// placed is a module of a package: its name as the kernel has it, and its file.
type placed struct{ name, path string }

// worst returns the link of the module for which that is worst, of those that say returns.
func worst(step string, modules []placed, say func(placed) Link) (w Link) {
	order := []State{Good, Note, Unknown, Bad}
	for i, mod := range modules {
		l := say(mod)
		if i == 0 || slices.Index(order, l.State) > slices.Index(order, w.State) {
			w = l
		}
	}
	w.Step = step
	return w
}

// signed says whether the kernel loads the modules, by who has signed them. It reads those
// alone for which neither the kernel nor the record of their build answers that.
func (p *places) signed(s observe.Seen, modules []placed) Link {
	world := p.loading()
	anyway := world
	anyway.Key = secureboot.Key{} // nothing is known of it
	loads := anyway.Decide()
	if loads.Rule == "no-signatures" {
		return Link{Step: "signed", State: Good, Is: loads.Is}
	}
	return worst("signed", modules, func(mod placed) Link {
		w, signer, ok := world, "", true
		if s.SignedAsNow && s.Current && loads.Loads == secureboot.Yes && w.Certificate != nil {
			signer = kmod.SignerOf(w.Certificate)
			w.Signs = secureboot.Yes
		} else if data, err := kmod.ReadFile(mod.path); err != nil {
			return Link{State: Unknown, Is: err.Error()}
		} else {
			signer, ok = kmod.SignedBy(data)
			w.Key = keyOf(w, signer, ok)
			w.FileRevoked = w.Revoked.HasFile(data)
		}
		v := w.Decide()
		l := Link{State: state(v), Is: "by " + signer + ": " + v.Is, Do: v.Do}
		switch {
		case !ok && v.Loads == secureboot.Yes:
			l.State, l.Is = Note, mod.name+" is not signed; with Secure Boot this kernel may refuse it"
		case !ok && v.Loads == secureboot.No:
			l.Is = mod.name + " is not signed, and this kernel refuses such modules"
		case !ok:
			l.Is = mod.name + " is not signed: " + v.Is
		}
		return l
	})
}

// state returns the state of a link that a verdict makes.
func state(v secureboot.Verdict) State {
	return map[secureboot.Answer]State{secureboot.Yes: Good, secureboot.No: Bad, secureboot.Unknown: Unknown}[v.Loads]
}

// keyOf returns the key of a module with that signer, if ok is set. It is known if it is
// the one of w, which signs what is made now, or is enrolled.
func keyOf(w secureboot.World, signer string, ok bool) secureboot.Key {
	own := w.Key
	own.Signs = secureboot.If(ok)
	if !ok || own.Certificate != nil && kmod.SignerOf(own.Certificate) == signer {
		return own
	}
	key := secureboot.Key{Signs: secureboot.Yes, File: "CERTIFICATE"}
	for _, list := range []secureboot.List{w.MOK, w.DB, w.Waiting} {
		for _, c := range list.Certificates() {
			if kmod.SignerOf(c) == signer {
				key.Certificate = c
			}
		}
	}
	return key
}

// indexed says whether modprobe finds the modules, and not others of the same name.
func (p *places) indexed(modules []placed) Link {
	depmod := "run: depmod " + p.k.Release
	return worst("modules.dep", modules, func(mod placed) Link {
		rel, _ := filepath.Rel(p.dir, mod.path)
		at := p.index()[mod.name]
		builtin := p.builtin()[mod.name]
		switch {
		case builtin != "":
			return Link{State: Bad, Is: mod.name + " is built into this kernel, which needs no module of that name", Do: "use a kernel without it, or remove the package"}
		case at == "" && !files.Exists(mod.path):
			return Link{State: Bad, Is: mod.path + " does not exist", Do: "run: dkms-kernel-install add " + p.k.Release}
		case at == "":
			return Link{State: Bad, Is: mod.name + " is not in modules.dep: modprobe does not find it", Do: depmod}
		case at != rel:
			return Link{State: Bad, Is: fmt.Sprintf("modprobe takes %s, and not %s", filepath.Join(p.dir, at), mod.path),
				Do: "remove that file, or give the place of this one priority in /etc/depmod.d (see depmod.d(5)); then " + depmod}
		}
		return Link{State: Good, Is: "modprobe finds " + at}
	})
}

func (p *places) inInitramfs(modules []placed) Link {
	l := Link{Step: "initramfs", State: Good}
	i := p.image()
	var names []string
	for _, mod := range modules {
		names = append(names, mod.name)
	}
	switch {
	case i.err != nil:
		l.State, l.Is = Unknown, i.err.Error()
	case !i.there || len(i.Images) == 0:
		l.Is = "none is known for this kernel"
	default:
		carries, err := i.Carries(names)
		switch {
		case err != nil:
			l.State, l.Is = Unknown, err.Error()
		case carries:
			l.Is = "carries it: " + strings.Join(i.Images, " ")
		default:
			l.Is = "does not carry it: " + strings.Join(i.Images, " ")
		}
	}
	return l
}

func (p *places) blacklisted(modules []placed) Link {
	return worst("blacklist", modules, func(mod placed) Link {
		if where := p.black()[mod.name]; where != "" {
			return Link{State: Note, Is: mod.name + " is not loaded automatically: " + where, Do: "remove that line if you want it; modprobe " + mod.name + " may load it all the same"}
		}
		return Link{State: Good, Is: "not in it"}
	})
}

// StepLoaded is the step that says whether what is loaded is what is placed.
const StepLoaded = "loaded"

// loaded says whether the running kernel has the modules, and whether those are the ones
// that are placed.
func loaded(m *machine.Machine, pkg string, modules []placed) Link {
	return worst(StepLoaded, modules, func(mod placed) Link {
		sys := m.Path("/sys/module/" + mod.name)
		if !files.Exists(sys) {
			return Link{State: Note, Is: mod.name + " is not loaded", Do: "run: modprobe " + mod.name}
		}
		info, err := kmod.ReadInfo(mod.path)
		was := line(sys + "/srcversion")
		switch {
		case err != nil || was == "" || info.SrcVersion == "":
			return Link{State: Unknown, Is: mod.name + " is loaded; nothing tells whether it is the one that is placed"}
		case was != info.SrcVersion:
			return Link{State: Bad, Is: fmt.Sprintf("%s is loaded, but another build of it (source %s, placed is %s)", mod.name, was, info.SrcVersion),
				Do: fmt.Sprintf("run: dkms-kernel-install reload %s, or restart", pkg)}
		}
		return Link{State: Good, Is: mod.name + " is loaded, and is the one that is placed"}
	})
}

// line returns the first line of a file; "" if it cannot be read.
func line(file string) string {
	text, _ := os.ReadFile(file)
	first, _, _ := strings.Cut(string(text), "\n")
	return first
}

// blacklist returns what keeps modules from being loaded, by their names: lines of
// modprobe.d(5), and the command line of the running kernel if that is the one.
func blacklist(m *machine.Machine, running bool) map[string]string {
	list := map[string]string{}
	add := func(name, where string) {
		if name = kmod.Normal(name); list[name] == "" {
			list[name] = where
		}
	}
	if running {
		for _, word := range strings.Fields(line(m.Path("/proc/cmdline"))) {
			for _, option := range []string{"module_blacklist=", "modprobe.blacklist="} {
				if names, ok := strings.CutPrefix(word, option); ok {
					for name := range strings.SplitSeq(names, ",") {
						add(name, "the kernel's command line has "+word)
					}
				}
			}
		}
	}
	seen := map[string]bool{} // a file hides those of its name in later directories
	for _, dir := range []string{"/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"} {
		found, _ := filepath.Glob(filepath.Join(m.Path(dir), "*.conf"))
		for _, file := range found {
			if !seen[filepath.Base(file)] {
				seen[filepath.Base(file)] = true
				readModprobe(file, add)
			}
		}
	}
	return list
}

// readModprobe calls add for each module that a file of modprobe.d keeps from being loaded.
func readModprobe(file string, add func(name, where string)) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		where := fmt.Sprintf("%s, line %d: %s", file, n, strings.Join(words, " "))
		switch {
		case len(words) == 2 && words[0] == "blacklist":
			add(words[1], where)
		case len(words) >= 3 && words[0] == "install" && slices.Contains([]string{"false", "true"}, filepath.Base(words[2])):
			add(words[1], where)
		}
	}
}
