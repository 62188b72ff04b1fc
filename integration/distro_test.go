// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/kmod"
)

// sayDistro makes the root look like another distribution.
func (r *Root) sayDistro(release string) {
	r.t.Helper()
	r.Sh("rm /etc/os-release")
	r.Write("/etc/os-release", release, 0o644)
}

// eclassMake is the MAKE that dkms.eclass writes, from the variables of linux-mod-r1.eclass except those that name a
// kernel. The ebuild adds KCFLAGS and the target.
const eclassMake = `MAKE[0]="@MAKE@ -j2 -l9 ARCH='x86' V='1' KBUILD_VERBOSE='1' CONFIG_WERROR='' CONFIG_MODULE_SIG_ALL='' ` +
	`CONFIG_MODULE_COMPRESS_GZIP='' CONFIG_MODULE_COMPRESS_XZ='' CONFIG_MODULE_COMPRESS_ZSTD='' DEPMOD='true' STRIP='true' ` +
	`CROSS_COMPILE='' HOSTCC='gcc' HOSTCFLAGS='-O2 -pipe' HOSTLDFLAGS='-Wl,-O1 -Wl,--as-needed' CC='gcc' LD='ld' AR='ar' ` +
	`NM='nm' OBJCOPY='objcopy' OBJDUMP='objdump' READELF='readelf' KCFLAGS='-DLARRY=1 -Wno-unused' KDIR=\${kernel_source_dir} default"`

// TestGentooCalls makes the calls that dkms.eclass makes, in the order of Portage's phases, for a package whose
// dkms.conf the eclass wrote: the user's MAKEOPTS, compiler and flags are in its MAKE.
func TestGentooCalls(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.installTarget("install-gentoo")
	r.sayDistro("ID=gentoo\n")
	r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
	r.Env = append(r.Env, "ARCH=x86", "MAKEFLAGS=-s", "CFLAGS=-O9")
	k := r.Kernels()[1]
	r.Unpack("acpi-call-dkms")
	source := func(version, make, text string) {
		t.Helper()
		dir := "/usr/src/acpi_call-" + version
		r.Sh("test -e " + dir + " || cp -r /usr/src/acpi-call-1.2.2 " + dir)
		r.Sh("sed -i /dkms_test/d " + dir + "/acpi_call.c; echo 'static const char *dkms_test __attribute__((used)) = \"" + text + "\";' >>" + dir + "/acpi_call.c")
		r.Write(dir+"/dkms.conf", "PACKAGE_NAME=acpi_call\nPACKAGE_VERSION="+version+"\n"+
			strings.Replace(eclassMake, "@MAKE@", make, 1)+`
AUTOINSTALL=yes

BUILT_MODULE_NAME[0]=acpi_call
BUILT_MODULE_LOCATION[0]=./
DEST_MODULE_NAME[0]=acpi_call
DEST_MODULE_LOCATION[0]=/extra/drivers/acpi
STRIP[0]=no
`, 0o644)
	}
	dkms := func(verb, version string, args ...string) {
		t.Helper()
		r.MustRun(append([]string{"dkms", verb, "-m", "acpi_call", "-v", version}, args...)...)
	}
	postinst := func(v string) {
		t.Helper()
		dkms("add", v)
		dkms("build", v, "-k", k, "--force")
		dkms("install", v, "-k", k, "--force")
	}
	prerm := func(v string) {
		t.Helper()
		for _, verb := range []string{"uninstall", "unbuild", "remove"} {
			dkms(verb, v, "--all")
		}
	}
	module := "/usr/lib/modules/" + k + "/extra/drivers/acpi/acpi_call.ko.xz"
	installed := func(want string) {
		t.Helper()
		if got := r.MustRun("dkms", "status"); got != want {
			t.Errorf("status is %q, want %q", got, want)
		}
		if !r.Exists(module) {
			t.Errorf("%s is missing", module)
		}
	}
	text := func(want string) {
		t.Helper()
		if !strings.Contains(r.Sh("xz -dc "+module), want) {
			t.Errorf("the module is not made from the source with %q", want)
		}
	}
	log := func(v string) string {
		return r.Read("/var/lib/dkms/acpi_call/" + v + "/" + k + "/x86_64/log/make.log")
	}
	before := r.Snapshot()

	// make.conf names the key. The word make is quoted, and so stays as it is. The flags reach the compiler.
	r.gentooKey("make")
	r.gentooKey("env")
	r.gentooKey("kernel")
	r.Write("/etc/portage/make.conf", "COMMON_FLAGS=\"-O2 -pipe\"\nMODULES_SIGN_KEY=\"/etc/portage/make.key\"\nMODULES_SIGN_CERT=\"/etc/portage/make.crt\"\n", 0o644)
	source("1.2.2", "'make'", "first text")
	postinst("1.2.2")
	if text := log("1.2.2"); !strings.Contains(text, "# command: 'make' -j2 -l9 ARCH='x86'") || !strings.Contains(text, " -DLARRY=1 -Wno-unused ") ||
		strings.Contains(text, "KERNELRELEASE=") || strings.Contains(text, "-O9") {
		t.Errorf("the build was not the user's: %s", text)
	}
	installed("acpi_call/1.2.2, " + k + ", x86_64: installed\n")
	text("first text")
	r.signedWith(k, module, "make")

	// The environment overrides make.conf. This is emerge --config, after a change of the source in the same version.
	source("1.2.2", "'make'", "second text")
	r.Env = append(r.Env, "MODULES_SIGN_KEY=/etc/portage/env.key", "MODULES_SIGN_CERT=/etc/portage/env.crt")
	dkms("build", "1.2.2", "-k", k, "--force")
	dkms("install", "1.2.2", "-k", k, "--force")
	text("second text")
	r.signedWith(k, module, "env")
	r.Env = r.Env[:len(r.Env)-2]

	// The same version again, in its slot: the prerm of the old one, then the postinst of the new one. Neither the
	// environment nor make.conf names a key now: the kernel's is used, key and certificate in one file.
	r.Sh(`rm /etc/portage/make.conf
		cd /usr/lib/modules/` + k + `/build
		sed -i '/^CONFIG_MODULE_SIG_KEY=/d' .config include/config/auto.conf
		echo 'CONFIG_MODULE_SIG_KEY="certs/signing_key.pem"' | tee -a .config >>include/config/auto.conf
		mkdir -p certs && cat /etc/portage/kernel.key /etc/portage/kernel.crt >certs/signing_key.pem`)
	prerm("1.2.2")
	source("1.2.2", "make", "third text")
	postinst("1.2.2")
	if text := log("1.2.2"); !strings.Contains(text, "# command: make KERNELRELEASE="+k+" -j2 -l9 ARCH='x86'") {
		t.Errorf("the command is not what DKMS makes of it: %s", text)
	}
	installed("acpi_call/1.2.2, " + k + ", x86_64: installed\n")
	text("third text")
	r.signedWith(k, module, "kernel")
	if r.Exists("/var/lib/dkms/mok.key") {
		t.Error("a key was made, though others are named")
	}

	// An upgrade into another slot: the postinst of the new version comes before the prerm of the old one.
	source("1.3", "make", "fourth text")
	postinst("1.3")
	prerm("1.2.2")
	installed("acpi_call/1.3, " + k + ", x86_64: installed\n")
	text("fourth text")
	prerm("1.3")
	if diff := cmp.Diff(before, r.Snapshot()); diff != "" {
		t.Errorf("this is left (+) or lost (-): %s", diff)
	}
}

// gentooKey makes /etc/portage/NAME.key and NAME.crt, both PEM.
func (r *Root) gentooKey(name string) {
	r.t.Helper()
	r.Sh("mkdir -p /etc/portage && cd /etc/portage && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=" + name +
		" -keyout " + name + ".key -out " + name + ".crt 2>/dev/null")
}

// signedWith compares a module, byte for byte, with one that the kernel's own program signs with the key of that name.
func (r *Root) signedWith(k, module, name string) {
	r.t.Helper()
	r.Sh(`xz -dc ` + module + ` >/tmp/ours.ko`)
	ours := r.Read("/tmp/ours.ko")
	plain := kmod.StripSignature([]byte(ours))
	if len(plain) == len(ours) {
		r.t.Errorf("%s is not signed", module)
		return
	}
	r.Write("/tmp/theirs.ko", string(plain), 0o644)
	r.Sh("/usr/lib/modules/" + k + "/build/scripts/sign-file sha256 /etc/portage/" + name + ".key /etc/portage/" + name + ".crt /tmp/theirs.ko")
	if r.Read("/tmp/theirs.ko") != ours {
		r.t.Errorf("%s is not signed as sign-file signs with the key %q; its signer is %s", module, name, r.MustRun("modinfo", "-F", "signer", module))
	}
}

// TestRPMCalls runs the scriptlets of an RPM package as rpm does: one process runs a shell for each.
func TestRPMCalls(t *testing.T) {
	t.Parallel()
	for _, release := range []string{"ID=fedora\n", "ID=\"rhel\"\nID_LIKE=\"fedora\"\n"} {
		t.Run(strings.Fields(release)[0], func(t *testing.T) {
			r := NewRoot(t)
			r.installTarget("install-redhat")
			r.sayDistro(release)
			m, v := r.Unpack("acpi-call-dkms")
			k := r.Kernels()[1]
			r.Write("/tmp/rpm", `for script; do sh "$script"; done`, 0o755)
			script := func(name, v, text string) string {
				r.Write("/tmp/"+name, strings.NewReplacer("@M@", m, "@V@", v, "@K@", k).Replace(text), 0o755)
				return "/tmp/" + name
			}
			const post = `dkms add -m @M@ -v @V@ --rpm_safe_upgrade || :
				dkms build -m @M@ -v @V@ -k @K@ || :
				dkms install -m @M@ -v @V@ -k @K@ --force || :`
			const preun = `dkms remove -m @M@ -v @V@ --all --rpm_safe_upgrade || :`
			transaction := func(scripts ...string) {
				t.Helper()
				r.MustRun(append([]string{"sh", "/tmp/rpm"}, scripts...)...)
			}
			installed := func(v string) {
				t.Helper()
				if got, want := r.MustRun("dkms", "status"), m+"/"+v+", "+k+", x86_64: installed\n"; got != want {
					t.Errorf("status is %q, want %q", got, want)
				}
				if file := "/usr/lib/modules/" + k + "/extra/acpi_call.ko.xz"; !r.Exists(file) {
					t.Errorf("%s is missing", file)
				}
			}
			before := r.Snapshot()

			transaction(script("post", v, post))
			installed(v)
			// A new release of the same version: its modules are installed, and the old package's script does not remove them.
			r.Sh("echo 'static const char *dkms_test __attribute__((used)) = \"second release\";' >>/usr/src/" + m + "-" + v + "/acpi_call.c")
			transaction(script("post", v, post), script("preun", v, preun))
			installed(v)
			if !strings.Contains(r.Sh("xz -dc /usr/lib/modules/"+k+"/extra/acpi_call.ko.xz"), "second release") {
				t.Error("the module is still that of the first release")
			}
			r.Sh("cp -r /usr/src/" + m + "-" + v + " /usr/src/" + m + "-1.3 && sed -i 's/" + v + "/1.3/' /usr/src/" + m + "-1.3/dkms.conf")
			transaction(script("post", "1.3", post), script("preun", v, preun))
			r.Sh("rm -r /usr/src/" + m + "-" + v)
			installed("1.3")
			transaction(script("preun", "1.3", preun))
			left := r.Snapshot()
			withoutKey(left)
			if diff := cmp.Diff(before, left); diff != "" {
				t.Errorf("this is left (+) or lost (-): %s", diff)
			}
		})
	}
}

func withoutKey(snap map[string]Entry) {
	delete(snap, "/var/lib/dkms/mok.key")
	delete(snap, "/var/lib/dkms/mok.pub")
}
