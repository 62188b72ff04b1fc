// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
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

// TestWeakModules checks that Debian's dkms and our program, in turn, call a distribution's script when modules are
// installed and removed, and report modules that a kernel shares.
func TestWeakModules(t *testing.T) {
	t.Parallel()
	const script = `#!/bin/sh
{
	echo "$0 $*"
	while IFS= read -r file; do test -f "$file" && echo "$file"; done | sort
	test -e /tmp/depmod && echo after depmod
} >>/tmp/log
`
	for _, tt := range []struct{ name, release, script string }{
		// RHEL calls itself like Fedora, and Debian's dkms then treats it as one.
		{"redhat", "ID=rocky\nID_LIKE=\"rhel centos fedora\"\n", "/usr/sbin/weak-modules"},
		{"suse", "ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n", "/usr/lib/module-init-tools/weak-modules2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := NewRoot(t)
			r.InstallProgram()
			r.Write("/etc/os-release", tt.release, 0o644)
			r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=false\n", 0o644)
			r.Write(tt.script, script, 0o755)
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
				return r.Read("/tmp/log")
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
			for _, want := range []string{tt.script + " --", "toy_a.ko.xz\n", "toy_b.ko.xz\n", "POST_INSTALL\n"} {
				if !strings.Contains(install, want) {
					t.Fatalf("Debian's dkms tells the script nothing of %q: %q", want, install)
				}
			}
			compare("install", install, logOf("dkms", "install", "toy/1.0", "-k", k))
			compare("uninstall", uninstall, logOf("dkms", "uninstall", "toy/1.0", "-k", k))

			r.MustRun("dkms", "install", "toy/1.0", "-k", k)
			r.Sh("cd /lib/modules; mkdir " + other + "/weak-updates; ln -s $(find $PWD/" + k + " -name 'toy_*') " + other + "/weak-updates")
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
		})
	}
}
