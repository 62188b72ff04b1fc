// SPDX-License-Identifier: GPL-2.0-or-later

// Package distro tells what follows from the distribution: where modules go,
// and which package brings a kernel's headers. Distributions are told apart by
// os-release(5).
package distro

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Distro is a distribution: its ID and those it is like, most specific first.
type Distro struct {
	IDs []string
}

// Read reads the first of the os-release files that is there. A system without one
// is like no other.
func Read(files ...string) Distro {
	var f *os.File
	for _, file := range files {
		var err error
		if f, err = os.Open(file); err == nil {
			defer f.Close()
			break
		}
	}
	if f == nil {
		return Distro{}
	}
	values := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		values[name] = strings.Trim(value, `"'`)
	}
	return Distro{append(strings.Fields(values["ID"]), strings.Fields(values["ID_LIKE"])...)}
}

// Is reports whether the distribution is one of ids, or like one.
func (d Distro) Is(ids ...string) bool {
	return slices.ContainsFunc(d.IDs, func(id string) bool {
		// openSUSE's IDs are opensuse-leap and the like.
		return slices.Contains(ids, id) || strings.HasPrefix(id, "opensuse") && slices.Contains(ids, "suse") ||
			(id == "sles" || id == "sled") && slices.Contains(ids, "suse")
	})
}

// AddonModulesDir returns the directory below /lib/modules/K to which every module
// goes; "" where each package's dkms.conf decides.
func (d Distro) AddonModulesDir() string {
	switch {
	case d.Is("debian", "ubuntu", "arch"):
		return "/updates/dkms"
	case d.Is("fedora", "rhel", "centos"):
		return "/extra"
	case d.Is("suse"):
		return "/updates"
	}
	return ""
}

// HeadersHint says how to get the headers of the kernel whose modules are in
// dir, /lib/modules/K.
func (d Distro) HeadersHint(dir string) string {
	release := filepath.Base(dir)
	install := func(manager, pkg string) string { return fmt.Sprintf("run: %s %s", manager, pkg) }
	switch {
	case d.Is("debian", "ubuntu"):
		return install("apt install", "linux-headers-"+release)
	case d.Is("fedora", "rhel", "centos"):
		return install("dnf install", "kernel-devel-"+release)
	case d.Is("arch"):
		// The package of the kernel leaves its own name there.
		base, err := os.ReadFile(filepath.Join(dir, "pkgbase"))
		name := strings.TrimSpace(string(base))
		if err != nil || name == "" {
			name = "linux"
		}
		return install("pacman -S", name+"-headers")
	case d.Is("suse"):
		flavour := release[strings.LastIndex(release, "-")+1:]
		return install("zypper install", fmt.Sprintf("kernel-%s-devel", flavour))
	case d.Is("gentoo"):
		return fmt.Sprintf("emerge sys-kernel/gentoo-kernel or the sources of %s, and run make modules_prepare in them", release)
	}
	return fmt.Sprintf("install the headers of kernel %s, so that %s/build/include exists", release, dir)
}
