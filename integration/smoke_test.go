// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestRoot checks what the other tests rely on: paths stay inside the root, kernel-install makes an initramfs and a boot
// entry for each kernel, and no test sees what another did.
func TestRoot(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	pristine := r.Snapshot()

	kernels := r.Kernels()
	if len(kernels) != 2 {
		t.Fatalf("kernels: %q", kernels)
	}
	r.Write("/a/b/file", "text", 0o644)
	r.Sh(`ln -s /a/b/file /link; ln -s ../../../../a /a/b/up; ln -s /nowhere /dangling`)
	if got := r.Read("/link") + r.Read("/a/b/up/b/file"); got != "texttext" {
		t.Errorf("through symlinks: %q", got)
	}
	if !r.Exists("/dangling") || r.Exists("/nowhere") {
		t.Error("Exists follows symlinks")
	}
	if got := r.Run("sh", "-c", "echo out; echo err >&2; exit 3"); got.Stdout != "out\n" || got.Stderr != "err\n" || got.Status != 3 {
		t.Errorf("Run: %v", got)
	}
	if got := r.Run("sh", "-c", "kill -9 $$"); got.Status != 137 {
		t.Errorf("killed: %v", got)
	}
	if got := r.MustRun("head", "-c4", "/dev/zero"); got != "\x00\x00\x00\x00" {
		t.Errorf("/dev/zero: %q", got)
	}
	caps, err := strconv.ParseUint(strings.TrimSpace(r.Sh("sed -n 's/^CapEff:.//p' /proc/self/status")), 16, 64)
	if err != nil || caps&(1<<unix.CAP_SYS_MODULE|1<<unix.CAP_SYS_BOOT) != 0 {
		t.Errorf("a test could load a module into this machine's kernel: capabilities %x, %v", caps, err)
	}
	sleep := strconv.Itoa(r.Start("sleep", "1000").Process.Pid)
	if got := r.Processes(); len(got) != 1 || !strings.HasPrefix(got[0], sleep+" ") { // its command line may still be empty
		t.Errorf("processes: %q, want sleep's, %s", got, sleep)
	}

	r.Write("/etc/dracut.conf.d/drivers.conf", `add_drivers+=" dummy "`, 0o644)
	r.MustRun("kernel-install", "add-all")
	for _, k := range kernels {
		dir := "/boot/debian/" + k + "/"
		if !r.Exists("/boot/loader/entries/debian-"+k+".conf") || !r.Exists(dir+"linux") || !r.Exists(dir+"initrd") {
			t.Errorf("%s: no boot entry: %q", k, r.Glob("/boot/*/*"))
		}
		if got := r.MustRun("lsinitrd", dir+"initrd"); !strings.Contains(got, k+"/kernel/drivers/net/dummy.ko") {
			t.Errorf("%s: the module that was asked for is not in the initramfs", k)
		}
	}
	if diff := cmp.Diff(pristine, r.Snapshot()); diff != "" {
		t.Errorf("kernel-install alone changed modules (-before +after):\n%s", diff)
	}

	if other := NewRoot(t); other.Exists("/a") || len(other.Processes()) != 0 {
		t.Error("two roots share something")
	}
}

// TestPeer checks that Debian's own dkms works in the root, and how a kernel loads a module that it signed, so that other
// tests can compare with both.
func TestPeer(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.InstallPeer()
	m, v := r.Unpack("dkms-test-dkms")
	k := r.Kernels()[1]
	if got := r.Peer("install", m+"/"+v, "-k", k); got.Status != 0 {
		t.Fatalf("install: %v", got)
	}
	if got, want := r.Peer("status").Stdout, "dkms_test/1.0, "+k+", x86_64: installed\n"; got != want {
		t.Errorf("status: got %q, want %q", got, want)
	}
	snap := r.Snapshot()
	if got := snap["/var/lib/dkms/dkms_test/kernel-"+k+"-x86_64"].Target; got != "1.0/"+k+"/x86_64" {
		t.Errorf("link: %q", got)
	}
	placed := "/usr/lib/modules/" + k + "/updates/dkms/dkms_test.ko.xz"
	if _, ok := snap[placed]; !ok {
		t.Fatal("module is not placed")
	}
	out := BootAndLoad(t, filepath.Join(r.Dir, "usr/lib/modules", k, "vmlinuz"), filepath.Join(r.Dir, placed))
	for _, want := range []string{
		"load dkms_test.ko.xz: ok\n",
		"module dkms_test ",
		"tainted 12288\n", // out of tree, and no key of its signature is in the kernel's keyring
		"module verification failed: signature and/or required key missing",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}
