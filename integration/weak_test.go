// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mendPeer mends the faults for which Debian's dkms 3.2.2 never reports modules that a kernel shares: it does so only
// if they are switched off, takes the pattern for any name for a name, looks for whole paths among names, and wants
// Module.symvers to be shared too. Then it reports them as earlier versions did.
const mendPeer = `sed -e '/^module_status_weak()/,/^}/{
	s/\[\[ \$NO_WEAK_MODULES \]\] || return 1/[[ ! $NO_WEAK_MODULES ]] || return 1/
	s/"\(\${[1-5]:-\*}\)"/\1/g
	s/\*"\$installed_ko"\*/*"${installed_ko##*\/}"*/
	s/-type f)/-name "*.ko*" -type f)/
}' /opt/peer/dkms >/opt/peer/mended
chmod 755 /opt/peer/mended
test "$(diff /opt/peer/dkms /opt/peer/mended | grep -c '^>')" = 4`

// weakScript begins what stands in for a distribution's script: it logs its call and the modules that it reads.
const weakScript = `#!/bin/sh
files=$(sort)
{
	echo "$0 $*"
	echo "$files"
	test -e /tmp/depmod && echo after depmod
} >>/tmp/log
`

// weakModules does with links what weak-modules of Red Hat's systems does where all kernels are compatible.
const weakModules = weakScript + `
cd /lib/modules
for file in $files; do
	for k in *; do
		link=$k/weak-updates/${file#/lib/modules/*/*/}
		case "$file $*" in
		/lib/modules/$k/*) continue ;;
		*--add-modules)
			test -z "$(find $k/extra $k/updates -name "${file##*/}" 2>/dev/null)" || continue
			mkdir -p "${link%/*}"
			ln -sf "$file" "$link"
			;;
		*--remove-modules)
			test "$(readlink "$link")" = "$file" && ! test -e "$link" || continue
			rm "$link"
			;;
		esac
		depmod "$k"
	done
done
`

// weakModules2 does what weak-modules2 of SUSE's systems does: it links modules of RPM packages alone, and none of ours.
const weakModules2 = weakScript + `
for k; do :; done
depmod "$k"
`

// TestWeakModules checks that Debian's dkms and our program, in turn, tell a distribution's script the same of modules
// that are installed and removed, and report modules that a kernel shares.
func TestWeakModules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, release, path, script string }{
		// RHEL calls itself like Fedora, and Debian's dkms then treats it as one.
		{"redhat", "ID=rocky\nID_LIKE=\"rhel centos fedora\"\n", "/usr/sbin/weak-modules", weakModules},
		{"suse", "ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n", "/usr/lib/module-init-tools/weak-modules2", weakModules2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := NewRoot(t)
			r.InstallProgram()
			r.Write("/etc/os-release", tt.release, 0o644)
			r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=false\n", 0o644)
			r.Write(tt.path, tt.script, 0o755)
			r.Write("/usr/local/sbin/depmod", "#!/bin/sh\ntouch /tmp/depmod\n", 0o755)
			r.Write("/usr/src/toy-1.0/dkms.conf", `PACKAGE_NAME=toy
PACKAGE_VERSION=1.0
BUILT_MODULE_NAME[0]=toy_b
BUILT_MODULE_NAME[1]=toy_a
DEST_MODULE_LOCATION[0]=/kernel/x
DEST_MODULE_LOCATION[1]=/kernel/x
POST_INSTALL=post
AUTOINSTALL=yes
`, 0o644)
			r.Write("/usr/src/toy-1.0/post", "#!/bin/sh\necho POST_INSTALL >>/tmp/log\n", 0o755)
			r.Write("/usr/src/toy-1.0/Makefile", "obj-m := toy_a.o toy_b.o\n", 0o644)
			for _, file := range []string{"toy_a", "toy_b"} {
				r.Write("/usr/src/toy-1.0/"+file+".c", "#include <linux/module.h>\nMODULE_LICENSE(\"GPL\");\n", 0o644)
			}
			k, other := r.Kernels()[0], r.Kernels()[1]
			logOf := func(dkms string, args ...string) string {
				t.Helper()
				r.Sh("rm -f /tmp/log /tmp/depmod; touch /tmp/log")
				r.MustRun(append([]string{dkms}, args...)...)
				// Ours calls the script once for all packages, after POST_INSTALL.
				lines := strings.SplitAfter(r.Read("/tmp/log"), "\n")
				slices.Sort(lines)
				return strings.Join(lines, "")
			}
			theirs := func(args ...string) string {
				t.Helper()
				// It prints the variable in single quotes, and means the kernel.
				return strings.ReplaceAll(logOf("/opt/peer/dkms", args...), "${kernelver}", k)
			}
			compare := func(what, want, got string) {
				t.Helper()
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: ours (+) differs from Debian's dkms (-): %s", what, diff)
				}
			}

			r.Peer("add", "toy/1.0")
			r.Sh(mendPeer)
			install, uninstall := theirs("install", "toy/1.0", "-k", k), theirs("uninstall", "toy/1.0", "-k", k)
			for _, want := range []string{tt.path + " --", "toy_a.ko.xz\n", "toy_b.ko.xz\n", "POST_INSTALL\n"} {
				if !strings.Contains(install, want) {
					t.Fatalf("Debian's dkms tells the script nothing of %q: %q", want, install)
				}
			}
			compare("install", install, logOf("dkms", "install", "toy/1.0", "-k", k))
			compare("uninstall", uninstall, logOf("dkms", "uninstall", "toy/1.0", "-k", k))

			r.MustRun("dkms", "install", "toy/1.0", "-k", k)
			weak := "/lib/modules/" + other + "/weak-updates"
			if tt.name == "suse" {
				r.Sh("mkdir " + weak + "; ln -s $(find /lib/modules/" + k + " -name 'toy_*') " + weak)
			}
			for _, args := range [][]string{{"status"}, {"status", "toy"}, {"status", "-k", other}, {"status", "toy/1.0", "-k", k}} {
				compare(strings.Join(args, " "), r.MustRun(append([]string{"/opt/peer/mended"}, args...)...), r.MustRun(append([]string{"dkms"}, args...)...))
			}
			want := "toy, 1.0, " + other + ", x86_64: installed-weak from " + k + "\n"
			if got := r.MustRun("dkms", "status", "toy/1.0", "-k", other); got != "toy/1.0: added\n"+want {
				t.Errorf("status: %q", got)
			}
			// Neither of them installs it.
			r.MustRun("/opt/peer/mended", "autoinstall", "-k", other)
			r.MustRun("dkms", "autoinstall", "-k", other)
			if r.Exists("/var/lib/dkms/toy/kernel-" + other + "-x86_64") {
				t.Error("it was installed though the kernel shares it")
			}
			if r.MustRun("dkms", "uninstall", "toy/1.0", "-k", k); tt.name == "redhat" {
				if left := r.Sh("find " + weak + " -type l"); left != "" {
					t.Errorf("links that lead nowhere: %s", left)
				}
			}
			// A kernel that goes takes no module with it.
			r.MustRun("dkms", "install", "toy/1.0", "-k", k)
			if tt.name == "suse" {
				r.Sh("ln -sf $(find /lib/modules/" + k + " -name 'toy_*') " + weak)
			}
			r.MustRun("/usr/lib/kernel/install.d/40-dkms.install", "remove", k, "/nowhere")
			want = "toy/1.0, " + other + ", x86_64: installed\n"
			if got := r.MustRun("dkms", "status"); got != want {
				t.Errorf("status is %q after kernel %s went, want %q", got, k, want)
			}
		})
	}
}
