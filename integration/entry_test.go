// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What every make install installs, and what the distributions' targets add.
var (
	layout = map[string]string{
		"/etc/dkms/framework.conf":                                      "-rw-r--r--",
		"/usr/lib/kernel/install.d/40-dkms.install":                     "-rwxr-xr-x",
		"/usr/sbin/dkms":                                                "-> ../lib/kernel/install.d/40-dkms.install",
		"/usr/sbin/dkms-kernel-install":                                 "-> ../lib/kernel/install.d/40-dkms.install",
		"/usr/share/bash-completion/completions/dkms":                   "-rw-r--r--",
		"/usr/share/bash-completion/completions/dkms-kernel-install":    "-rw-r--r--",
		"/usr/share/doc/dkms-kernel-install/framework.conf":             "-rw-r--r--",
		"/usr/lib/sysusers.d/dkms-kernel-install.conf":                  "-rw-r--r--",
		"/usr/share/fish/vendor_completions.d/dkms.fish":                "-rw-r--r--",
		"/usr/share/fish/vendor_completions.d/dkms-kernel-install.fish": "-rw-r--r--",
		"/usr/share/man/man5/dkms.conf.5":                               "-rw-r--r--",
		"/usr/share/man/man5/framework.conf.5":                          "-rw-r--r--",
		"/usr/share/man/man8/dkms-kernel-install.8":                     "-rw-r--r--",
		"/usr/share/man/man8/dkms.8":                                    "-rw-r--r--",
		"/usr/share/zsh/site-functions/_dkms":                           "-rw-r--r--",
		"/usr/share/zsh/site-functions/_dkms-kernel-install":            "-rw-r--r--",
	}
	common = map[string]string{
		"/usr/lib/dkms/common.postinst":        "-rwxr-xr-x",
		"/usr/lib/dkms/dkms_autoinstaller":     "-rwxr-xr-x",
		"/usr/lib/dkms/with-grub":              "-rwxr-xr-x",
		"/usr/lib/systemd/system/dkms.service": "-rw-r--r--",
	}
	debianLayout = with(move(layout, "/usr/share/zsh/site-functions/", "/usr/share/zsh/vendor-completions/"), common, map[string]string{
		"/etc/dkms/framework.conf.d/autoinstall_all_kernels.conf": "-rw-r--r--",
		"/etc/apt/apt.conf.d/50dkms":                              "-rw-r--r--",
		"/etc/default/grub.d/dkms.cfg":                            "-rw-r--r--",
		"/etc/kernel/header_postinst.d/dkms":                      "-rwxr-xr-x",
		"/etc/kernel/postinst.d/dkms":                             "-rwxr-xr-x",
		"/etc/kernel/preinst.d/dkms":                              "-rwxr-xr-x",
		"/etc/kernel/prerm.d/dkms":                                "-rwxr-xr-x",
	})
	redhatLayout = with(layout, common, map[string]string{"/usr/lib/kernel/install.d/04-dkms.install": "-> 40-dkms.install"})
	archLayout   = with(move(layout, "/usr/sbin/", "/usr/bin/"), map[string]string{
		"/usr/lib/systemd/system/dkms.service":                         "-rw-r--r--",
		"/usr/lib/systemd/system/multi-user.target.wants/dkms.service": "-> ../dkms.service",
		"/usr/share/libalpm/hooks/70-dkms-install.hook":                "-rw-r--r--",
		"/usr/share/libalpm/hooks/71-dkms-remove.hook":                 "-rw-r--r--",
		"/usr/share/libalpm/hooks/72-dkms-settle.hook":                 "-rw-r--r--",
		"/usr/share/libalpm/scripts/dkms":                              "-rwxr-xr-x",
	})
	gentooLayout = with(layout, map[string]string{
		"/etc/init.d/dkms":                     "-rwxr-xr-x",
		"/usr/lib/systemd/system/dkms.service": "-rw-r--r--",
	})
)

func with(layouts ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, l := range layouts {
		for file, entry := range l {
			all[file] = entry
		}
	}
	return all
}

func move(l map[string]string, from, to string) map[string]string {
	moved := map[string]string{}
	for file, entry := range l {
		if rest, ok := strings.CutPrefix(file, from); ok {
			file = to + rest
		}
		moved[file] = entry
	}
	return moved
}

// listFiles lists what is below dir, except directories, as a layout.
func listFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		entry := fi.Mode().String()
		if d.Type() == fs.ModeSymlink {
			to, err := os.Readlink(file)
			if err != nil {
				return err
			}
			entry = "-> " + to
		}
		list[strings.TrimPrefix(file, dir)] = entry
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestInstallTargets checks what each distribution's target installs, and that uninstall removes all of it except
// settings, tree and keys.
func TestInstallTargets(t *testing.T) {
	for target, want := range map[string]map[string]string{
		"install": layout, "install-debian": debianLayout, "install-redhat": redhatLayout,
		"install-arch": archLayout, "install-gentoo": gentooLayout,
	} {
		t.Run(target, func(t *testing.T) {
			dir := t.TempDir()
			makeIn(t, "..", target, "DESTDIR="+dir)
			got := listFiles(t, dir)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s laid out (+) something else than it should (-): %s", target, diff)
			}
			for file := range got {
				if text, err := os.ReadFile(filepath.Join(dir, file)); err != nil || len(text) == 0 {
					t.Errorf("%s is empty: %v", file, err)
				}
			}
			for _, name := range []string{"mok.key", "toy"} {
				if err := os.WriteFile(filepath.Join(dir, "var/lib/dkms", name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			makeIn(t, "..", "uninstall", "DESTDIR="+dir)
			left := map[string]string{"/etc/dkms/framework.conf": "-rw-r--r--", "/var/lib/dkms/mok.key": "-rw-------", "/var/lib/dkms/toy": "-rw-------"}
			if target == "install-debian" {
				left["/etc/dkms/framework.conf.d/autoinstall_all_kernels.conf"] = "-rw-r--r--"
			}
			if diff := cmp.Diff(left, listFiles(t, dir)); diff != "" {
				t.Errorf("uninstall left (+) something else than it should (-): %s", diff)
			}
		})
	}
}

// installTarget installs what is being tested as one of the Makefile's targets does.
func (r *Root) installTarget(target string) {
	r.t.Helper()
	makeLock.Lock()
	defer makeLock.Unlock()
	makeIn(r.t, "..", target, "DESTDIR="+r.Dir)
}

// TestSystemdUnit has systemd check the unit and its order.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.installTarget("install-debian")
	res := r.Run("systemd-analyze", "verify", "--man=no", "dkms.service")
	if res.Status != 0 || res.Stdout+res.Stderr != "" {
		t.Errorf("systemd-analyze verify: %v", res)
	}
	// A unit with a mistake does not pass.
	r.Write("/usr/lib/systemd/system/wrong.service", strings.Replace(r.Read("/usr/lib/systemd/system/dkms.service"), "/usr/sbin/", "/usr/none/", 1), 0o644)
	if res := r.Run("systemd-analyze", "verify", "--man=no", "wrong.service"); res.Status == 0 {
		t.Errorf("systemd-analyze verify finds nothing wrong with a unit without a program: %v", res)
	}
	r.MustRun("systemctl", "enable", "dkms.service")
	if !r.Exists("/etc/systemd/system/multi-user.target.wants/dkms.service") {
		t.Error("enabled, the unit is part of no target")
	}
}

// TestSystemdOrder has systemd plan a boot with the unit beside those of cloud-init and ifupdown, of which some have to
// set up the network before sysinit.target.
func TestSystemdOrder(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.installTarget("install-debian")
	r.layIn("cloud-init")
	r.layIn("ifupdown")
	r.MustRun("systemctl", "enable", "dkms", "networking", "cloud-init-main", "cloud-init-local", "cloud-init-network", "cloud-config", "cloud-final")
	// Its generator does so at boot.
	r.MustRun("systemctl", "add-wants", "multi-user.target", "cloud-init.target")
	boot := func() string {
		res := r.Run("systemd-analyze", "verify", "--man=no", "graphical.target")
		return res.Stdout + res.Stderr
	}
	if out := boot(); strings.Contains(out, "cycle") || strings.Contains(out, "dkms") {
		t.Errorf("the order of units has a cycle:\n%s", out)
	}
	// With the dependencies that services have by default, it has.
	const unit = "/usr/lib/systemd/system/dkms.service"
	r.Write(unit, strings.Replace(r.Read(unit), "DefaultDependencies=no", "", 1), 0o644)
	if out := boot(); !strings.Contains(out, "Found dependency on dkms.service") {
		t.Errorf("systemd-analyze verify finds no cycle where there is one:\n%s", out)
	}
}

// recorder is a program that logs its call, and ends with the status in /tmp/status. The kernels in /tmp/held lack a
// required package.
const recorder = `#!/bin/sh
echo "${0##*/} $*" >>/tmp/calls
[ "$1" != held ] || { cat /tmp/held 2>/dev/null; exit 0; }
exit "$(cat /tmp/status 2>/dev/null || echo 0)"
`

const held = "dkms-kernel-install held\n"

// withRecorders installs what target does, with recorders instead of the program.
func withRecorders(t *testing.T, target, dir string) *Root {
	t.Helper()
	r := NewRoot(t)
	r.installTarget(target)
	r.Sh("rm " + dir + "/dkms " + dir + "/dkms-kernel-install")
	for _, name := range []string{"dkms", "dkms-kernel-install"} {
		r.Write(dir+"/"+name, recorder, 0o755)
	}
	return r
}

// calls returns what recorders logged since the last call of it.
func (r *Root) calls() string {
	r.t.Helper()
	if !r.Exists("/tmp/calls") {
		return ""
	}
	calls := r.Read("/tmp/calls")
	r.MustRun("rm", "/tmp/calls")
	return calls
}

func TestDebianHooks(t *testing.T) {
	t.Parallel()
	r := withRecorders(t, "install-debian", "/usr/sbin")
	k := r.Kernels()[0]
	for _, c := range []struct {
		hook, kernel string
		status       string // of the program
		calls        string
		want         int // exit status of the script
		out          string
	}{
		{hook: "preinst", kernel: k, status: "0", calls: "dkms kernel_preinst -k " + k + "\n"},
		{hook: "preinst", kernel: k, status: "14", calls: "dkms kernel_preinst -k " + k + "\n"},
		{hook: "postinst", kernel: k, status: "0", calls: "dkms kernel_postinst -k " + k + "\n"},
		{hook: "postinst", kernel: k, status: "11", calls: "dkms kernel_postinst -k " + k + "\n"},
		{hook: "postinst", kernel: k, status: "1", calls: "dkms kernel_postinst -k " + k + "\n", want: 1},
		{hook: "postinst", kernel: "6.0-without", status: "1", out: "dkms: modules for kernel 6.0-without are built when its headers are installed\n"},
		{hook: "prerm", kernel: k, status: "0", calls: "dkms kernel_prerm -k " + k + "\n"},
		{hook: "prerm", kernel: k, status: "14", calls: "dkms kernel_prerm -k " + k + "\n"},
		{hook: "header_postinst", kernel: k, status: "0", calls: held + "dkms-kernel-install sync --kernel " + k + "\n" + held},
		{hook: "header_postinst", kernel: k, status: "2", calls: held + "dkms-kernel-install sync --kernel " + k + "\n" + held},
	} {
		r.Write("/tmp/status", c.status, 0o644)
		res := r.Run("/etc/kernel/"+c.hook+".d/dkms", c.kernel, "/boot/vmlinuz-"+c.kernel)
		if got := r.calls(); got != c.calls || res.Status != c.want || res.Stdout+res.Stderr != c.out {
			t.Errorf("%s of %s, where the program ends with %s, called %q: %v", c.hook, c.kernel, c.status, got, res)
		}
	}

	r.Write("/etc/dkms/no-autoinstall", "", 0o644)
	if res := r.Run("/etc/kernel/header_postinst.d/dkms", k); res.Status != 0 || r.calls() != "" {
		t.Errorf("header_postinst, switched off: %v", res)
	}

	// Hooks are conffiles: they stay when the package is removed.
	makeIn(t, "..", "uninstall", "DESTDIR="+r.Dir)
	for _, hook := range []string{"preinst", "postinst", "prerm", "header_postinst"} {
		text, err := os.ReadFile("../install.d/debian/" + hook)
		if err != nil {
			t.Fatal(err)
		}
		r.Write("/tmp/hook", string(text), 0o755)
		if res := r.Run("/tmp/hook", k); res.Status != 0 || res.Stdout+res.Stderr != "" {
			t.Errorf("%s without the program: %v", hook, res)
		}
	}
}

func TestCommonScripts(t *testing.T) {
	t.Parallel()
	r := withRecorders(t, "install-redhat", "/usr/sbin")
	k := r.Kernels()[0]
	// The running kernel is that of the machine: it has no headers in the root.
	running := strings.TrimSpace(r.MustRun("uname", "-r"))
	skipped := "dkms: no modules are built for kernel " + running + ": its headers are not installed\n"
	for _, c := range []struct {
		args   []string
		status string
		calls  string
		want   int
		out    string
	}{
		{args: []string{"common.postinst", "toy", "1.0", "/usr/share/toy-dkms", "amd64", "0.9"}, calls: held + "dkms-kernel-install postinst toy 1.0 /usr/share/toy-dkms amd64 0.9\n" + held},
		{args: []string{"common.postinst", "toy", "1.0", "", "", ""}, status: "2", calls: held + "dkms-kernel-install postinst toy 1.0   \n" + held, want: 2},
		{args: []string{"dkms_autoinstaller", "start", k}, calls: "dkms autoinstall --kernelver " + k + "\n"},
		{args: []string{"dkms_autoinstaller", "start", k}, status: "11", calls: "dkms autoinstall --kernelver " + k + "\n", want: 11},
		{args: []string{"dkms_autoinstaller", "start"}, out: skipped},
		{args: []string{"dkms_autoinstaller", "stop"}},
		{args: []string{"dkms_autoinstaller", "restart"}},
		{args: []string{"dkms_autoinstaller", "reload"}},
		{args: []string{"dkms_autoinstaller", "force-reload"}},
		{args: []string{"dkms_autoinstaller", "status"}},
		{args: []string{"dkms_autoinstaller"}, want: 2, out: "usage: /usr/lib/dkms/dkms_autoinstaller start [KERNEL]\n"},
		{args: []string{"dkms_autoinstaller", "begin"}, want: 2, out: "usage: /usr/lib/dkms/dkms_autoinstaller start [KERNEL]\n"},
	} {
		if c.status == "" {
			c.status = "0"
		}
		r.Write("/tmp/status", c.status, 0o644)
		res := r.Run(append([]string{"/usr/lib/dkms/" + c.args[0]}, c.args[1:]...)...)
		if got := r.calls(); got != c.calls || res.Status != c.want || res.Stdout+res.Stderr != c.out {
			t.Errorf("%q called %q: %v", c.args, got, res)
		}
	}
}

// TestOpenRC runs the service as openrc-run does: by sourcing the script and calling its functions.
func TestOpenRC(t *testing.T) {
	t.Parallel()
	r := withRecorders(t, "install-gentoo", "/usr/sbin")
	k := r.Kernels()[0]
	r.Write("/usr/sbin/openrc-run", `#!/bin/sh
need() { echo "need $*"; }
before() { echo "before $*"; }
keyword() { :; }
ebegin() { echo "$*"; }
eend() { [ "$1" -eq 0 ] || echo "$2"; return "$1"; }
uname() { cat /tmp/running; }
. "$1"
"$2"
`, 0o755)
	start := func(kernel, status string) Result {
		r.Write("/tmp/running", kernel+"\n", 0o644)
		r.Write("/tmp/status", status, 0o644)
		return r.Run("/etc/init.d/dkms", "start")
	}
	if out := r.MustRun("/etc/init.d/dkms", "depend"); !strings.Contains(out, "need localmount\n") || !strings.Contains(out, "before net\n") {
		t.Errorf("it depends on %s", out)
	}
	want := "dkms-kernel-install sync --only-missing --kernel " + k + "\n"
	if res := start(k, "0"); res.Status != 0 || r.calls() != want {
		t.Errorf("start: %v", res)
	}
	if res := start(k, "2"); res.Status != 2 || r.calls() != want || !strings.Contains(res.Stdout, "some modules are missing") {
		t.Errorf("start, when a package fails: %v", res)
	}
	if res := start("6.0-without", "2"); res.Status != 0 || r.calls() != "" {
		t.Errorf("start without headers: %v", res)
	}
	r.Write("/etc/dkms/no-autoinstall", "", 0o644)
	if res := start(k, "2"); res.Status != 0 || r.calls() != "" {
		t.Errorf("start, switched off: %v", res)
	}
}

// TestArchScript runs the script that alpm's hooks call, with the paths of transactions.
func TestArchScript(t *testing.T) {
	t.Parallel()
	r := withRecorders(t, "install-arch", "/usr/bin")
	for _, id := range []string{"old/1.0", "old/2.0", "two-words/3"} {
		name, version := path.Split(id)
		r.Sh("mkdir -p /var/lib/dkms/" + id + " && ln -s /usr/src/" + strings.TrimSuffix(name, "/") + "-" + version + " /var/lib/dkms/" + id + "/source")
	}
	const mkinitcpio = "/usr/share/libalpm/hooks/90-mkinitcpio-install.hook"
	later := func() {
		r.Write(mkinitcpio, "[Trigger]\nType = Path\nOperation = Install\nTarget = usr/src/*/dkms.conf\n\n[Trigger]\nTarget = usr/lib/modules/*/vmlinuz\n", 0o644)
	}
	// Modules that are kept of a package that is gone, of one with another version, and of one whose other version is not
	// registered.
	kept := func() {
		r.Sh(`mkdir -p /var/lib/dkms/gone/.kept-1.0 /var/lib/dkms/old/.kept-0.9 /var/lib/dkms/here/.kept-1.0 /usr/src/old-2.0 /usr/src/here-2.0
			echo 'PACKAGE_NAME="here"' >/usr/src/here-2.0/dkms.conf`)
	}
	for _, c := range []struct {
		name   string
		before func()
		verb   string
		paths  string
		calls  string
	}{
		{name: "source", verb: "install", paths: "usr/src/new-1.0/dkms.conf\n",
			calls: "dkms add /usr/src/new-1.0\ndkms-kernel-install sync --tell-once\n"},
		{name: "source, registered", verb: "install", paths: "usr/src/two-words-3/dkms.conf\n",
			calls: "dkms-kernel-install sync --tell-once\n"},
		{name: "source, initramfs follows", before: later, verb: "install", paths: "usr/src/old-1.0/dkms.conf\nusr/src/old-2.0/dkms.conf\nusr/lib/modules/6.1-arch1/modules.order\n",
			calls: "dkms-kernel-install sync --tell-once --hook-next\n"},
		{name: "kernel", verb: "install", paths: "usr/lib/modules/6.1-arch1/modules.order\nusr/lib/modules/6.1-arch1/build/include/\nusr/lib/modules/6.2-lts/modules.order\n",
			calls: "dkms-kernel-install sync --tell-once --kernel 6.1-arch1\ndkms-kernel-install sync --tell-once --kernel 6.2-lts\n"},
		{name: "kernel, and headers of another, initramfs follows", before: later, verb: "install", paths: "usr/lib/modules/6.1-arch1/build/include/\nusr/lib/modules/6.2-lts/modules.order\n",
			calls: "dkms-kernel-install sync --tell-once --kernel 6.1-arch1\ndkms-kernel-install sync --tell-once --kernel 6.2-lts --hook-next\n"},
		{name: "initramfs hook masked", before: func() {
			later()
			r.Sh("mkdir -p /etc/pacman.d/hooks; ln -s /dev/null /etc/pacman.d/hooks/" + path.Base(mkinitcpio))
		},
			verb: "install", paths: "usr/src/old-1.0/dkms.conf\n", calls: "dkms-kernel-install sync --tell-once\n"},
		{name: "deeper paths", verb: "install", paths: "usr/src/old-1.0/example/dkms.conf\nusr/lib/modules/6.1-arch1/build/include/\n",
			calls: "dkms-kernel-install sync --tell-once --kernel 6.1-arch1\n"},
		{name: "remove", verb: "remove", paths: "usr/src/old-2.0/dkms.conf\nusr/src/never-1.0/dkms.conf\nusr/lib/modules/6.1-arch1/modules.order\n",
			calls: "dkms remove old/2.0 --all\ndkms-kernel-install remove 6.1-arch1\n"},
		{name: "kept", before: kept, verb: "settle", paths: "usr/src/gone-1.0/dkms.conf\n", calls: "dkms remove gone/1.0 --all\n"},
		{name: "kept, after a transaction that was cut short", before: kept, verb: "install", paths: "usr/src/new-1.0/dkms.conf\n",
			calls: "dkms add /usr/src/new-1.0\ndkms remove gone/1.0 --all\ndkms-kernel-install sync --tell-once\n"},
		{name: "upgrade", verb: "upgrade", paths: "usr/src/old-2.0/dkms.conf\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.Sh("rm -rf /var/lib/dkms/*/.kept-* /etc/pacman.d/hooks " + mkinitcpio)
			if c.before != nil {
				c.before()
			}
			r.Write("/tmp/paths", c.paths, 0o644)
			out := r.Sh("/usr/share/libalpm/scripts/dkms " + c.verb + " </tmp/paths 2>&1")
			calls := c.calls
			if c.verb == "install" {
				calls += held
			}
			if diff := cmp.Diff(calls, r.calls()); diff != "" || out != "" {
				t.Errorf("called (+) something else than it should (-): %s\n%s", diff, out)
			}
		})
	}
	if res := r.Run("/usr/share/libalpm/scripts/dkms"); res.Status != 2 {
		t.Errorf("without a verb: %v", res)
	}
}

// TestArchHolds runs the script of alpm's hooks with kernels that lack a required package. What comes after it does as
// mkinitcpio's script does with a kernel that does not say which package it is of.
func TestArchHolds(t *testing.T) {
	t.Parallel()
	r := withRecorders(t, "install-arch", "/usr/bin")
	k := r.Kernels()[0]
	pkgbase := "/usr/lib/modules/" + k + "/pkgbase"
	transaction := func(verb, held string) (out, boot string) {
		t.Helper()
		r.Write("/tmp/held", held, 0o644)
		r.Write("/tmp/status", "2", 0o644)
		out = r.Sh("echo usr/lib/modules/" + k + "/modules.order | /usr/share/libalpm/scripts/dkms " + verb + " || [ $? -eq 2 ]")
		return out, r.Sh("rm -f /boot/new; ! read -r name <" + pkgbase + " || echo $name >/boot/new; cat /boot/new || true")
	}
	r.Write(pkgbase, "linux\n", 0o644)
	for _, c := range []struct{ held, out, boot string }{
		{held: "", boot: "linux\n"},
		{held: "6.0\n" + k + "\n", out: "when that is mended, run: pacman -S linux\n"},
		{held: k + "\n", out: "when that is mended, run: pacman -S linux\n"},
		{held: k + "-lts\n", out: k + " has all required packages; to have it in /boot, run: pacman -S linux\n", boot: "linux\n"},
		{held: "", boot: "linux\n"},
		{held: k + "\n", out: "when that is mended, run: pacman -S linux\n"},
	} {
		out, boot := transaction("install", c.held)
		if boot != c.boot || !strings.HasSuffix(out, c.out) || c.out == "" && out != "" {
			t.Errorf("with %q held, %q comes into /boot: %s", c.held, boot, out)
		}
	}
	// The kernel is installed again: held again, or not.
	r.Write(pkgbase, "linux\n", 0o644)
	if _, boot := transaction("install", k+"\n"); boot != "" || r.Exists(pkgbase) {
		t.Errorf("installed again and held, %q comes into /boot", boot)
	}
	r.Write(pkgbase, "linux\n", 0o644)
	if out, boot := transaction("install", ""); boot != "linux\n" || out != "" || r.Exists(pkgbase+".held") {
		t.Errorf("installed again, %q comes into /boot: %s", boot, out)
	}
	// When the kernel goes, nothing of it stays.
	transaction("install", k+"\n")
	if transaction("remove", ""); r.Exists(pkgbase + ".held") {
		t.Error("the name of its package stays when a kernel goes")
	}
}

// TestAlpmHooks checks that the hooks are as alpm-hooks(5) requires.
func TestAlpmHooks(t *testing.T) {
	for name, want := range map[string]map[string]string{
		"70-dkms-install": {"When": "PostTransaction", "Exec": "/usr/share/libalpm/scripts/dkms install", "Operation": "Install Upgrade", "Type": "Path",
			"Target": "usr/src/*/dkms.conf usr/lib/modules/*/build/include/ usr/lib/modules/*/modules.order"},
		"71-dkms-remove": {"When": "PreTransaction", "Exec": "/usr/share/libalpm/scripts/dkms remove", "Operation": "Remove", "Type": "Path",
			"Target": "usr/src/*/dkms.conf usr/lib/modules/*/modules.order"},
		"72-dkms-settle": {"When": "PostTransaction", "Exec": "/usr/share/libalpm/scripts/dkms settle", "Operation": "Remove", "Type": "Path",
			"Target": "usr/src/*/dkms.conf"},
	} {
		text, err := os.ReadFile("../install.d/arch/" + name + ".hook")
		if err != nil {
			t.Fatal(err)
		}
		got, sections, targets := map[string]string{}, "", false
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			key, value, assigned := strings.Cut(line, " = ")
			switch {
			case line == "" || line[0] == '#':
			case line[0] == '[':
				sections += line
			case line == "NeedsTargets":
				targets = true
			case !assigned:
				t.Errorf("%s: %q is no setting", name, line)
			default:
				got[key] = strings.TrimSpace(got[key] + " " + value)
			}
		}
		delete(got, "Description")
		if diff := cmp.Diff(want, got); diff != "" || sections != "[Trigger][Action]" || !targets {
			t.Errorf("%s: sections %s, paths given: %v, %s", name, sections, targets, diff)
		}
	}
}

// TestArchCalls makes the calls of Arch's own hooks in a root that looks like Arch: for each package and kernel, without
// depmod, which the hooks run themselves at the end, once for a kernel.
func TestArchCalls(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.installTarget("install-arch")
	r.sayDistro("ID=arch\n")
	r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=false\n", 0o644)
	r.Write("/usr/local/sbin/depmod", "#!/bin/sh\necho \"$@\" >>/tmp/depmod\n", 0o755)
	before := r.Snapshot()
	var ids []string
	for _, pkg := range []string{"acpi-call-dkms", "vhba-dkms"} {
		m, v := r.Unpack(pkg)
		ids = append(ids, m+"/"+v)
	}
	modules := []string{"acpi_call", "vhba"}
	indexed := func(k, module string) bool {
		t.Helper()
		return strings.Contains(r.Read("/usr/lib/modules/"+k+"/modules.dep"), "updates/dkms/"+module+".ko.xz:")
	}

	// The hook gets the settings from bash, and the packages from dkms status.
	r.MustRun("bash", "-c", "set -e; . /etc/dkms/framework.conf")
	for _, id := range ids {
		for _, k := range r.Kernels() {
			r.MustRun("dkms", "install", "--no-depmod", id, "-k", k)
		}
	}
	for _, k := range r.Kernels() {
		for n, id := range ids {
			if got, want := r.MustRun("dkms", "status", id, "-k", k), id+", "+k+", x86_64: installed\n"; got != want {
				t.Errorf("status is %q, want %q", got, want)
			}
			if file := "/usr/lib/modules/" + k + "/updates/dkms/" + modules[n] + ".ko.xz"; !r.Exists(file) {
				t.Errorf("%s is missing", file)
			}
			if indexed(k, modules[n]) {
				t.Errorf("%s has depmod's index of %s already", k, id)
			}
		}
	}
	if r.Exists("/tmp/depmod") {
		t.Errorf("depmod ran for %q", r.Read("/tmp/depmod"))
	}
	for _, k := range r.Kernels() {
		r.MustRun("/usr/sbin/depmod", k)
		for _, module := range modules {
			if !indexed(k, module) {
				t.Errorf("%s: depmod does not find %s", k, module)
			}
		}
	}

	// First the package of a kernel is removed, and with it its builds. Then those of modules are, and with them the
	// builds for the other kernel; after the last build, a package is no longer registered.
	for i, k := range r.Kernels() {
		for _, id := range ids {
			r.MustRun("dkms", "remove", "--no-depmod", id, "-k", k)
			if got, want := r.MustRun("dkms", "status", id) != "", i < len(r.Kernels())-1; got != want {
				t.Errorf("%s: after %d kernels, registered: %v", id, i+1, got)
			}
		}
		if r.Exists("/usr/lib/modules/" + k + "/updates") {
			t.Errorf("%s still has modules", k)
		}
	}
	if r.Exists("/tmp/depmod") {
		t.Errorf("depmod ran for %q", r.Read("/tmp/depmod"))
	}
	// A package that is only added: without -k, as it has no build.
	r.MustRun("dkms", "add", ids[0])
	r.MustRun("dkms", "remove", ids[0])
	if diff := cmp.Diff(before, r.Snapshot()); diff != "" {
		t.Errorf("this is left (+) or lost (-): %s", diff)
	}
}

// TestShellScripts checks the syntax of scripts that run rarely.
func TestShellScripts(t *testing.T) {
	for _, pattern := range []string{"common.postinst", "with-grub", "dkms_autoinstaller", "debian/p*", "debian/header*", "debian/grub.cfg", "arch/dkms", "openrc/dkms", "package/*-post*", "../tools/package*"} {
		list, err := filepath.Glob(filepath.Join("../install.d", pattern))
		if err != nil || len(list) == 0 {
			t.Fatalf("%s: %q, %v", pattern, list, err)
		}
		for _, file := range list {
			commandOutput(t, "sh", "-n", file)
			if _, err := exec.LookPath("shellcheck"); err == nil {
				// They come from openrc-run: variables of the service, and functions.
				if out, err := exec.Command("shellcheck", "-s", "dash", "-e", "SC2034", file).CombinedOutput(); err != nil {
					t.Errorf("%s: %s", file, out)
				}
			}
		}
	}
}
