// SPDX-License-Identifier: GPL-2.0-or-later

package explain

import (
	"cmp"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/secureboot"
	"dkms-kernel-install/internal/tree"
)

// Load says whether a kernel loads the modules that are made for it now.
type Load struct {
	Kernel tree.Target
	secureboot.Verdict
}

// State returns the state of l as that of a link.
func (l Load) State() State { return state(l.Verdict) }

// Examination is what is true of a machine.
type Examination struct {
	Findings []Link
	Kernels  []Load // the newest first
}

// OK reports whether nothing is bad.
func (e Examination) OK() bool {
	return !slices.ContainsFunc(e.Findings, func(l Link) bool { return l.State == Bad }) &&
		!slices.ContainsFunc(e.Kernels, func(l Load) bool { return l.Loads == secureboot.No })
}

// Examine says what is true of a machine. It changes nothing.
func Examine(m *machine.Machine) (e Examination, err error) {
	releases, err := m.Kernels.List()
	if err != nil {
		return e, failure.From(err, "cannot list the kernels", 1)
	}
	releases = slices.DeleteFunc(releases, func(release string) bool { return m.HeadersAlone(m.Target(release)) })
	slices.Reverse(releases)
	w := m.Loading(m.Target(m.Running))
	e.Findings = container(m)
	if !m.Elsewhere {
		e.Findings = append(append(e.Findings, firmware(w)...), enforcement(m, w), keyrings(w))
	}
	var seen []string
	for _, release := range releases {
		k := m.Target(release)
		w := m.Loading(k)
		e.Kernels = append(e.Kernels, Load{k, w.Decide()})
		if m.Kernel(k).SignHash() != "" && !slices.Contains(seen, w.File) {
			seen = append(seen, w.File)
			e.Findings = append(e.Findings, signingKey(m, k, w)...)
		}
	}
	if len(releases) == 0 {
		e.Findings = append(e.Findings, Link{Step: "kernels", State: Note, Is: "there is none in " + m.Kernels.Modules})
	} else {
		e.Findings = append(e.Findings, tools(m, m.Target(releases[0]))...)
	}
	e.Findings = append(e.Findings, automatic(m)...)
	e.Findings = append(append(e.Findings, space(m)...), damage(m))
	return e, nil
}

// automatic says what keeps automatic work from being done.
func automatic(m *machine.Machine) (list []Link) {
	if file := m.Disabled(); file != "" {
		list = append(list, Link{Step: "automatic", State: Note, Is: file + " exists: nothing is installed automatically", Do: "remove it if you want that"})
	}
	const unit = "dkms.service"
	there := files.Exists(m.Path("/usr/lib/systemd/system/"+unit)) || files.Exists(m.Path("/lib/systemd/system/"+unit))
	wanted, _ := filepath.Glob(m.Path("/etc/systemd/system/*.wants/" + unit))
	if there && len(wanted) == 0 {
		list = append(list, Link{Step: "automatic", State: Note, Is: unit + " is disabled: what is missing at boot is not built then", Do: "run as root: systemctl enable " + unit})
	}
	return list
}

func container(m *machine.Machine) []Link {
	if m.Elsewhere {
		return []Link{{Step: "root", State: Note, Is: "this is that of a machine which does not run: its firmware is not known, nor what its kernel enforces", Do: "run this there, too"}}
	}
	for _, file := range []string{"/run/systemd/container", "/run/.containerenv", "/.dockerenv"} {
		if files.Exists(m.Path(file)) {
			return []Link{{Step: "container", State: Note, Is: "this is one: kernel and firmware are those of the machine around it", Do: "run this there, too"}}
		}
	}
	return nil
}

// firmware says whether Secure Boot is on, and what cannot be read of it.
func firmware(w secureboot.World) []Link {
	l := Link{Step: "secure boot", State: Unknown, Is: "not known", Do: "run this on the machine itself, with efivarfs: mount -t efivarfs efivarfs /sys/firmware/efi/efivars"}
	switch {
	case w.EFI == secureboot.No:
		l.State, l.Is, l.Do = Good, "the machine has no EFI, and so no Secure Boot", ""
	case w.SecureBoot == secureboot.No:
		l.State, l.Is, l.Do = Good, "off", ""
	case w.ValidationOff == secureboot.Yes:
		l.State, l.Is, l.Do = Note, "off for kernels, though on in the firmware: shim does not validate (MokSBStateRT)", "if you want it: mokutil --enable-validation"
	case w.SecureBoot == secureboot.Yes && w.ValidationOff == secureboot.No:
		l.State, l.Is, l.Do = Good, "on", ""
	}
	list := []Link{l}
	for _, err := range w.Errs {
		list = append(list, Link{Step: "firmware", State: Unknown, Is: err.Error(), Do: "run this as root, and not in a container"})
	}
	if w.EFI == secureboot.Yes && w.SecureBoot == secureboot.Yes && w.Trusted == secureboot.No {
		list = append(list, Link{Step: "shim's keys", State: Note, Is: "MokListTrustedRT is not there: most kernels, but not Debian's, do not take them for modules", Do: "run as root: mokutil --trust-mok"})
	}
	return list
}

// enforcement says whether the running kernel enforces signatures.
func enforcement(m *machine.Machine, w secureboot.World) Link {
	lockdown := cmp.Or(line(m.Path("/sys/kernel/security/lockdown")), "not known")
	is := fmt.Sprintf(" (sig_enforce: %s; lockdown: %s)", cmp.Or(line(m.Path("/sys/module/module/parameters/sig_enforce")), "not known"), lockdown)
	switch {
	case w.Enforcing == secureboot.Yes:
		return Link{Step: "enforcement", State: Good, Is: "the running kernel loads only modules whose key it has" + is}
	case w.Checks == secureboot.No:
		return Link{Step: "enforcement", State: Good, Is: "the running kernel checks no signatures"}
	case w.Enforcing == secureboot.No:
		return Link{Step: "enforcement", State: Good, Is: "the running kernel loads modules whoever signed them" + is}
	}
	return Link{Step: "enforcement", State: Unknown, Is: "it is not known whether the running kernel enforces signatures" + is, Do: "run this on the machine itself, with securityfs: mount -t securityfs securityfs /sys/kernel/security"}
}

// keyrings says what keys the running kernel has.
func keyrings(w secureboot.World) Link {
	if w.Rings == nil {
		return Link{Step: "keyrings", State: Unknown, Is: w.RingsErr.Error(), Do: "run this as root"}
	}
	var list []string
	for _, name := range w.Rings.Names() {
		var keys []string
		for _, key := range w.Rings[name] {
			keys = append(keys, key.String())
		}
		list = append(list, name+": "+cmp.Or(strings.Join(keys, ", "), "empty"))
	}
	return Link{Step: "keyrings", State: Good, Is: strings.Join(list, "; ")}
}

// tools says what builds for a kernel lack.
func tools(m *machine.Machine, k tree.Target) (list []Link) {
	kern := m.Kernel(k)
	if lacks := kern.LacksHeaders(); lacks != "" {
		list = append(list, Link{Step: "headers", State: Bad, Is: lacks + " does not exist: nothing can be built for " + k.Release, Do: m.HeadersHint(k.Release)})
	} else {
		list = append(list, Link{Step: "headers", State: Good, Is: kern.SourceDir})
	}
	compiler := kern.Compiler()
	var missing, wanted []string
	for _, t := range []struct {
		program string
		must    bool
	}{{"make", true}, {cmp.Or(compiler.CC, "gcc"), true}, {"depmod", true}, {"bash", true}, {compiler.Strip, false}, {"patch", false}} {
		if _, err := exec.LookPath(t.program); err == nil {
			continue
		} else if t.must {
			missing = append(missing, t.program)
		} else {
			wanted = append(wanted, t.program)
		}
	}
	l := Link{Step: "tools", State: Good, Is: "all there"}
	switch all := strings.Join(append(missing, wanted...), " "); {
	case len(missing) > 0:
		l.State, l.Is, l.Do = Bad, "missing: "+all, "install the packages that have them"
	case len(wanted) > 0:
		l.State, l.Is, l.Do = Note, "missing: "+all+", which some packages need", "install the packages that have them"
	}
	return append(list, l)
}

// space says how much is free where this program writes.
func space(m *machine.Machine) (list []Link) {
	const little = 64 << 20
	for _, dir := range []string{m.Tree.Dir, m.Kernels.Modules, m.Kernels.Boot} {
		var st unix.Statfs_t
		if !files.Exists(dir) {
			continue
		}
		if err := unix.Statfs(dir, &st); err != nil {
			list = append(list, Link{Step: "space", State: Unknown, Is: dir + ": " + err.Error()})
			continue
		}
		free := st.Bavail * uint64(st.Bsize)
		l := Link{Step: "space", State: Good, Is: fmt.Sprintf("%s: %d MiB free", dir, free>>20)}
		if free < little {
			l.State, l.Do = Note, "make room: what does not fit is not built or placed"
		}
		list = append(list, l)
	}
	return list
}

// damage says which packages are not as they should be.
func damage(m *machine.Machine) Link {
	l := Link{Step: "tree", State: Good, Is: m.Tree.Dir}
	list, err := observe.StatusOf(m, func(tree.ID) bool { return true }, func(tree.Target) bool { return true })
	if err != nil {
		l.State, l.Is = Unknown, err.Error()
		return l
	}
	var bad []string
	for _, s := range list {
		if s.KernelGone {
			continue
		}
		switch {
		case s.State == observe.StateBroken:
			bad = append(bad, s.ID.String()+" has no source")
		case s.Missing:
			bad = append(bad, fmt.Sprintf("%s for %s lacks a module", s.ID, s.Kernel.Release))
		case s.Differs:
			bad = append(bad, fmt.Sprintf("%s for %s is not placed as it was built", s.ID, s.Kernel.Release))
		}
	}
	const most = 3
	if n := len(bad); n > 0 {
		l.State, l.Is, l.Do = Bad, strings.Join(bad[:min(n, most)], "; "), "see: dkms-kernel-install why"
		if n > most {
			l.Is += fmt.Sprintf("; and %d more", n-most)
		}
	}
	return l
}
