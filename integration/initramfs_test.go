// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	ramfs "dkms-kernel-install/internal/initramfs"
)

// listed returns the modules of a kernel in an image, as lsinitrd prints them at the ends of its long lines.
func listed(t *testing.T, r *Root, image, k string) (list []string) {
	t.Helper()
	for line := range strings.Lines(r.MustRun("lsinitrd", image)) {
		words := strings.Fields(line)
		if len(words) < 9 || words[0][0] == 'd' {
			continue
		}
		file := words[8]
		if strings.Contains(path.Base(file), ".ko") && strings.HasPrefix(file, "usr/lib/modules/"+k+"/") {
			list = append(list, file)
		}
	}
	return list
}

// carriesListed checks that the image carries each module that lsinitrd lists, or only the first and the last of them
// unless each is true, and none of the kernel's others.
func carriesListed(t *testing.T, r *Root, i ramfs.Initramfs, image, k string, each bool) {
	t.Helper()
	name := func(file string) string {
		name, _, _ := strings.Cut(path.Base(file), ".ko")
		return strings.ReplaceAll(name, "-", "_")
	}
	var inside []string
	for _, file := range listed(t, r, image, k) {
		inside = append(inside, name(file))
	}
	if len(inside) == 0 {
		t.Errorf("%s: no modules", k)
	}
	for n, module := range inside {
		if !each && n > 0 && n < len(inside)-1 {
			continue
		}
		if carries, err := i.Carries([]string{module}); !carries || err != nil {
			t.Errorf("%s: carries %s: %v, %v", k, module, carries, err)
		}
	}
	var others []string
	for line := range strings.Lines(r.Read("/usr/lib/modules/" + k + "/modules.order")) {
		if module := name(strings.TrimSpace(line)); !slices.Contains(inside, module) {
			others = append(others, module)
		}
	}
	if carries, err := i.Carries(others); carries || err != nil {
		t.Errorf("%s: carries one of %d modules that lsinitrd does not list: %v, %v", k, len(others), carries, err)
	}
}

// look checks what package initramfs reports for a kernel: how its image is made, and which modules are in it. The
// kernel's own module is not in it, and one that was asked for is.
func look(t *testing.T, r *Root, k string, g ramfs.Generator, image string, commands [][]string) {
	t.Helper()
	i, ok, err := ramfs.System{Root: r.Dir}.Find(k)
	if err != nil || !ok {
		t.Fatalf("%s: found %v, %v", k, ok, err)
	}
	if i.Generator != g || !slices.Equal(i.Images, []string{image}) {
		t.Errorf("%s: %s made %q, want %s and %s", k, i.Generator, i.Images, g, image)
	}
	if diff := cmp.Diff(commands, i.Commands()); diff != "" {
		t.Errorf("%s: commands (-want +got):\n%s", k, diff)
	}
	carriesListed(t, r, i, image, k, false)
	if !r.Exists("/usr/lib/modules/" + k + "/kernel/drivers/net/veth.ko.xz") {
		t.Fatalf("%s has no veth", k)
	}
	for _, c := range []struct {
		modules []string
		want    bool
	}{
		{[]string{"dummy"}, true}, {[]string{"veth", "dm-mod"}, true}, {[]string{"dm_mod"}, true}, {[]string{"veth"}, false},
	} {
		if got, err := i.Carries(c.modules); got != c.want || err != nil {
			t.Errorf("%s: carries %q: %v, %v", k, c.modules, got, err)
		}
	}
}

// TestInitramfs looks into images that the real generators of the root made, and has them make the images again.
func TestInitramfs(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.Write("/etc/dracut.conf.d/drivers.conf", `add_drivers+=" dummy dm_mod "`, 0o644)
	for _, k := range r.Kernels() {
		if i, ok, err := (ramfs.System{Root: r.Dir}).Find(k); ok || err != nil {
			t.Errorf("before there is an initramfs of %s: %+v, %v", k, i, err)
		}
	}
	inode := func(file string) string { return r.MustRun("stat", "-L", "-c", "%i %y", file) }

	r.MustRun("kernel-install", "add-all")
	for _, k := range r.Kernels() {
		image := "/boot/debian/" + k + "/initrd"
		add := []string{"kernel-install", "add", k, "/lib/modules/" + k + "/vmlinuz"}
		look(t, r, k, ramfs.KernelInstall, image, [][]string{add})
	}
	k := r.Kernels()[1]
	image := "/boot/debian/" + k + "/initrd"
	was := inode(image)
	makeAnew(t, r, k)
	if inode(image) == was {
		t.Error("kernel-install did not make the image again")
	}
	look(t, r, k, ramfs.KernelInstall, image, [][]string{{"kernel-install", "add", k, "/lib/modules/" + k + "/vmlinuz"}})
	r.MustRun("kernel-install", "remove", k)
	if _, ok, err := (ramfs.System{Root: r.Dir}).Find(k); ok || err != nil {
		t.Errorf("after kernel-install remove: %v, %v", ok, err)
	}

	r.MustRun("depmod", k) // 50-depmod.install removed the indexes

	// As Debian's hook for kernel packages calls dracut; then in each compression that there is a program for, as
	// dracut calls it.
	image = "/boot/initrd.img-" + k
	r.MustRun("dracut", "--force", image, k)
	r.MustRun("cp", image, "/root/plain")
	for _, program := range []string{"cat", "gzip -n -9", "bzip2 -9", "xz --check=crc32 --lzma2=dict=1MiB -T0", "zstd -15 -q -T0"} {
		t.Log(program)
		r.Sh(program + " </root/plain >" + image)
		look(t, r, k, ramfs.Dracut, image, [][]string{{"dracut", "--force", "--kver", k, image}})
	}
	was = inode(image)
	r.Write("/etc/dracut.conf.d/drivers.conf", `add_drivers+=" dummy dm_mod veth "`, 0o644)
	makeAnew(t, r, k)
	if inode(image) == was {
		t.Error("dracut did not make the image again")
	}
	i, _, err := ramfs.System{Root: r.Dir}.Find(k)
	if err != nil {
		t.Fatal(err)
	}
	if carries, err := i.Carries([]string{"veth"}); !carries || err != nil {
		t.Errorf("veth was asked for: %v, %v", carries, err)
	}

	// Processor microcode comes first, in a separate archive that is not compressed.
	r.Sh("mkdir -p /tmp/early/kernel/x86/microcode && cd /tmp/early && echo 1 >early_cpio && echo >kernel/x86/microcode/GenuineIntel.bin && " +
		"find . | cpio -o -H newc --quiet >/tmp/early.cpio && cat /tmp/early.cpio " + image + " >/tmp/both && cp /tmp/both " + image)
	carriesListed(t, r, i, image, k, true)
}

// makeAnew runs the commands that make a kernel's initramfs.
func makeAnew(t *testing.T, r *Root, k string) {
	t.Helper()
	i, ok, err := ramfs.System{Root: r.Dir}.Find(k)
	if err != nil || !ok {
		t.Fatalf("%s: found %v, %v", k, ok, err)
	}
	for _, c := range i.Commands() {
		r.MustRun(c...)
	}
}
