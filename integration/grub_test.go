// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"regexp"
	"strings"
	"testing"
)

// grubRoot is a root with GRUB, two kernels, and a required package, which is installed for the old kernel alone.
type grubRoot struct {
	*Root
	pkg, source, good string // the package, its file, and what is in there
	old, fresh        string // the kernels
	headers           string // of the fresh one
}

func newGrubRoot(t *testing.T, release made) grubRoot {
	t.Helper()
	r := grubRoot{Root: NewRoot(t)}
	r.installTarget("install-debian")
	r.layInFrom(release, "grub-common")
	r.layInFrom(release, "grub2-common")
	// GRUB's programs find no disk below the root, and the tests may be in a container.
	r.Write("/usr/sbin/grub-probe", "#!/bin/sh\ncase $* in *target=device*) echo /dev/vda1 ;; *target=fs) echo ext2 ;; *) echo 12345678 ;; esac\n", 0o755)
	r.Write("/usr/bin/grub-mkrelpath", "#!/bin/sh\necho \"$1\"\n", 0o755)
	r.Write("/usr/bin/grub-script-check", "#!/bin/sh\n", 0o755)
	r.Write("/usr/local/sbin/systemd-detect-virt", "#!/bin/sh\nexit 1\n", 0o755)
	r.Write("/boot/grub/grub.cfg", "", 0o644)
	// An initramfs takes long to make, and what is in it makes no difference here.
	r.MustRun("rm", "/usr/bin/dracut")
	r.Write("/etc/kernel/postinst.d/initramfs", "#!/bin/sh\n>/boot/initrd.img-$1\n", 0o755)
	r.Write("/etc/dkms/framework.conf.d/test.conf", "required_packages=vhba\ntry_sign_modules=false\n", 0o644)
	r.old, r.fresh = r.Kernels()[0], r.Kernels()[1]
	r.headers = "/usr/lib/modules/" + r.fresh + "/build"
	m, v := r.Unpack("vhba-dkms")
	r.pkg, r.source = m+"/"+v, "/usr/src/"+m+"-"+v+"/vhba.c"
	r.good = r.Read(r.source)
	r.ShareBuilds()
	r.MustRun("dkms", "install", r.pkg, "-k", r.old)
	return r
}

// breaks has the package fail to build.
func (r grubRoot) breaks() { r.Write(r.source, "#error no good\n", 0o644) }

// works undoes breaks.
func (r grubRoot) works() { r.Write(r.source, r.good, 0o644) }

// unbuild removes the package from a kernel, as if it had never been built for it.
func (r grubRoot) unbuild(k string) { r.MustRun("dkms", "unbuild", r.pkg, "-k", k) }

// postinst runs what a package of modules runs.
func (r grubRoot) postinst() Result {
	return r.Run(append([]string{"/usr/lib/dkms/common.postinst"}, strings.Split(r.pkg, "/")...)...)
}

// configure runs the script of the fresh kernel's image or headers, and checks whether it succeeds.
func (r grubRoot) configure(what string, want bool) {
	r.t.Helper()
	res := r.Run("/var/lib/dpkg/info/linux-"+what+"-"+r.fresh+".postinst", "configure")
	if res.Status == 0 != want {
		r.t.Errorf("the postinst of the %s: %v", what, res)
	}
}

var (
	defaultEntry = regexp.MustCompile(`set default="(?:.*>)?gnulinux-(.*)-advanced-12345678"`)
	firstEntry   = regexp.MustCompile(`/boot/vmlinuz-(\S+)`)
)

// starts checks which kernel GRUB's menu starts by default.
func (r grubRoot) starts(when, want string) {
	r.t.Helper()
	menu, got := r.Read("/boot/grub/grub.cfg"), ""
	for _, entry := range []*regexp.Regexp{defaultEntry, firstEntry} {
		if m := entry.FindStringSubmatch(menu); m != nil {
			got = m[1]
			break
		}
	}
	if got != want {
		r.t.Errorf("%s, GRUB starts %q by default, want %q", when, got, want)
	}
}

// updated is starts after another program had the menu made again.
func (r grubRoot) updated(when, want string) {
	r.t.Helper()
	r.MustRun("update-grub")
	r.starts(when, want)
}

// TestDebianGrub runs the scripts of Debian's kernel packages with GRUB's hook after ours, and sees what GRUB would
// start if a required package is missing for the newest kernel.
func TestDebianGrub(t *testing.T) {
	t.Parallel()
	r := newGrubRoot(t, get(t, coreSet))
	r.MustRun("mv", r.headers, "/tmp/headers")
	r.configure("image", true)
	r.starts("before the headers come", r.old)
	r.MustRun("mv", "/tmp/headers", r.headers)
	r.breaks()
	r.configure("headers", true)
	r.starts("with headers that it is not built with", r.old)
	r.updated("when something else renews the menu", r.old)
	r.works()
	r.postinst()
	r.starts("when the package is installed again", r.fresh)
	r.unbuild(r.fresh)
	r.breaks()
	if res := r.postinst(); res.Status == 0 {
		t.Errorf("the postinst of a required package that fails: %v", res)
	}
	r.updated("when a later version of the package fails", r.old)
	r.works()
	r.configure("headers", true)
	r.starts("when the headers bring the package", r.fresh)

	r.unbuild(r.fresh)
	r.MustRun("rm", "/boot/initrd.img-"+r.fresh)
	r.breaks()
	r.configure("headers", true)
	r.configure("image", false)
	r.updated("when the image comes last, and something else renews the menu", r.old)
	r.works()
	r.configure("headers", true)
	r.starts("with the package, but without an initramfs", r.old)
	r.configure("image", true)
	r.starts("when the image brings the package", r.fresh)

	r.unbuild(r.fresh)
	r.Write("/etc/default/grub.d/zz.cfg", "GRUB_TOP_LEVEL=/boot/vmlinuz-"+r.fresh+"\n", 0o644)
	r.updated("when the administrator says so", r.fresh)
	r.MustRun("rm", "/etc/default/grub.d/zz.cfg")
	r.unbuild(r.old)
	r.updated("when every kernel lacks it", r.fresh)
	r.MustRun("dkms", "install", r.pkg, "-k", r.old)
	r.MustRun("rm", "/etc/dkms/framework.conf.d/test.conf")
	r.updated("when nothing is required", r.fresh)
	r.MustRun("rm", "/usr/sbin/dkms-kernel-install")
	r.updated("without the program", r.fresh)
}

// TestOldGrub does so with the GRUB of bookworm, in whose menu the newest kernel is always the first.
func TestOldGrub(t *testing.T) {
	t.Parallel()
	r := newGrubRoot(t, get(t, releases[0].set))
	r.breaks()
	r.configure("headers", true)
	r.updated("with headers that it is not built with", r.old)
	r.Write("/etc/default/grub.d/a.cfg", "GRUB_DISABLE_SUBMENU=y\n", 0o644)
	r.updated("without a submenu", r.old)
	if menu := r.Read("/boot/grub/grub.cfg"); !strings.Contains(menu, "'gnulinux-"+r.old+"-advanced-12345678'") {
		t.Errorf("the menu has no such entry: %s", menu)
	}
	r.Write("/etc/default/grub.d/a.cfg", "GRUB_DEFAULT=saved\n", 0o644)
	r.updated("with what was saved", r.fresh)
	r.MustRun("rm", "/etc/default/grub.d/a.cfg")
	r.works()
	r.configure("headers", true)
	r.updated("when the headers bring the package", r.fresh)
}
