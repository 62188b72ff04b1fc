package integration

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sayDistro makes the root say that it is another distribution.
func (r *Root) sayDistro(release string) {
	r.t.Helper()
	r.Sh("rm /etc/os-release")
	r.Write("/etc/os-release", release, 0o644)
}

// TestGentooCalls makes the calls that dkms.eclass makes, in the order of Portage's phases, for a package whose
// dkms.conf the eclass wrote: the user's MAKEOPTS, compiler and flags are in its MAKE.
func TestGentooCalls(t *testing.T) {
	r := NewRoot(t)
	r.installTarget("install-gentoo")
	r.sayDistro("ID=gentoo\n")
	r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
	r.Env = append(r.Env, "ARCH=x86", "MAKEFLAGS=-s", "CFLAGS=-O9")
	r.Sh(`mkdir -p /etc/portage
		openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=Larry -keyout /etc/portage/key.pem -out /etc/portage/cert.pem 2>/dev/null
		printf 'COMMON_FLAGS="-O2 -pipe"\nMODULES_SIGN_KEY="/etc/portage/key.pem"\nMODULES_SIGN_CERT="/etc/portage/cert.pem"\n' >/etc/portage/make.conf`)
	r.Unpack("acpi-call-dkms")
	r.Sh("mv /usr/src/acpi-call-1.2.2 /usr/src/acpi_call-1.2.2")
	conf := func(make, version string) string {
		return strings.NewReplacer("@MAKE@", make, "@VERSION@", version).Replace(`PACKAGE_NAME=acpi_call
PACKAGE_VERSION=@VERSION@
MAKE[0]="@MAKE@ -j2 V=1 CC='gcc' KCFLAGS='-DLARRY=1 -Wno-unused' KDIR=\${kernel_source_dir} default"
AUTOINSTALL=yes

BUILT_MODULE_NAME[0]=acpi_call
BUILT_MODULE_LOCATION[0]=./
DEST_MODULE_NAME[0]=acpi_call
DEST_MODULE_LOCATION[0]=/extra/drivers/acpi
STRIP[0]=no
`)
	}
	k := r.Kernels()[1]
	postinst := func(v string) {
		t.Helper()
		mv := []string{"-m", "acpi_call", "-v", v}
		r.MustRun(append([]string{"dkms", "add"}, mv...)...)
		r.MustRun(append([]string{"dkms", "build"}, append(mv, "-k", k, "--force")...)...)
		r.MustRun(append([]string{"dkms", "install"}, append(mv, "-k", k, "--force")...)...)
	}
	prerm := func(v string) {
		t.Helper()
		for _, verb := range []string{"uninstall", "unbuild", "remove"} {
			r.MustRun("dkms", verb, "-m", "acpi_call", "-v", v, "--all")
		}
	}
	module := "/usr/lib/modules/" + k + "/extra/drivers/acpi/acpi_call.ko.xz"
	before := r.Snapshot()

	r.Write("/usr/src/acpi_call-1.2.2/dkms.conf", conf("'make'", "1.2.2"), 0o644)
	postinst("1.2.2")
	log := func(v string) string {
		return r.Read("/var/lib/dkms/acpi_call/" + v + "/" + k + "/x86_64/log/make.log")
	}
	// Quoted, make stays as it is; unquoted, it gets what DKMS adds; the flags reach the compiler either way.
	if text := log("1.2.2"); !strings.Contains(text, "# command: 'make' -j2 V=1 CC='gcc'") || !strings.Contains(text, " -DLARRY=1 -Wno-unused ") ||
		strings.Contains(text, "KERNELRELEASE=") || strings.Contains(text, "-O9") {
		t.Errorf("the build was not the user's: %s", text)
	}
	if signer := r.MustRun("modinfo", "-F", "signer", module); strings.TrimSpace(signer) != "Larry" {
		t.Errorf("the module is signed by %q", signer)
	}
	if r.Exists("/var/lib/dkms/mok.key") {
		t.Error("a key was made, though make.conf names one")
	}

	// emerge --config, and the same version again: --force builds although nothing changed.
	r.MustRun("dkms", "build", "-m", "acpi_call", "-v", "1.2.2", "-k", k, "--force")
	r.MustRun("dkms", "install", "-m", "acpi_call", "-v", "1.2.2", "-k", k, "--force")

	// An upgrade: the new version's postinst comes before the old one's prerm.
	r.Sh("cp -r /usr/src/acpi_call-1.2.2 /usr/src/acpi_call-1.3")
	r.Write("/usr/src/acpi_call-1.3/dkms.conf", conf("make", "1.3"), 0o644)
	postinst("1.3")
	if text := log("1.3"); !strings.Contains(text, "# command: make -j") || !strings.Contains(text, " KERNELRELEASE="+k+" -j2 V=1 CC='gcc'") {
		t.Errorf("the command is not what DKMS makes of it: %s", text)
	}
	prerm("1.2.2")
	if got, want := r.MustRun("dkms", "status"), "acpi_call/1.3, "+k+", x86_64: installed\n"; got != want {
		t.Errorf("after the upgrade: %q, want %q", got, want)
	}
	prerm("1.3")
	if diff := cmp.Diff(before, r.Snapshot()); diff != "" {
		t.Errorf("this is left (+) or lost (-): %s", diff)
	}
}

// TestRPMCalls runs the scriptlets of an RPM package as rpm does: one process runs a shell for each.
func TestRPMCalls(t *testing.T) {
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
			// A new release of the same version: the old package's script must not undo it.
			transaction(script("post", v, post), script("preun", v, preun))
			installed(v)
			r.Sh("cp -r /usr/src/" + m + "-" + v + " /usr/src/" + m + "-1.3 && sed -i 's/" + v + "/1.3/' /usr/src/" + m + "-1.3/dkms.conf")
			transaction(script("post", "1.3", post), script("preun", v, preun))
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
