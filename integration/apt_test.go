// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// aptPackages are real packages that build in seconds. Most build for both kernels, some for one. One has several
// modules, one has some that displace the kernel's own, and one is not built automatically.
var aptPackages = []string{
	"acpi-call-dkms", "bbswitch-dkms", "ddcci-dkms", "dkms-noautoinstall-test-dkms", "gost-crypto-dkms", "v4l2loopback-dkms",
}

const (
	fails    = "openrazer-driver-dkms"  // does not build
	replaces = "dkms-replace-test-dkms" // has a module that another package has too: our program does not displace it
)

// aptRoot makes a root in which apt installs packages and modules are signed.
func aptRoot(t testing.TB) *Root {
	t.Helper()
	return NewRoot(t).forApt()
}

// forApt prepares a root in which apt installs packages and modules are signed.
func (r *Root) forApt() *Root {
	r.t.Helper()
	r.Timeout = time.Hour // one run of apt makes many builds
	r.UseRepository()
	r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
	return r
}

// bothSides does the same in a root with Debian's dkms and in one with our package, each installed with apt, and
// compares the results.
func bothSides[T any](t *testing.T, do func(t *testing.T, r *Root, ours bool) T) {
	t.Helper()
	var theirs, ours T
	t.Run("sides", func(t *testing.T) {
		t.Run("Debian", func(t *testing.T) {
			t.Parallel()
			theirs = ofPeer(t, func() T {
				r := aptRoot(t)
				r.Apt("install", "dkms")
				return do(t, r, false)
			})
		})
		t.Run("ours", func(t *testing.T) {
			t.Parallel()
			r := aptRoot(t)
			r.InstallDeb()
			r.ShareBuilds()
			ours = do(t, r, true)
		})
	})
	if t.Failed() {
		return
	}
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("ours (+) differs from Debian's dkms (-): %s", diff)
	}
}

// machine is the state of a machine with dkms, as users see it.
type machine struct {
	Status  []string          // the lines of dkms status
	Files   map[string]Entry  // Snapshot
	Sources map[string]string // the hash of the source of each module that was placed
}

func inspect(r *Root) machine {
	m := machine{Status: statusLines(r), Files: r.Snapshot(), Sources: map[string]string{}}
	maps.DeleteFunc(m.Files, func(file string, _ Entry) bool {
		build, _ := path.Match("/var/lib/dkms/*/*/build", file) // Debian's dkms makes it when it adds a package
		return build
	})
	for _, file := range r.Glob("/usr/lib/modules/*/updates/dkms/*") {
		m.Sources[file] = strings.TrimSpace(r.MustRun("modinfo", "-F", "srcversion", file))
	}
	return m
}

func statusLines(r *Root) []string {
	lines := strings.Split(strings.TrimSpace(r.MustRun("dkms", "status")), "\n")
	slices.Sort(lines)
	return lines
}

// withoutKeys is a Snapshot without the signing key, which stays when the last package is removed.
func withoutKeys(snap map[string]Entry) map[string]Entry {
	delete(snap, "/var/lib/dkms/mok.key")
	delete(snap, "/var/lib/dkms/mok.pub")
	return snap
}

// sourceFolder returns the name M-V of the directory in /usr/src of an installed package.
func sourceFolder(r *Root, pkg string) string {
	for line := range strings.Lines(r.MustRun("dpkg", "-L", pkg)) {
		if dir, ok := strings.CutSuffix(strings.TrimSpace(line), "/dkms.conf"); ok {
			return path.Base(dir)
		}
	}
	r.t.Fatalf("%s has no dkms.conf", pkg)
	return ""
}

// TestApt installs real packages with apt, with their own maintainer scripts, and purges them.
func TestApt(t *testing.T) {
	t.Parallel()
	packages := aptPackages
	if os.Getenv("DKMS_TEST_ALL") != "" {
		packages = nil
		for _, file := range NewRoot(t).Glob("/opt/repo/*-dkms.deb") {
			if pkg := strings.TrimSuffix(path.Base(file), ".deb"); pkg != fails && pkg != replaces {
				packages = append(packages, pkg)
			}
		}
	}
	bothSides(t, func(t *testing.T, r *Root, ours bool) machine {
		before := r.Snapshot()
		start := time.Now()
		r.Apt(append([]string{"install"}, packages...)...)
		t.Logf("%d packages installed after %v", len(packages), time.Since(start))
		got := inspect(r)
		t.Logf("%s", strings.Join(got.Status, "\n"))
		installed := map[string]bool{}
		for _, line := range got.Status {
			if what, state, _ := strings.Cut(line, ": "); strings.HasPrefix(state, "installed") {
				installed[strings.Split(what, ",")[0]] = true
			}
		}
		if len(installed) < len(aptPackages)-1 { // one asks not to be
			t.Errorf("only %d packages are installed", len(installed))
		}
		if !ours {
			return got
		}

		// First one package, and all others stay as they are; then all others.
		src := sourceFolder(r, packages[0])
		r.Apt("purge", packages[0])
		left := slices.DeleteFunc(slices.Clone(got.Status), func(line string) bool {
			mv, _, _ := strings.Cut(line, ":")
			mv, _, _ = strings.Cut(mv, ",")
			return strings.Replace(mv, "/", "-", 1) == src
		})
		if len(left) == len(got.Status) {
			t.Errorf("status has no %s", src)
		}
		if diff := cmp.Diff(left, statusLines(r)); diff != "" {
			t.Errorf("after purge of %s, status is: %s", packages[0], diff)
		}
		start = time.Now()
		r.Apt(append([]string{"purge"}, packages[1:]...)...)
		t.Logf("purged after %v", time.Since(start))
		if diff := cmp.Diff(before, withoutKeys(r.Snapshot())); diff != "" {
			t.Errorf("purge left traces: %s", diff)
		}
		return got
	})
}

// TestAptFails installs a package that does not build, together with one that does. The classic command leaves it
// half-configured.
func TestAptFails(t *testing.T) {
	t.Parallel()
	type outcome struct {
		Fixed   int // exit status
		Machine machine
	}
	bothSides(t, func(t *testing.T, r *Root, ours bool) outcome {
		status, state := 100, "iF "
		if ours {
			status, state = 0, "ii "
		}
		res := r.Run("apt-get", "install", fails, "vhba-dkms")
		o := outcome{Machine: inspect(r)}
		// It is chance what else make has made by then.
		maps.DeleteFunc(o.Machine.Files, func(file string, _ Entry) bool { return strings.Contains(file, "/build/") })
		if res.Status != status {
			t.Errorf("apt-get install ends with %d, want %d: %v", res.Status, status, res)
		}
		for pkg, want := range map[string]string{fails: state, "vhba-dkms": "ii "} {
			if got := r.MustRun("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", pkg); got != want {
				t.Errorf("%s is %q, want %q", pkg, got, want)
			}
		}
		o.Fixed = r.Run("apt-get", "purge", fails).Status
		return o
	})
}

// TestAptKernel removes a kernel with apt and installs it again, and its headers after it.
func TestAptKernel(t *testing.T) {
	t.Parallel()
	bothSides(t, func(t *testing.T, r *Root, ours bool) map[string]machine {
		k := r.Kernels()[1]
		if !strings.Contains(k, "cloud") {
			t.Fatalf("%q: the second is not the small one", r.Kernels())
		}
		// mkroot made it for kernel-install; no package has it.
		r.MustRun("rm", "/usr/lib/modules/"+k+"/vmlinuz")
		r.Write("/etc/dracut.conf.d/driver.conf", `add_drivers+=" acpi_call "`+"\n", 0o644)
		got := map[string]machine{}
		r.Apt("install", "acpi-call-dkms", "vhba-dkms")
		got["packages installed"] = inspect(r)

		r.Apt("purge", "linux-image-"+k, "linux-headers-"+k)
		got["kernel purged"] = inspect(r)
		for file := range r.Snapshot() {
			if strings.Contains(file, k) {
				t.Errorf("purge of the kernel leaves %s", file)
			}
		}

		out := r.Apt("install", "linux-image-"+k)
		got["image installed"] = inspect(r)
		if !regexp.MustCompile(`(?m)` + regexp.QuoteMeta(k) + ` .*headers`).MatchString(out) {
			t.Errorf("nothing is said of the headers that are missing: %s", out)
		}
		if !r.Exists("/boot/initrd.img-" + k) {
			t.Errorf("there is no initramfs")
		}

		r.Apt("install", "linux-headers-"+k)
		got["headers installed"] = inspect(r)
		for what, state := range states(r) {
			if state != "installed" {
				t.Errorf("%s is %s", what, state)
			}
		}
		if n := len(states(r)); n != 4 {
			t.Errorf("%d builds of two packages for two kernels", n)
		}
		if ours && !strings.Contains(r.MustRun("lsinitrd", "/boot/initrd.img-"+k), "updates/dkms/acpi_call.ko") {
			t.Errorf("the initramfs is as it was before the headers came")
		}
		return got
	})
}

// TestAptUpgradePackage upgrades one package: the old version is removed, and the new one installed for each kernel.
func TestAptUpgradePackage(t *testing.T) {
	t.Parallel()
	bothSides(t, func(t *testing.T, r *Root, ours bool) machine {
		r.Apt("install", "acpi-call-dkms", "vhba-dkms")
		src := sourceFolder(r, "acpi-call-dkms")
		old := strings.TrimPrefix(src, "acpi-call-")
		was := builds(r)
		const version = "99.1"
		r.Sh("dpkg-deb -R /opt/repo/acpi-call-dkms.deb /root/new && cd /root/new && mv usr/src/" + src + " usr/src/acpi-call-" + version +
			" && sed -i 's/" + old + "/" + version + "/g' DEBIAN/control DEBIAN/postinst DEBIAN/prerm usr/src/*/dkms.conf && rm DEBIAN/md5sums")
		r.AddToRepository("/root/new")
		out := r.Apt("upgrade")
		if !strings.Contains(out, "Setting up acpi-call-dkms ("+version) {
			t.Fatalf("nothing was upgraded: %s", out)
		}

		for _, k := range r.Kernels() {
			if state := states(r)["acpi-call/"+version+", "+k+", x86_64"]; state != "installed" {
				t.Errorf("%s: the new version is %q", k, state)
			}
		}
		for file := range r.Snapshot() {
			if strings.Contains(file, "acpi-call/"+old) {
				t.Errorf("the old version left %s", file)
			}
		}
		for log, inode := range builds(r) {
			if strings.Contains(log, "/vhba/") && was[log] != inode {
				t.Errorf("the other package was built again: %s", log)
			}
		}
		return inspect(r)
	})
}

// TestAptUpgradeKeeps upgrades a package to a version that does not build: the old module stays until a version is there
// that does, and a purge leaves nothing.
func TestAptUpgradeKeeps(t *testing.T) {
	t.Parallel()
	r := aptRoot(t)
	r.InstallDeb()
	r.ShareBuilds()
	r.Apt("install", "vhba-dkms")
	src := sourceFolder(r, "vhba-dkms")
	old := strings.TrimPrefix(src, "vhba-")
	upgrade := func(version, change string) {
		t.Helper()
		r.Sh("rm -rf /root/new && dpkg-deb -R /opt/repo/vhba-dkms.deb /root/new && cd /root/new && mv usr/src/" + src + " usr/src/" + strings.Replace(src, old, version, 1) +
			" && sed -i 's/" + old + "/" + version + "/g' DEBIAN/control DEBIAN/postinst DEBIAN/prerm usr/src/*/dkms.conf && rm DEBIAN/md5sums && " + change)
		r.AddToRepository("/root/new")
		r.Apt("upgrade")
	}
	want := func(state string) {
		t.Helper()
		status := r.MustRun("dkms", "status", "-m", "vhba")
		for _, k := range r.Kernels() {
			if !strings.Contains(status, ", "+k+", x86_64: "+state) {
				t.Errorf("%s is not %s: %s", k, state, status)
			}
			if !strings.Contains(r.MustRun("modprobe", "-S", k, "--show-depends", "vhba"), "/updates/dkms/vhba.ko") {
				t.Errorf("modprobe does not find the module for %s", k)
			}
		}
	}
	const broken = `find usr/src -name '*.c' -exec sh -c 'echo "#error no" >>"$1"' - {} \;`
	want("installed")
	upgrade("99999999.1", broken)
	want("kept from before an upgrade")
	upgrade("99999999.2", "true")
	want("installed")
	upgrade("99999999.3", broken)
	want("kept from before an upgrade")
	r.Apt("purge", "vhba-dkms")
	if left := r.Sh("find /var/lib/dkms /usr/lib/modules -name 'vhba*'"); left != "" {
		t.Errorf("a purge leaves %s", left)
	}
}

// identities returns, for every file of the tree and every placed module, what changes if it is made again: its
// inode and its time; and for links, their targets.
func identities(r *Root) map[string]string {
	list := map[string]string{}
	for line := range strings.Lines(r.Sh("find /var/lib/dkms /usr/lib/modules/*/updates ! -type d ! -name .lock ! -name .fingerprint.json ! -name '.placed-*' -printf '%p %i %T@ %l\\n'")) {
		file, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		list[file] = id
	}
	return list
}

// TestAptReplace replaces Debian's dkms by our package, on a machine that has used it, and then our package by
// Debian's: nothing is built again and nothing is lost.
func TestAptReplace(t *testing.T) {
	t.Parallel()
	r := aptRoot(t)
	k, other := r.Kernels()[0], r.Kernels()[1]
	r.Apt("install", "dkms")
	// The administrator's settings are in another file, and in files of the package.
	settings := []string{"/etc/dkms/framework.conf.d/mine.conf", "/etc/dkms/framework.conf", "/etc/dkms/framework.conf.d/autoinstall_all_kernels.conf"}
	for _, file := range settings {
		r.Write(file, "autoinstall_all_kernels=1 # "+file+"\n", 0o644)
	}
	// A module of the same name, which the package's module displaces.
	const original = "/kernel/drivers/misc/vhba.ko.xz"
	for _, k := range r.Kernels() {
		r.Sh("cp /usr/lib/modules/" + k + "/kernel/drivers/net/dummy.ko.xz /usr/lib/modules/" + k + original + " && depmod " + k)
	}
	r.Apt("install", "acpi-call-dkms", "evdi-dkms", "vhba-dkms")
	src := sourceFolder(r, "vhba-dkms")
	vhba := strings.Replace(src, "-", "/", 1)
	acpi := strings.TrimPrefix(sourceFolder(r, "acpi-call-dkms"), "acpi-call-")
	r.MustRun("dkms", "mktarball", "acpi-call/"+acpi, "-k", k)
	tarballs := r.Glob("/var/lib/dkms/acpi-call/" + acpi + "/tarball/*.tar.gz")
	if len(tarballs) != 1 {
		t.Fatalf("tarballs: %q", tarballs)
	}
	// A package that is built, and not installed.
	r.MustRun("dkms", "uninstall", "acpi-call/"+acpi, "-k", other)

	before, snapshot, content, status := identities(r), r.Snapshot(), contents(r), statusLines(r)
	t.Logf("%s", strings.Join(status, "\n"))
	if !slices.Contains(status, vhba+", "+k+", x86_64: installed (Original modules exist)") {
		t.Fatalf("nothing was displaced")
	}
	unchanged := func(when, pkg string) {
		t.Helper()
		if diff := cmp.Diff(status, statusLines(r)); diff != "" {
			t.Errorf("%s, status is: %s", when, diff)
		}
		if diff := cmp.Diff(snapshot, r.Snapshot()); diff != "" {
			t.Errorf("%s, files are: %s", when, diff)
		}
		if diff := cmp.Diff(content, contents(r)); diff != "" {
			t.Errorf("%s, the content of files is: %s", when, diff)
		}
		for _, file := range settings {
			if got := r.Read(file); got != "autoinstall_all_kernels=1 # "+file+"\n" {
				t.Errorf("%s, %s says: %s", when, file, got)
			}
		}
		// Files in dpkg's database that show the owner.
		for _, kind := range []string{"preinst", "postinst", "prerm", "header_postinst"} {
			file := "/etc/kernel/" + kind + ".d/dkms"
			sum := strings.Fields(r.MustRun("md5sum", file))[0]
			if want := r.MustRun("dpkg-query", "-W", "-f", "${Conffiles}", pkg); !strings.Contains(want+"\n", " "+file+" "+sum+"\n") {
				t.Errorf("%s, %s is not of %s, which has:%s", when, file, pkg, want)
			}
		}
		for _, pkg := range []string{"acpi-call-dkms", "evdi-dkms", "vhba-dkms"} {
			if got := r.MustRun("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", pkg); got != "ii " {
				t.Errorf("%s, %s is %q", when, pkg, got)
			}
		}
	}
	same := func(when string, want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, identities(r)); diff != "" {
			t.Errorf("%s, something was made again: %s", when, diff)
		}
	}

	r.InstallDeb()
	if got := r.MustRun("dpkg-query", "-W", "-f", "${db:Status-Status}", "dkms"); got == "installed" {
		t.Fatalf("Debian's dkms is %s", got)
	}
	unchanged("upgraded to ours", "dkms-kernel-install")
	same("upgraded to ours", before)

	// Our program works with what is there.
	r.MustRun("dkms", "uninstall", vhba, "-k", k)
	back := func(whose string) {
		t.Helper()
		if !r.Exists("/usr/lib/modules/" + k + original) {
			t.Errorf("%s did not put the original module back", whose)
		} else {
			r.MustRun("cmp", "/usr/lib/modules/"+k+original, "/usr/lib/modules/"+k+"/kernel/drivers/net/dummy.ko.xz")
		}
	}
	back("uninstall")
	r.MustRun("dkms", "install", vhba, "-k", k)
	r.MustRun("dkms", "install", "acpi-call/"+acpi, "-k", other)
	r.MustRun("dkms", "uninstall", "acpi-call/"+acpi, "-k", other)
	r.MustRun("dkms-kernel-install", "add-all")
	r.MustRun("dkms", "uninstall", "acpi-call/"+acpi, "-k", other)
	unchanged("used with ours", "dkms-kernel-install")
	built := func(ids map[string]string) map[string]string {
		ids = maps.Clone(ids)
		maps.DeleteFunc(ids, func(file, _ string) bool {
			return !strings.Contains(file, "/log/make.log") && !strings.Contains(file, "/x86_64/module/")
		})
		return ids
	}
	if diff := cmp.Diff(built(before), built(identities(r))); diff != "" {
		t.Errorf("used with ours, something was built again: %s", diff)
	}

	used := identities(r)
	r.Apt("install", "dkms")
	if version := r.MustRun("dkms", "--version"); !strings.HasPrefix(version, "dkms-3.2.2") {
		t.Fatalf("after the downgrade, dkms is %s", version)
	}
	unchanged("downgraded to Debian's", "dkms")
	same("downgraded to Debian's", used)
	r.MustRun("dkms", "uninstall", vhba, "-k", k)
	back("uninstall with Debian's, of what ours had archived,")
}
