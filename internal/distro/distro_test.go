// SPDX-License-Identifier: GPL-2.0-or-later

package distro

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDistro(t *testing.T) {
	for _, tt := range []struct{ osRelease, dir, hint string }{
		{"ID=debian\nVERSION_ID=\"13\"", "/updates/dkms", "apt install linux-headers-6.1-default"},
		{"ID=ubuntu\nID_LIKE=debian", "/updates/dkms", "apt install linux-headers-6.1-default"},
		{"ID=linuxmint\nID_LIKE=\"ubuntu debian\"", "/updates/dkms", "apt install linux-headers-6.1-default"},
		{"ID=arch", "/updates/dkms", "pacman -S linux-zen-headers"},
		{"ID=fedora", "/extra", "dnf install kernel-devel-6.1-default"},
		{"ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"", "/extra", "dnf install kernel-devel-6.1-default"},
		{"ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"", "/updates", "zypper install kernel-default-devel"},
		{"ID=opensuse-tumbleweed", "/updates", "zypper install kernel-default-devel"},
		{"ID='sles'", "/updates", "zypper install kernel-default-devel"},
		{"ID=gentoo", "", "modules_prepare"},
		{"ID=nixos", "", "install the headers of kernel 6.1-default"},
		{"", "", "install the headers of kernel 6.1-default"},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "os-release")
		modules := filepath.Join(dir, "6.1-default")
		if err := os.Mkdir(modules, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{file: tt.osRelease, filepath.Join(modules, "pkgbase"): "linux-zen\n"} {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d := Read(filepath.Join(dir, "none"), file, "/dev/full")
		if got := d.AddonModulesDir(); got != tt.dir {
			t.Errorf("%q: modules go to %q, want %q", tt.osRelease, got, tt.dir)
		}
		if got := d.HeadersHint(modules); !strings.Contains(got, tt.hint) {
			t.Errorf("%q: the hint is %q, want %q", tt.osRelease, got, tt.hint)
		}
	}
	if d := Read("/nonexistent"); len(d.IDs) != 0 {
		t.Errorf("without a file it is %v", d)
	}
}
