// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	fedora = "ID=fedora\nVERSION_ID=43\n"
	suse   = "ID=opensuse-tumbleweed\nID_LIKE=\"opensuse suse\"\n"
)

// rpmRoot returns a root of that release with rpm and dnf, whose only repository is /opt/rpms, and with one kernel, that
// no package has. Rpm knows of nothing else that is there.
func rpmRoot(t testing.TB, release string) *Root {
	t.Helper()
	r := newRoot(t, coreSet, rpmLayer(t)...)
	r.sayDistro(release)
	return r
}

var rpmLayers struct {
	sync.Mutex
	list []string
}

// rpmLayer returns the layers of what all roots of rpmRoot have, which the first one makes: apt takes its time.
func rpmLayer(t testing.TB) []string {
	t.Helper()
	rpmLayers.Lock()
	defer rpmLayers.Unlock()
	if rpmLayers.list != nil {
		return rpmLayers.list
	}
	lower, err := small()
	if err != nil {
		t.Fatal(err)
	}
	r := newRoot(t, coreSet, lower...)
	r.UseRepository()
	r.Apt("install", "rpm", "dnf", "createrepo-c")
	r.Sh("rm -r /usr/lib/modules/" + r.Kernels()[0])
	r.Write("/etc/dnf/dnf.conf", "[main]\nassumeyes=1\ngpgcheck=0\ninstall_weak_deps=0\n", 0o644)
	r.Write("/etc/dnf/vars/releasever", "1\n", 0o644)
	r.Write("/etc/yum.repos.d/test.repo", "[test]\nname=test\nbaseurl=file:///opt/rpms\n", 0o644)
	r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=false\n", 0o644)
	r.addRPM("machine", "1", "1", "Provides: /bin/sh bash binutils gcc kmod make patch\n%files\n")
	r.dnf("install", "machine")
	layer := filepath.Join(os.Getenv(scratchEnv), "rpm")
	commandOutput(t, "cp", "-a", filepath.Join(filepath.Dir(r.Dir), "upper"), layer)
	rpmLayers.list = append([]string{layer}, lower...)
	return rpmLayers.list
}

// addRPM makes a package of what the spec file says after its first lines, and adds it to the repository.
func (r *Root) addRPM(name, version, release, spec string) {
	r.t.Helper()
	head, body, _ := strings.Cut("\n"+spec, "\n%")
	r.Write("/root/rpm.spec", `%global debug_package %{nil}
%global __os_install_post %{nil}
%global _binary_payload w1.gzdio
%global _rpmdir /opt/rpms
Summary: x
License: x
AutoReqProv: no
Name: `+name+"\nVersion: "+version+"\nRelease: "+release+head+"\n%description\n%"+body, 0o644)
	r.MustRun("rpmbuild", "-bb", "--quiet", "/root/rpm.spec")
	r.MustRun("createrepo_c", "--quiet", "--update", "/opt/rpms")
}

// ours is our package. In a repository it would take the place of dkms there.
const ours = "/opt/ours.rpm"

// addOurs puts our package into the root.
func (r *Root) addOurs() {
	r.t.Helper()
	r.copyIn(makePackage(r.t, "rpm"), ours)
}

// dnf runs dnf, which must succeed, without a scriptlet that fails, and returns its output.
func (r *Root) dnf(args ...string) string {
	r.t.Helper()
	// The repository has changed since dnf looked.
	res := r.Run(append([]string{"dnf", "--refresh"}, args...)...)
	out := res.Stdout + res.Stderr
	if res.Status != 0 || regexp.MustCompile(`scriptlet failed|Error in .* scriptlet`).MatchString(out) {
		r.t.Fatalf("dnf %q: %v", args, res)
	}
	return out
}

// addToy adds a package of the module toy to the repository, with these scriptlets. Its source ends with the line more.
func (r *Root) addToy(version, release, more, scriptlets string) {
	r.t.Helper()
	r.addRPM("toy-dkms", version, release, strings.NewReplacer("@V@", version, "@MORE@", more).Replace(`Requires: dkms
%install
mkdir -p %{buildroot}/usr/src/toy-@V@
cd %{buildroot}/usr/src/toy-@V@
cat >dkms.conf <<'END'
PACKAGE_NAME=toy
PACKAGE_VERSION=@V@
BUILT_MODULE_NAME[0]=toy
DEST_MODULE_LOCATION[0]=/kernel/extra
AUTOINSTALL=yes
END
echo 'obj-m := toy.o' >Makefile
cat >toy.c <<'END'
#include <linux/module.h>
MODULE_LICENSE("GPL");
MODULE_VERSION("@V@");
@MORE@
END
%files
/usr/src/toy-@V@
`+scriptlets))
}

// addKernel moves the root's kernel into the packages kernel-core, with these scriptlets, and kernel-devel. @K@ is its
// release, which addKernel returns. The headers themselves stay where they are.
func (r *Root) addKernel(scriptlets string) string {
	r.t.Helper()
	k := r.Kernels()[0]
	version := strings.ReplaceAll(k, "-", ".")
	headers := strings.TrimSpace(r.MustRun("readlink", "-f", "/usr/lib/modules/"+k+"/build"))
	r.Sh("mkdir /opt/kernel && cd /usr/lib/modules && rm -f " + k + "/build " + k + "/source && mv " + k + " /opt/kernel/")
	ghosts := ""
	for _, file := range r.Glob("/opt/kernel/" + k + "/modules.*") {
		if base := path.Base(file); base != "modules.order" && base != "modules.builtin" && base != "modules.builtin.modinfo" {
			ghosts += "%ghost /usr/lib/modules/@K@/" + base + "\n"
		}
	}
	r.addRPM("kernel-core", version, "1", strings.ReplaceAll(`%install
mkdir -p %{buildroot}/usr/lib/modules
cp -a /opt/kernel/@K@ %{buildroot}/usr/lib/modules/
%files
/usr/lib/modules/@K@
`+ghosts+scriptlets, "@K@", k))
	r.addRPM("kernel-devel", version, "1", strings.ReplaceAll(`Provides: kernel-devel-matched = `+version+`
%install
mkdir -p %{buildroot}/usr/lib/modules/@K@
ln -s `+headers+` %{buildroot}/usr/lib/modules/@K@/build
%files
%dir /usr/lib/modules/@K@
/usr/lib/modules/@K@/build
`, "@K@", k))
	return k
}

// kernelInstall are the scriptlets of a kernel that calls kernel-install.
const kernelInstall = `%posttrans
kernel-install add @K@ /usr/lib/modules/@K@/vmlinuz || exit 1
%preun
kernel-install remove @K@ || exit 1
`

// addOnly are the scriptlets of a package that leaves the building to others.
const addOnly = `%post
dkms add -m toy -v 1.0 --rpm_safe_upgrade || :
%preun
dkms remove -m toy -v 1.0 --all --rpm_safe_upgrade || :
`

// toyBuilt counts how often the output of a transaction says that the module was built.
func toyBuilt(out string) int {
	return len(regexp.MustCompile(`(?m)^(?:dkms: )?toy/[0-9.]+ for [^ ]*: built`).FindAllString(out, -1))
}

// TestRPMTriggers has kernels, headers and packages come and go in transactions of their own and together.
func TestRPMTriggers(t *testing.T) {
	t.Parallel()
	r := rpmRoot(t, fedora)
	k := r.addKernel(kernelInstall)
	module := "/usr/lib/modules/" + k + "/extra/toy.ko.xz"
	r.addOurs()
	r.addToy("1.0", "1", "", addOnly)
	r.addRPM("unrelated", "1", "1", "%install\nmkdir -p %{buildroot}/usr/lib/modules\n: >%{buildroot}/usr/lib/modules/unrelated\n%files\n/usr/lib/modules/unrelated\n")
	r.dnf("install", ours)
	before := r.Snapshot()
	r.dnf("install", "toy-dkms")
	transaction := func(want int, args ...string) {
		t.Helper()
		start := time.Now()
		out := r.dnf(args...)
		t.Logf("%q: %v", args, time.Since(start))
		if got := toyBuilt(out); got != want {
			t.Errorf("%q: built %d times, want %d: %s", args, got, want, out)
		}
		if notes := r.Glob("/var/lib/dkms/.rpm-upgrade-*"); len(notes) > 0 {
			t.Errorf("%q: notes are left: %q", args, notes)
		}
	}
	inInitramfs := func() bool { return strings.Contains(initramfs(r, k), "/toy.ko") }
	r.Write("/etc/dracut.conf.d/driver.conf", `add_drivers+=" toy "`+"\n", 0o644)

	// The headers come after their kernel, which has its initramfs by then.
	r.MustRun("rpm", "-i", "--nodeps", r.Glob("/opt/rpms/*/kernel-core-*")[0])
	if r.Exists(module) || inInitramfs() {
		t.Error("built without headers")
	}
	r.Write("/etc/dkms/no-autoinstall", "", 0o644)
	transaction(0, "install", "kernel-devel")
	r.MustRun("rm", "/etc/dkms/no-autoinstall")
	transaction(1, "reinstall", "kernel-devel")
	if !r.Exists(module) || !inInitramfs() {
		t.Errorf("after the headers came, the module is not there, or not in the initramfs: %s", r.MustRun("dkms", "status"))
	}
	transaction(0, "install", "unrelated")
	transaction(0, "remove", "kernel-core")
	if got := r.MustRun("dkms", "status"); got != "toy/1.0: added\n" {
		t.Errorf("the kernel was removed, and status is %s", got)
	}
	transaction(0, "remove", "kernel-devel")

	// All in one.
	transaction(1, "install", "kernel-core")
	if !r.Exists(module) || !inInitramfs() {
		t.Errorf("with the headers, the module is not there, or not in the initramfs: %s", r.MustRun("dkms", "status"))
	}
	transaction(0, "remove", "kernel-core", "kernel-devel", "toy-dkms")
	left := r.Snapshot()
	delete(left, "/usr/lib/modules/unrelated")
	if diff := cmp.Diff(before, left); diff != "" {
		t.Errorf("this is left (+) or lost (-): %s", diff)
	}
}

// TestRPMOrders installs a kernel, its headers and a package in transactions of their own, in different orders, and
// removes them in the opposite one.
func TestRPMOrders(t *testing.T) {
	t.Parallel()
	r := rpmRoot(t, fedora)
	k := r.addKernel(kernelInstall)
	r.addOurs()
	r.addToy("1.0", "1", "", addOnly)
	r.dnf("install", ours)
	r.Write("/etc/dracut.conf.d/driver.conf", `add_drivers+=" toy "`+"\n", 0o644)
	before := r.Snapshot()
	orders := [][]string{{"toy-dkms", "kernel-devel", "kernel-core"}}
	if os.Getenv("DKMS_TEST_ALL") != "" {
		orders = append(orders, []string{"kernel-core", "kernel-devel", "toy-dkms"}, []string{"kernel-core", "toy-dkms", "kernel-devel"}, []string{"kernel-devel", "kernel-core", "toy-dkms"},
			[]string{"kernel-devel", "toy-dkms", "kernel-core"}, []string{"toy-dkms", "kernel-core", "kernel-devel"})
	}
	for _, order := range orders {
		for _, name := range order {
			r.MustRun("rpm", "-i", "--nodeps", r.Glob("/opt/rpms/*/" + name + "-*")[0])
		}
		if got := r.MustRun("dkms", "status"); got != "toy/1.0, "+k+", x86_64: installed\n" {
			t.Errorf("%q: status is %s", order, got)
		}
		if !strings.Contains(initramfs(r, k), "/toy.ko") {
			t.Errorf("%q: the initramfs lacks the module", order)
		}
		for _, name := range slices.Backward(order) {
			r.MustRun("rpm", "-e", "--nodeps", name)
		}
		if diff := cmp.Diff(before, r.Snapshot()); diff != "" {
			t.Errorf("%q: this is left (+) or lost (-): %s", order, diff)
		}
	}
}

// TestRpmReplacesDkms moves a machine from a package called dkms to ours and back, by dnf. It has a tree, keys and
// settings, and a package that depends on dkms.
func TestRpmReplacesDkms(t *testing.T) {
	t.Parallel()
	r := rpmRoot(t, fedora)
	k := r.Kernels()[0]
	r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
	r.addOurs()
	r.layIn("dkms")
	r.Sh("mkdir /opt/theirs && mv /usr/sbin/dkms /usr/lib/kernel/install.d/40-dkms.install /etc/dkms/framework.conf /opt/theirs")
	r.addRPM("dkms", "3.2.2", "1", `%install
install -D -t %{buildroot}/usr/sbin /opt/theirs/dkms
install -D -t %{buildroot}/usr/lib/kernel/install.d /opt/theirs/40-dkms.install
install -D -m 644 -t %{buildroot}/etc/dkms /opt/theirs/framework.conf
install -D -m 644 /dev/null %{buildroot}/usr/lib/systemd/system/dkms.service
printf '[Service]\nType=oneshot\nExecStart=/usr/sbin/dkms autoinstall\n[Install]\nWantedBy=multi-user.target\n' >%{buildroot}/usr/lib/systemd/system/dkms.service
%files
/usr/sbin/dkms
/usr/lib/kernel/install.d/40-dkms.install
/usr/lib/systemd/system/dkms.service
%config(noreplace) /etc/dkms/framework.conf
%post
[ $1 -ne 1 ] || systemctl --no-reload enable dkms.service
%preun
[ $1 -ne 0 ] || systemctl --no-reload disable dkms.service
`)
	r.addToy("1.0", "1", "", addOnly)
	r.dnf("install", "dkms", "toy-dkms")
	r.MustRun("dkms", "install", "toy/1.0", "-k", k)

	enabled := func() string { return strings.TrimSpace(r.Run("systemctl", "is-enabled", "dkms.service").Stdout) }
	type state struct {
		Status, Enabled string
		Files           map[string]Entry
		Builds          map[string]string
		Content         []string
	}
	look := func() state {
		s := state{r.MustRun("dkms", "status"), enabled(), r.Snapshot(), builds(r), nil}
		for _, file := range []string{"/etc/dkms/framework.conf", "/etc/dkms/framework.conf.d/test.conf", "/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub"} {
			s.Content = append(s.Content, r.Read(file))
		}
		return s
	}
	move := func(was state, owner string, args ...string) {
		t.Helper()
		r.dnf(args...)
		if got := r.MustRun("rpm", "-q", "--whatprovides", "dkms", "--queryformat", "%{NAME}"); got != owner {
			t.Fatalf("dnf %q: dkms is of %s", args, got)
		}
		if diff := cmp.Diff(was, look()); diff != "" {
			t.Errorf("dnf %q changed: %s", args, diff)
		}
		if left := r.Sh("ls -A /etc/dkms | grep -v '^framework.conf$' | grep -v '^framework.conf.d$' | grep -v '[.]rpmnew$' || :"); left != "" {
			t.Errorf("dnf %q leaves %s", args, left)
		}
	}
	for _, change := range []string{"", "echo '# of the administrator' >>/etc/dkms/framework.conf"} {
		r.Sh(change)
		was := look()
		if was.Status != "toy/1.0, "+k+", x86_64: installed\n" || was.Enabled != "enabled" {
			t.Fatalf("not as meant: %q", was)
		}
		move(was, "dkms-kernel-install", "install", ours)
		if r.Exists("/etc/dkms/framework.conf.rpmnew") {
			t.Error("ours brings settings")
		}
		r.MustRun("dkms", "autoinstall", "-k", k)
		was.Files = r.Snapshot() // builds have fingerprints now
		r.dnf("install", "dkms") // does nothing: ours is one
		move(was, "dkms-kernel-install", "reinstall", ours)
		move(was, "dkms", "swap", "dkms-kernel-install", "dkms")
		r.Sh("rm -f /etc/dkms/framework.conf.rpmnew")
	}

	// A unit that the administrator disabled stays so.
	r.MustRun("systemctl", "disable", "dkms.service")
	was := look()
	move(was, "dkms-kernel-install", "install", ours)
	move(was, "dkms-kernel-install", "reinstall", ours)
	r.dnf("remove", "toy-dkms", "dkms-kernel-install")
	if left := r.Sh("find /var/lib/dkms /etc/systemd -name '*toy*' -o -name '.rpm*' -o -name dkms.service"); left != "" || r.Exists("/usr/lib/modules/"+k+"/extra") {
		t.Errorf("removal leaves %s", left)
	}
}

// TestRPMSuse installs and removes a kernel whose scripts call no kernel-install, as those of SUSE do not.
func TestRPMSuse(t *testing.T) {
	t.Parallel()
	r := rpmRoot(t, suse)
	k := r.addKernel(`%posttrans
depmod @K@
dracut -f /boot/initrd-@K@ @K@
%postun
rm /boot/initrd-@K@
`)
	// It makes an initramfs itself, or asks for one.
	r.Write("/usr/lib/module-init-tools/weak-modules2", `#!/bin/sh
cat >/dev/null
echo "$1" >>/var/log/weak
if [ "$1" != --add-kernel-modules ]; then
	exit
fi
depmod "$2"
if [ -z "$INITRD_IN_POSTTRANS" ]; then
	dracut -f "/boot/initrd-$2" "$2"
else
	mkdir -p /run/regenerate-initrd
	touch "/run/regenerate-initrd/$2"
fi
`, 0o755)
	r.Write("/etc/dracut.conf.d/driver.conf", "echo dracut >>/var/log/weak; add_drivers+=' toy other '\n", 0o644) // dracut's bash reads it
	r.addOurs()
	r.addToy("1.0", "1", "", addOnly)
	r.dnf("install", ours, "toy-dkms")
	r.Sh("cp -r /usr/src/toy-1.0 /usr/src/other-1.0 && cd /usr/src/other-1.0 && sed -i s/toy/other/ dkms.conf Makefile && mv toy.c other.c && dkms add other/1.0")
	before := r.Snapshot()

	r.dnf("install", "kernel-core")
	for _, name := range []string{"toy", "other"} {
		if !r.Exists("/usr/lib/modules/"+k+"/updates/"+name+".ko.xz") || !strings.Contains(r.MustRun("lsinitrd", "/boot/initrd-"+k), "/"+name+".ko") {
			t.Errorf("%s is not there, or not in the initramfs: %s", name, r.MustRun("dkms", "status"))
		}
	}
	// One initramfs is of the kernel's own script.
	if got := r.Read("/var/log/weak"); got != "dracut\n--add-kernel-modules\ndracut\n" || len(r.Glob("/run/regenerate-initrd/*")) > 0 {
		t.Errorf("the initramfs was made again more than once, or will be: %s", got)
	}
	r.dnf("reinstall", "kernel-core")
	if got := states(r)["toy/1.0, "+k+", x86_64"]; got != "installed" {
		t.Errorf("the kernel was installed again, and toy is %q", got)
	}
	r.dnf("remove", "--noautoremove", "kernel-core") // its headers stay
	if got := r.MustRun("dkms", "status"); got != "other/1.0: added\ntoy/1.0: added\n" {
		t.Errorf("the kernel was removed, and status is %s", got)
	}
	r.dnf("remove", "kernel-devel")
	if diff := cmp.Diff(before, r.Snapshot()); diff != "" {
		t.Errorf("with the kernel removed, this is left (+) or lost (-): %s", diff)
	}
}

// moduleScriptlets are those that public spec files of modules have. @V@ is the version.
var moduleScriptlets = map[string]string{
	"plain": `%post
dkms add -m toy -v @V@ -q || :
dkms build -m toy -v @V@ -q || :
dkms install -m toy -v @V@ -q --force || :
%preun
dkms remove -m toy -v @V@ -q --all || :
`,
	"common.postinst": `%post
/usr/lib/dkms/common.postinst toy @V@
%preun
dkms remove -m toy -v @V@ --all --rpm_safe_upgrade || :
`,
	"rpm_safe_upgrade": `%post
dkms add -m toy -v @V@ -q --rpm_safe_upgrade || :
dkms build -m toy -v @V@ -q || :
dkms install -m toy -v @V@ -q --force || :
%preun
dkms remove -m toy -v @V@ -q --all --rpm_safe_upgrade || :
`,
	"status": `%post
[ -n "$(dkms status -m toy -v @V@)" ] || dkms add -m toy -v @V@
if dkms build -m toy -v @V@; then
	dkms install -m toy -v @V@ --force || :
fi
%preun
if dkms status -m toy -v @V@ | grep -qE 'added|built|installed'; then
	dkms remove -m toy -v @V@ --all || :
fi
`,
}

// TestRPMModules installs, upgrades and removes packages of a module: of one kind, and with DKMS_TEST_ALL of four.
func TestRPMModules(t *testing.T) {
	t.Parallel()
	r := rpmRoot(t, fedora)
	k := r.Kernels()[0]
	module := "/usr/lib/modules/" + k + "/extra/toy.ko.xz"
	r.addOurs()
	r.dnf("install", ours)
	before := r.Snapshot()
	kinds := []string{"plain"}
	if os.Getenv("DKMS_TEST_ALL") != "" {
		kinds = slices.Sorted(maps.Keys(moduleScriptlets))
	}
	for _, kind := range kinds {
		scriptlets := moduleScriptlets[kind]
		t.Run(kind, func(t *testing.T) {
			transaction := func(what, status, description string, args ...string) {
				t.Helper()
				start := time.Now()
				out := r.dnf(args...)
				t.Logf("%s: %v", what, time.Since(start))
				if got := r.MustRun("dkms", "status"); got != strings.ReplaceAll(status, "@K@", k+", x86_64") {
					t.Errorf("%s: status is %s: %s", what, got, out)
				}
				if got := r.Run("modinfo", "-F", "description", module).Stdout; got != description {
					t.Errorf("%s: the module is %q, want %q", what, got, description)
				}
			}
			release := func(version, release, more string) string {
				r.addToy(version, release, more, strings.ReplaceAll(scriptlets, "@V@", version))
				return "toy-dkms-" + version + "-" + release
			}
			transaction("install", "toy/1.0, @K@: installed\n", "first\n", "install", release("1.0", "1", `MODULE_DESCRIPTION("first");`))
			transaction("new release", "toy/1.0, @K@: installed\n", "second\n", "install", release("1.0", "2", `MODULE_DESCRIPTION("second");`))
			transaction("upgrade", "toy/2.0, @K@: installed\n", "third\n", "install", release("2.0", "1", `MODULE_DESCRIPTION("third");`))
			transaction("failing upgrade", "toy/3.0: added\ntoy/2.0, @K@: kept from before an upgrade\n", "third\n", "install", release("3.0", "1", "#error no"))
			transaction("mended upgrade", "toy/3.0, @K@: installed\n", "fourth\n", "install", release("3.0", "2", `MODULE_DESCRIPTION("fourth");`))
			transaction("remove", "", "", "remove", "toy-dkms")
			if diff := cmp.Diff(before, r.Snapshot()); diff != "" {
				t.Errorf("this is left (+) or lost (-): %s", diff)
			}
		})
	}
}
