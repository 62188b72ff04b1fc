// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/testskip"
)

func TestPackageVersion(t *testing.T) {
	for _, c := range []struct{ description, want string }{
		{"v1.2.3", "1.2.3"},
		{"1.2.3", "1.2.3"},
		{"v1.2.3-4-gabc1234", "1.2.3+4.gabc1234"},
		{"v1.2.3-rc1", "1.2.3~rc1"},
		{"v1.2.3-rc1-4-gabc1234", "1.2.3~rc1+4.gabc1234"},
		{"v1.2.3-dirty", "1.2.3.dirty"},
		{"v1.2.3-4-gabc1234-dirty", "1.2.3+4.gabc1234.dirty"},
		{"abc1234", "0+77.gabc1234"},
		{"123e456", "0+77.g123e456"},
		{"abc1234-dirty", "0+77.gabc1234.dirty"},
		{"devel", "0+77.gdevel"},
		{"release/x_1-4-gabc1234", "0+77.grelease.x.1+4.gabc1234"},
	} {
		got := strings.TrimSpace(commandOutput(t, "../tools/package-version", c.description, "77"))
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.description, got, c.want)
		}
		if _, err := exec.LookPath("dpkg"); err == nil {
			commandOutput(t, "dpkg", "--validate-version", got)
		}
	}
	if _, err := exec.LookPath("dpkg"); err != nil {
		return
	}
	growing := []string{"abc1234", "v1.2.3-rc1", "v1.2.3-rc1-4-gabc1234", "v1.2.3", "v1.2.3-4-gabc1234", "v1.2.4"}
	for i := range growing[1:] {
		low, high := strings.TrimSpace(commandOutput(t, "../tools/package-version", growing[i], "77")), strings.TrimSpace(commandOutput(t, "../tools/package-version", growing[i+1], "77"))
		commandOutput(t, "dpkg", "--compare-versions", low, "lt", high)
	}
}

// makePackage makes a package of the program, by one of the Makefile's targets, and returns its path.
func makePackage(t testing.TB, kind string, args ...string) string {
	t.Helper()
	makeLock.Lock()
	defer makeLock.Unlock()
	dir := t.TempDir()
	makeIn(t, "..", append([]string{kind, "DIST=" + dir}, args...)...)
	list, err := filepath.Glob(filepath.Join(dir, "dkms-kernel-install*")) // beside what it is made of
	if err != nil || len(list) != 1 {
		t.Fatalf("make %s made %q, %v", kind, list, err)
	}
	return list[0]
}

// packed returns a layout as it is in a package: manual pages are compressed.
func packed(l map[string]string) map[string]string {
	files := map[string]string{}
	for file, entry := range l {
		if strings.Contains(file, "/man/") {
			file += ".gz"
		}
		files[file] = entry
	}
	return files
}

func TestDeb(t *testing.T) {
	testskip.Without(t, "dpkg-deb")
	deb := makePackage(t, "deb", "VERSION=v1.2.3-4-gabc1234")
	fields := map[string]string{}
	for _, field := range []string{"Package", "Version", "Architecture", "Section", "Multi-Arch", "Provides", "Conflicts", "Replaces", "Depends"} {
		fields[field] = strings.TrimSpace(commandOutput(t, "dpkg-deb", "--field", deb, field))
	}
	if diff := cmp.Diff(map[string]string{
		"Package": "dkms-kernel-install", "Version": "1.2.3+4.gabc1234", "Section": "kernel", "Multi-Arch": "foreign",
		"Architecture": strings.TrimSpace(commandOutput(t, "dpkg", "--print-architecture")),
		"Provides":     "dkms (= 3.4.3)", "Conflicts": "dkms", "Replaces": "dkms",
		"Depends": "bash, binutils, gcc | c-compiler, kmod, make | build-essential, patch",
	}, fields); diff != "" {
		t.Errorf("the control file says (+) something else than it should (-): %s", diff)
	}
	dir := t.TempDir()
	commandOutput(t, "dpkg-deb", "--raw-extract", deb, dir)
	want := packed(debianLayout)
	// As a conffile of our package, dpkg would ask about that of Debian's.
	delete(want, "/etc/dkms/framework.conf")
	want["/usr/share/doc/dkms-kernel-install/copyright"] = "-rw-r--r--"
	conffiles := ""
	for _, file := range slices.Sorted(maps.Keys(want)) {
		if strings.HasPrefix(file, "/etc/") {
			conffiles += file + "\n"
		}
	}
	for _, script := range []string{"postinst", "postrm"} {
		want["/DEBIAN/"+script] = "-rwxr-xr-x"
	}
	for _, file := range []string{"control", "conffiles", "md5sums"} {
		want["/DEBIAN/"+file] = "-rw-r--r--"
	}
	if diff := cmp.Diff(want, listFiles(t, dir)); diff != "" {
		t.Errorf("it holds (+) something else than it should (-): %s", diff)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "DEBIAN/conffiles")); err != nil || string(text) != conffiles {
		t.Errorf("conffiles: %s, want %s; %v", text, conffiles, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "usr/share/doc/dkms-kernel-install/copyright"))
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range linkedModules(t) {
		if _, license, ok := strings.Cut(string(text), "\n==== "+module+"\n\n"); !ok || strings.HasPrefix(license, "\n====") || license == "" {
			t.Errorf("copyright lacks the license of %s", module)
		}
	}
	for line := range strings.Lines(commandOutput(t, "dpkg-deb", "--contents", deb)) {
		if !strings.Contains(line, " root/root ") {
			t.Errorf("not root's: %s", line)
		}
	}
	// The same source makes the same package.
	again := makePackage(t, "deb", "VERSION=v1.2.3-4-gabc1234")
	commandOutput(t, "cmp", deb, again)
}

// linkedModules returns the modules that the program is made of, besides its own.
func linkedModules(t testing.TB) (modules []string) {
	t.Helper()
	for line := range strings.Lines(commandOutput(t, "go", "version", "-m", filepath.Join("..", "dkms-kernel-install"))) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "dep" {
			modules = append(modules, f[1])
		}
	}
	if len(modules) == 0 {
		t.Fatal("the program is made of nothing")
	}
	return modules
}

// TestPackageArchitecture makes packages for other architectures, with almost no files.
func TestPackageArchitecture(t *testing.T) {
	testskip.Without(t, "rpmbuild")
	dir := t.TempDir()
	for goarch, names := range map[string][3]string{
		"amd64": {"amd64", "x86_64", "x86_64"}, "arm64": {"arm64", "aarch64", "aarch64"}, "riscv64": {"riscv64", "riscv64", "riscv64"},
		"ppc64le": {"ppc64el", "ppc64le", "ppc64le"}, "s390x": {"s390x", "s390x", "s390x"},
	} {
		for i, kind := range []string{"deb", "rpm", "archlinux"} {
			stage := filepath.Join(dir, goarch, kind)
			for _, file := range []string{"etc/dkms/framework.conf", "usr/share/man/man8/dkms.8"} {
				if err := os.MkdirAll(filepath.Join(stage, path.Dir(file)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(stage, file), []byte("x\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("tools/package", kind, stage)
			cmd.Dir = ".."
			cmd.Env = append(os.Environ(), "PACKAGE_VERSION=1", "PACKAGE_ARCH="+goarch, "GOARCH="+goarch, "MAINTAINER=x <x@localhost>", "SOURCE_DATE_EPOCH=1000000000")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s for %s: %v\n%s", kind, goarch, err, out)
			}
			name := filepath.Join(dir, goarch, []string{
				"dkms-kernel-install_1_" + names[i] + ".deb", "dkms-kernel-install-1-1." + names[i] + ".rpm", "dkms-kernel-install-1-1-" + names[i] + ".pkg.tar.zst",
			}[i])
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s for %s: %v", kind, goarch, err)
			}
		}
	}
}

// debianPackages downloads packages of Debian to the cache, once, and returns the directory.
func debianPackages(t testing.TB, r *Root, names ...string) string {
	t.Helper()
	dir := filepath.Join(r.made.dir, "deb")
	r.check(os.MkdirAll(dir, 0o755))
	for _, name := range names {
		if list, _ := filepath.Glob(filepath.Join(dir, name+"_*.deb")); len(list) > 0 {
			continue
		}
		tmp, err := os.MkdirTemp(dir, "tmp.")
		r.check(err)
		defer os.RemoveAll(tmp)
		apt := filepath.Join(r.made.dir, "apt")
		cmd := exec.Command("apt-get", "-q", "-o", "APT::Sandbox::User=root",
			"-o", "Dir::Etc::SourceList="+filepath.Join(r.made.dir, "root/etc/apt/sources.list"), "-o", "Dir::Etc::SourceParts=/dev/null",
			"-o", "Dir::State="+apt, "-o", "Dir::Cache="+apt, "-o", "Dir::State::Status="+filepath.Join(r.made.dir, "root/var/lib/dpkg/status"),
			"download", name)
		cmd.Dir = tmp
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cannot download %s: %v\n%s", name, err, out)
		}
		list, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
		r.check(err)
		for _, file := range list {
			r.check(os.Rename(file, filepath.Join(dir, filepath.Base(file))))
		}
	}
	return dir
}

// TestDebReplacesDkms moves a machine from Debian's dkms package to ours and back, by dpkg. The machine has a tree, keys,
// settings that an administrator changed, and a package that depends on dkms.
func TestDebReplacesDkms(t *testing.T) {
	t.Parallel()
	testskip.Without(t, "dpkg-deb")
	for _, apt := range []bool{false, true} {
		t.Run(fmt.Sprintf("apt=%v", apt), func(t *testing.T) {
			r := NewRoot(t)
			r.Env = append(r.Env, "DEBIAN_FRONTEND=noninteractive")
			list, err := filepath.Glob(filepath.Join(debianPackages(t, r, "dkms"), "dkms_*.deb"))
			r.check(err)
			theirs := r.copyIn(list[len(list)-1], "/opt/dkms.deb")
			ours := r.copyIn(makePackage(t, "deb"), "/opt/ours.deb")

			install := func(deb string) {
				t.Helper()
				if apt {
					r.MustRun("apt-get", "install", "-y", "--no-install-recommends", deb)
					return
				}
				if deb == theirs && r.Exists("/usr/sbin/dkms-kernel-install") {
					// It does not know our package: dpkg alone does not see that it replaces it.
					r.MustRun("dpkg", "--remove", "--force-depends", "dkms-kernel-install")
				}
				r.MustRun("dpkg", "--install", "--auto-deconfigure", deb)
			}
			r.MustRun("dpkg", "--install", theirs)
			r.Write("/opt/pkg/DEBIAN/control", "Package: toy-dkms\nVersion: 1\nArchitecture: all\nMaintainer: x <x@localhost>\nDepends: dkms (>= 3.0.11)\nDescription: x\n", 0o644)
			r.MustRun("dpkg-deb", "--build", "/opt/pkg", "/opt/toy-dkms.deb")
			r.MustRun("dpkg", "--install", "/opt/toy-dkms.deb")

			m, v := r.Unpack("vhba-dkms")
			k := r.Kernels()[0]
			r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
			r.MustRun("dkms", "install", m+"/"+v, "-k", k)
			r.Sh("echo '# of the administrator' >>/etc/dkms/framework.conf")
			keep := []string{"/etc/dkms/framework.conf", "/etc/dkms/framework.conf.d/autoinstall_all_kernels.conf", "/etc/dkms/framework.conf.d/test.conf",
				"/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub", "/etc/modprobe.d/dkms.conf"}
			content := func() map[string]string {
				all := map[string]string{}
				for _, file := range keep {
					all[file] = r.Read(file)
				}
				return all
			}
			was, built, lines := r.Snapshot(), builds(r), r.MustRun("dkms", "status")
			settings := content()
			same := func(when string) {
				t.Helper()
				if diff := cmp.Diff(was, r.Snapshot()); diff != "" {
					t.Errorf("%s: the tree or the modules changed: %s", when, diff)
				}
				if diff := cmp.Diff(built, builds(r)); diff != "" {
					t.Errorf("%s: built again: %s", when, diff)
				}
				if diff := cmp.Diff(settings, content()); diff != "" {
					t.Errorf("%s: keys or settings changed: %s", when, diff)
				}
				if got := r.MustRun("dkms", "status"); got != lines {
					t.Errorf("%s: status is %s, and was %s", when, got, lines)
				}
				if out := r.MustRun("dpkg", "--audit"); out != "" {
					t.Errorf("%s: dpkg is not content: %s", when, out)
				}
				if state := r.MustRun("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "toy-dkms"); state != "ii " {
					t.Errorf("%s: the package that depends on dkms is %q", when, state)
				}
				if apt {
					r.MustRun("apt-get", "check")
				}
			}
			hook := func() string { return r.Read("/etc/kernel/header_postinst.d/dkms") }
			theirHook := hook()

			install(ours)
			same("with our package")
			if link := r.MustRun("readlink", "/usr/sbin/dkms"); link != "../lib/kernel/install.d/40-dkms.install\n" {
				t.Errorf("dkms is %s", link)
			}
			if !strings.Contains(hook(), "with-grub sync") {
				t.Errorf("the hook is still Debian's: %s", hook())
			}
			if !r.Exists("/etc/systemd/system/multi-user.target.wants/dkms.service") {
				t.Error("the unit is not enabled")
			}

			r.MustRun("dkms-kernel-install", "add", k)
			if diff := cmp.Diff(built, builds(r)); diff != "" {
				t.Errorf("ours built again what Debian's had built: %s", diff)
			}
			was = r.Snapshot() // builds have fingerprints now

			install(ours)
			same("installed a second time")

			install(theirs)
			same("back at Debian's")
			if hook() != theirHook {
				t.Errorf("the hook is not Debian's again: %s", hook())
			}
			if r.Exists("/usr/sbin/dkms-kernel-install") || r.Exists("/usr/lib/systemd/system/dkms.service") {
				t.Error("the program or its unit is still there")
			}

			// Purging the rest of our package removes nothing that belongs to Debian's now.
			r.MustRun("dpkg", "--purge", "dkms-kernel-install")
			same("with ours purged")
			if hook() != theirHook {
				t.Errorf("the purge took Debian's hook: %s", hook())
			}
			if r.Exists("/etc/systemd/system/multi-user.target.wants/dkms.service") {
				t.Error("the purge left the unit's link")
			}
		})
	}
}

// TestDebAlone installs our package on a machine without dkms, and purges it.
func TestDebAlone(t *testing.T) {
	t.Parallel()
	testskip.Without(t, "dpkg-deb")
	r := NewRoot(t)
	// Users stay, as is usual in Debian, and so do the backups of the files that list them.
	const list = "find /etc /usr /var/lib/dkms -path /usr/lib/modules -prune -o -name '*-' -o -print 2>/dev/null | LC_ALL=C sort"
	before := r.Sh(list)
	r.MustRun("apt-get", "install", "-y", r.copyIn(makePackage(t, "deb"), "/opt/ours.deb"))
	if out := r.MustRun("dkms", "status"); out != "" {
		t.Errorf("status: %s", out)
	}
	if got := r.MustRun("dpkg", "--verify", "dkms-kernel-install"); got != "" {
		t.Errorf("files differ from the package's: %s", got)
	}
	if got := r.MustRun("id", "-un", "dkms-build"); got != "dkms-build\n" {
		t.Errorf("the user of builds: %q", got)
	}
	// dpkg does not ask about the settings of Debian's package: ours has none.
	if r.Exists("/etc/dkms/framework.conf") {
		t.Error("there is a framework.conf")
	}
	r.MustRun("systemctl", "disable", "dkms.service")
	r.MustRun("dpkg", "--install", "/opt/ours.deb")
	if r.Exists("/etc/systemd/system/multi-user.target.wants/dkms.service") {
		t.Error("an administrator switched the unit off, and an upgrade switched it on")
	}
	r.MustRun("apt-get", "purge", "-y", "dkms-kernel-install")
	if diff := cmp.Diff(before, r.Sh(list)); diff != "" {
		t.Errorf("the purge left (+) or took (-): %s", diff)
	}
}

func TestRpm(t *testing.T) {
	testskip.Without(t, "rpmbuild")
	file := makePackage(t, "rpm", "VERSION=v1.2.3-4-gabc1234")
	query := func(args ...string) string {
		t.Helper()
		return commandOutput(t, append([]string{"rpm", "-q", "--package", file}, args...)...)
	}
	if got := query("--queryformat", "%{NAME} %{VERSION} %{RELEASE} %{BUILDHOST} %{LICENSE}"); got != "dkms-kernel-install 1.2.3+4.gabc1234 1 localhost GPL-2.0-or-later" {
		t.Errorf("it is %s", got)
	}
	for option, want := range map[string]string{"--provides": "dkms = 3.4.3", "--conflicts": "dkms", "--obsoletes": "dkms", "--recommends": "kernel-devel"} {
		if !slices.Contains(strings.Split(query(option), "\n"), want) {
			t.Errorf("%s: %q", option, query(option))
		}
	}
	for _, want := range []string{"bash", "binutils", "gcc", "kmod", "make", "patch", "(kernel-devel-matched if kernel-core >= 5)"} {
		if !slices.Contains(strings.Split(query("--requires"), "\n"), want) {
			t.Errorf("it does not require %s", want)
		}
	}
	got := map[string]string{}
	for line := range strings.Lines(query("--queryformat", "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES} %{FILEFLAGS:fflags} %{FILELINKTOS}\n]")) {
		part := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if part[1] != "root:root" {
			t.Errorf("not root's: %s", line)
		}
		if config := strings.HasPrefix(part[2], "/etc/") && part[0][0] == '-'; config != (part[3] == "cn") {
			t.Errorf("flags: %s", line)
		}
		switch part[0][0] {
		case 'd':
			// Directories of other packages are not in ours: one of them may be a link.
			if !strings.Contains(part[2], "dkms") {
				t.Errorf("it holds the directory %s", part[2])
			}
		case 'l':
			got[part[2]] = "-> " + part[4]
		default:
			got[part[2]] = part[0]
		}
	}
	want := packed(redhatLayout)
	delete(want, "/etc/dkms/framework.conf") // rpm would set one of two aside
	for _, name := range []string{"LICENSE", "copyright"} {
		want["/usr/share/licenses/dkms-kernel-install/"+name] = "-rw-r--r--"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it holds (+) something else than it should (-): %s", diff)
	}
	// The same source makes the same package, in another directory and at another time.
	again := makePackage(t, "rpm", "VERSION=v1.2.3-4-gabc1234")
	commandOutput(t, "cmp", file, again)
}

func TestArchPackage(t *testing.T) {
	file := makePackage(t, "arch", "VERSION=v1.2.3-rc1-4-gabc1234")
	if got := filepath.Base(file); !strings.HasPrefix(got, "dkms-kernel-install-1.2.3rc1+4.gabc1234-1-") || !strings.HasSuffix(got, ".pkg.tar.zst") {
		t.Errorf("it is called %s", got)
	}
	dir := t.TempDir()
	commandOutput(t, "tar", "-C", dir, "--zstd", "-xf", file)
	info := map[string][]string{}
	text, err := os.ReadFile(filepath.Join(dir, ".PKGINFO"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " = "); ok {
			info[key] = append(info[key], value)
		}
	}
	want := map[string][]string{
		"pkgname": {"dkms-kernel-install"}, "pkgver": {"1.2.3rc1+4.gabc1234-1"}, "license": {"GPL-2.0-or-later"},
		"packager": {"dkms-kernel-install maintainers <root@localhost>"}, "provides": {"dkms=3.4.3"}, "conflict": {"dkms"}, "replaces": {"dkms"},
		"depend": {"bash", "binutils", "gcc", "kmod", "make", "patch"}, "backup": nil, // pacman moves no settings away
	}
	for key, value := range want {
		if !slices.Equal(info[key], value) {
			t.Errorf("%s: %q, want %q", key, info[key], value)
		}
	}
	layout := packed(archLayout)
	delete(layout, "/etc/dkms/framework.conf")
	for _, name := range []string{"LICENSE", "copyright"} {
		layout["/usr/share/licenses/dkms-kernel-install/"+name] = "-rw-r--r--"
	}
	for _, name := range []string{".PKGINFO", ".MTREE", ".INSTALL"} {
		layout["/"+name] = "-rw-r--r--"
	}
	if diff := cmp.Diff(layout, listFiles(t, dir)); diff != "" {
		t.Errorf("it holds (+) something else than it should (-): %s", diff)
	}
	commandOutput(t, "cmp", file, makePackage(t, "arch", "VERSION=v1.2.3-rc1-4-gabc1234"))
}
