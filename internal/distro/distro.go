// SPDX-License-Identifier: GPL-2.0-or-later

// Package distro knows what depends on the distribution: where modules go, and which
// package has a kernel's headers. It tells distributions apart by os-release(5).
package distro

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Distro is a distribution.
type Distro struct {
	IDs []string // ID and ID_LIKE of os-release(5), most specific first
}

// Read reads the first of the os-release files that it can open. If there is none, the
// Distro has no IDs.
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

// Is reports whether the distribution is one of ids, or is like one of them.
func (d Distro) Is(ids ...string) bool {
	return slices.ContainsFunc(d.IDs, func(id string) bool {
		// The IDs of openSUSE are opensuse-leap and the like.
		return slices.Contains(ids, id) || strings.HasPrefix(id, "opensuse") && slices.Contains(ids, "suse") ||
			(id == "sles" || id == "sled") && slices.Contains(ids, "suse")
	})
}

// AddonModulesDir returns the directory below /lib/modules/K, with a leading slash,
// that every module goes to. It returns "" if each package's dkms.conf decides.
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

// HeadersHint returns how to get the headers of the kernel whose modules are in dir,
// /lib/modules/K, for a person to read.
func (d Distro) HeadersHint(dir string) string {
	release := filepath.Base(dir)
	install := func(manager, pkg string) string { return fmt.Sprintf("run: %s %s", manager, pkg) }
	switch {
	case d.Is("debian", "ubuntu"):
		return install("apt install", "linux-headers-"+release)
	case d.Is("fedora", "rhel", "centos"):
		return install("dnf install", "kernel-devel-"+release)
	case d.Is("arch"):
		// The package of the kernel writes its name there.
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
