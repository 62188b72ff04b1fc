// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// quick are packages that build in seconds, for tests that are not about the build: some for both kernels, some for one
// kernel only, one with two modules.
var quick = []string{"acpi-call-dkms", "ddcci-dkms", "evdi-dkms", "v4l2loopback-dkms", "vhba-dkms"}

// installAll makes a root with our program, in which the packages are registered and modules are signed.
func installAll(t testing.TB, packages ...string) *Root {
	t.Helper()
	r := installAgain(t, packages...)
	r.ShareBuilds()
	return r
}

// installAgain is installAll for a test in which the packages are built, whatever was built before.
func installAgain(t testing.TB, packages ...string) *Root {
	t.Helper()
	r := NewRoot(t)
	r.InstallProgram()
	r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
	for _, pkg := range packages {
		m, v := r.Unpack(pkg)
		r.MustRun("dkms", "add", m+"/"+v)
	}
	return r
}

// brokenPackage registers a package whose build fails.
func brokenPackage(r *Root) {
	r.Write("/usr/src/broken-1.0/dkms.conf", "PACKAGE_NAME=broken\nPACKAGE_VERSION=1.0\nAUTOINSTALL=yes\nDEST_MODULE_LOCATION=/extra\n", 0o644)
	r.Write("/usr/src/broken-1.0/Makefile", "obj-m := broken.o\n", 0o644)
	r.Write("/usr/src/broken-1.0/broken.c", "#include <linux/module.h>\nint f(void) { return nothing_of_that_name; }\n", 0o644)
	r.MustRun("dkms", "add", "broken/1.0")
}

// states returns the lines of dkms status by package and kernel.
func states(r *Root) map[string]string {
	list := map[string]string{}
	for line := range strings.Lines(r.MustRun("dkms", "status")) {
		what, state, _ := strings.Cut(strings.TrimSpace(line), ": ")
		list[what] = state
	}
	return list
}

// builds returns the inode of the log of every build: it changes if the build is made again.
func builds(r *Root) map[string]string {
	list := map[string]string{}
	for line := range strings.Lines(r.Sh("find /var/lib/dkms -name make.log -printf '%p %i\n'")) {
		file, inode, _ := strings.Cut(strings.TrimSpace(line), " ")
		list[file] = inode
	}
	return list
}

// initramfs lists the files in the initramfs of a kernel.
func initramfs(r *Root, k string) string {
	return r.MustRun("lsinitrd", fmt.Sprintf("/boot/debian/%s/initrd", k))
}

func TestKernelInstall(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	before := r.Snapshot()
	r = installAll(t, quick...)
	registered := r.Snapshot()
	r.Write("/etc/dracut.conf.d/driver.conf", `add_drivers+=" acpi_call "`+"\n", 0o644)
	r.Write("/usr/local/sbin/depmod", "#!/bin/sh\necho \"$@\" >>/tmp/depmod\nexec /sbin/depmod \"$@\"\n", 0o755)

	out := r.MustRun("kernel-install", "add-all")
	t.Log(out)
	for _, k := range r.Kernels() {
		for _, module := range []string{"acpi_call", "ddcci", "ddcci-backlight", "evdi", "vhba"} {
			file := fmt.Sprintf("/usr/lib/modules/%s/updates/dkms/%s.ko.xz", k, module)
			if !r.Exists(file) {
				if (module == "evdi" || strings.HasPrefix(module, "ddcci")) && strings.Contains(k, "cloud") {
					continue // they are for displays
				}
				t.Errorf("%s is missing", file)
				continue
			}
			if signer := r.MustRun("modinfo", "-F", "signer", file); signer != "DKMS module signing key\n" {
				t.Errorf("%s is signed by %q", file, signer)
			}
			if !strings.Contains(r.Read("/usr/lib/modules/"+k+"/modules.dep"), "updates/dkms/"+module+".ko.xz:") {
				t.Errorf("depmod for %s did not see %s", k, module)
			}
		}
		if !strings.Contains(initramfs(r, k), "updates/dkms/acpi_call.ko") {
			t.Errorf("the initramfs of %s lacks acpi_call", k)
		}
		// depmod runs once, by 50-depmod.install.
		if n := strings.Count(r.Read("/tmp/depmod"), k+"\n"); n != 1 {
			t.Errorf("depmod ran %d times for %s", n, k)
		}
	}
	for what, state := range states(r) {
		if state != "installed" && !strings.HasPrefix(what, "v4l2loopback") {
			t.Errorf("%s: %s", what, state)
		}
	}

	t.Run("again", func(t *testing.T) {
		was, built := r.Snapshot(), builds(r)
		r.MustRun("kernel-install", "add-all")
		if diff := cmp.Diff(built, builds(r)); diff != "" {
			t.Errorf("a second add-all built: %s", diff)
		}
		if diff := cmp.Diff(was, r.Snapshot()); diff != "" {
			t.Errorf("a second add-all changed files: %s", diff)
		}
	})

	t.Run("files gone", func(t *testing.T) {
		was, built := r.Snapshot(), builds(r)
		k := r.Kernels()[0]
		dir := "/usr/lib/modules/" + k + "/updates/dkms/"
		r.MustRun("rm", dir+"acpi_call.ko.xz")
		r.Write(dir+"vhba.ko.xz", "something else", 0o644)
		if state := states(r)["acpi-call/1.2.2, "+k+", x86_64"]; state != "installed (Differences between built and installed modules)" {
			t.Errorf("with files gone, status is %q", state)
		}
		r.MustRun("kernel-install", "add", k, "/usr/lib/modules/"+k+"/vmlinuz")
		if diff := cmp.Diff(was, r.Snapshot()); diff != "" {
			t.Errorf("add did not put the files back: %s", diff)
		}
		if diff := cmp.Diff(built, builds(r)); diff != "" {
			t.Errorf("add built: %s", diff)
		}
	})

	t.Run("damaged", func(t *testing.T) {
		was, built, k := r.Snapshot(), builds(r), r.Kernels()[0]
		if out := r.MustRun("dkms-kernel-install", "fsck"); out != "nothing is damaged\n" {
			t.Errorf("fsck finds:\n%s", out)
		}
		for _, file := range []string{"/usr/lib/modules/" + k + "/updates/dkms/vhba.ko.xz", r.Glob("/var/lib/dkms/acpi-call/*/" + k + "/x86_64/module/acpi_call.ko.xz")[0]} {
			r.Sh("printf x | dd of=" + file + " bs=1 seek=2000 conv=notrunc status=none")
		}
		r.Write("/usr/lib/modules/"+k+"/modules.dep", "", 0o644)
		t.Log(r.MustRun("dkms-kernel-install", "fsck", "--repair"))
		if diff := cmp.Diff(was, r.Snapshot()); diff != "" {
			t.Errorf("fsck --repair left: %s", diff)
		}
		if diff := cmp.Diff(built, builds(r)); diff != "" {
			t.Errorf("fsck --repair built: %s", diff)
		}
	})

	t.Run("remove", func(t *testing.T) {
		ks := r.Kernels()
		for i, k := range ks {
			r.MustRun("kernel-install", "remove", k)
			for file := range r.Snapshot() {
				if strings.HasPrefix(file, "/var/lib/dkms/") && strings.Contains(file, k+"/") || strings.Contains(file, k+"/updates") {
					t.Errorf("remove left %s", file)
				}
			}
			if i == 0 && len(r.Glob("/usr/lib/modules/"+ks[1]+"/updates/dkms/*")) == 0 {
				t.Errorf("remove of %s emptied %s", k, ks[1])
			}
		}
		maps.Copy(registered, map[string]Entry{
			"/var/lib/dkms/mok.key": {Mode: "-rw-------"},
			"/var/lib/dkms/mok.pub": {Mode: "-rw-r--r--"},
		})
		if diff := cmp.Diff(registered, r.Snapshot()); diff != "" {
			t.Errorf("remove left traces: %s", diff)
		}
		if list := states(r); len(list) != len(quick) || list["acpi-call/1.2.2"] != "added" {
			t.Errorf("status: %q", list)
		}
	})

	t.Run("unregister", func(t *testing.T) {
		for what := range states(r) {
			r.MustRun("dkms", "remove", what, "--all")
		}
		got := r.Snapshot()
		maps.DeleteFunc(got, func(file string, _ Entry) bool {
			return path.Dir(file) == "/var/lib/dkms" || file == "/var/lib/dkms"
		})
		if diff := cmp.Diff(before, got); diff != "" {
			t.Errorf("remove left traces: %s", diff)
		}
	})
}

func TestFailingPackage(t *testing.T) {
	t.Parallel()
	r := installAll(t, "acpi-call-dkms", "vhba-dkms")
	brokenPackage(r)
	first, second := r.Kernels()[0], r.Kernels()[1]
	entry := func(k string) string { return fmt.Sprintf("/boot/loader/entries/debian-%s.conf", k) }
	add := func(k string) Result {
		return r.Run("kernel-install", "add", k, "/usr/lib/modules/"+k+"/vmlinuz")
	}

	res := add(first)
	if res.Status != 0 {
		t.Fatalf("a failing package ended kernel-install: %v", res)
	}
	for _, want := range []string{
		"broken/1.0 for " + first + ": build failed\n",
		"why: broken.c:2:22: error: ", "nothing_of_that_name",
		"(log: /var/lib/dkms/broken/1.0/build/make.log)",
		"do: ",
	} {
		if !strings.Contains(res.Stdout, want) {
			t.Errorf("output lacks %q:\n%s", want, res.Stdout)
		}
	}
	for _, file := range []string{entry(first), "/boot/debian/" + first + "/initrd", "/usr/lib/modules/" + first + "/updates/dkms/vhba.ko.xz"} {
		if !r.Exists(file) {
			t.Errorf("%s is missing", file)
		}
	}
	entries := r.Read(entry(first))

	r.Write("/etc/dkms/framework.conf.d/required.conf", "required_packages=\"zfs bro*\"\n", 0o644)
	res = add(second)
	if res.Status == 0 {
		t.Errorf("a required package failed, and kernel-install went on: %v", res)
	}
	for _, file := range []string{entry(second), "/boot/debian/" + second + "/initrd"} {
		if r.Exists(file) {
			t.Errorf("%s was made", file)
		}
	}
	if got := r.Read(entry(first)); got != entries {
		t.Errorf("the entry of the other kernel changed: %s", got)
	}
	// All others are installed all the same.
	if state := states(r)["vhba/20250329, "+second+", x86_64"]; state != "installed" {
		t.Errorf("vhba: %q", state)
	}
}

// TestSameAsPeer installs packages with Debian's dkms and with our program, and expects the same files and status.
func TestSameAsPeer(t *testing.T) {
	t.Parallel()
	needs := map[string][]string{"nvidia-fs-dkms": {"nvidia-kernel-dkms"}} // by BUILD_DEPENDS
	packages := quick
	root := NewRoot
	if os.Getenv("DKMS_TEST_ALL") != "" {
		root = NewFullRoot
		packages = root(t).Packages()
	}
	for _, pkg := range packages {
		t.Run(pkg, func(t *testing.T) {
			t.Parallel() // no build always keeps all processors busy
			type outcome struct {
				Status   map[string]int
				Lines    string
				Snapshot map[string]Entry
			}
			install := func(r *Root) outcome {
				o := outcome{Status: map[string]int{}}
				r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
				built := false
				for _, pkg := range append(needs[pkg], pkg) {
					m, v := r.Unpack(pkg)
					r.MustRun("dkms", "add", m+"/"+v)
					for _, k := range r.Kernels() {
						res := r.Run("dkms", "install", m+"/"+v, "-k", k)
						t.Logf("%s for %s: exit status %d after %v", m, k, res.Status, res.Time)
						if res.Status != 0 {
							t.Logf("%s", tail(res.Stdout+res.Stderr))
						}
						o.Status[m+" "+k] = res.Status
						built = built || res.Status == 0
					}
				}
				o.Lines, o.Snapshot = r.MustRun("dkms", "status"), r.Snapshot()
				maps.DeleteFunc(o.Snapshot, func(file string, _ Entry) bool {
					// A failed build left it, or Debian's dkms made it when it added a package.
					scratch, _ := path.Match("/var/lib/dkms/*/*/build", file)
					return scratch || strings.Contains(file, "/build/") && strings.HasPrefix(file, "/var/lib/dkms/") ||
						// Debian's dkms makes the key even if it does not need one.
						!built && strings.HasPrefix(file, "/var/lib/dkms/mok.")
				})
				return o
			}
			theirs := ofPeer(t, func() outcome {
				r := root(t)
				r.InstallPeer()
				return install(r)
			})
			r := root(t)
			r.InstallProgram()
			r.ShareBuilds()
			if diff := cmp.Diff(theirs, install(r)); diff != "" {
				t.Errorf("ours (+) differs from Debian's dkms (-): %s", diff)
			}
		})
	}
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// TestBothWays moves one machine between Debian's dkms and our program.
func TestBothWays(t *testing.T) {
	t.Parallel()
	const m, v = "acpi-call", "1.2.2"
	r := installAll(t, "acpi-call-dkms", "v4l2loopback-dkms")
	empty := r.Snapshot()
	k := r.Kernels()[0]
	peer := func(args ...string) string {
		t.Helper()
		res := r.Peer(args...)
		if res.Status != 0 {
			t.Fatalf("Debian's dkms %q: %v", args, res)
		}
		return res.Stdout
	}
	compare := func(when string) {
		t.Helper()
		ours := strings.Split(r.MustRun("dkms", "status"), "\n")
		theirs := strings.Split(peer("status"), "\n")
		slices.Sort(ours)
		slices.Sort(theirs)
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("%s, ours (+) says otherwise than Debian's (-): %s", when, diff)
		}
	}
	gone := func(when string) {
		t.Helper()
		now := r.Snapshot()
		for _, key := range []string{"/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub"} {
			delete(now, key)
		}
		if diff := cmp.Diff(empty, now); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}

	compare("with nothing built")
	r.MustRun("dkms-kernel-install", "add", k)
	compare("installed with ours")
	r.MustRun("rm", "/usr/lib/modules/"+k+"/updates/dkms/acpi_call.ko.xz")
	compare("with a module gone")
	r.MustRun("dkms-kernel-install", "add", k)
	for what := range states(r) {
		peer("unbuild", strings.Split(what, ",")[0], "--all")
	}
	compare("unbuilt with Debian's")
	gone("Debian's left of ours")

	peer("install", m+"/"+v, "-k", k)
	compare("installed with Debian's")
	whole := func(when string) {
		t.Helper()
		if out := r.MustRun("dkms-kernel-install", "fsck"); out != "nothing is damaged\n" {
			t.Errorf("%s, fsck finds:\n%s", when, out)
		}
	}
	whole("installed with Debian's")
	built := builds(r)
	r.MustRun("dkms-kernel-install", "add", k)
	for log, inode := range built {
		if now := builds(r)[log]; now != inode {
			t.Errorf("ours built again what Debian's had built: %s", log)
		}
	}
	whole("after a run of ours")
	r.MustRun("dkms-kernel-install", "remove", k)
	compare("removed with ours")
	gone("ours left of Debian's")
}
