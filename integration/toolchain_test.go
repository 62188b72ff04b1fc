// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"os"
	"strings"
	"testing"
)

// TestToolchain builds packages in a root that has neither a compiler nor headers: apt brings them for the time of the
// run, and nothing is installed.
func TestToolchain(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.InstallProgram()
	var ids [][2]string
	packages := []string{"acpi-call-dkms"}
	if os.Getenv("DKMS_TEST_ALL") != "" {
		packages = append(packages, "ddcci-dkms", "evdi-dkms", "jool-dkms", "lime-forensics-dkms", "v4l2loopback-dkms", "vhba-dkms", "xtables-addons-dkms")
	}
	for _, pkg := range packages {
		m, v := r.Unpack(pkg)
		ids = append(ids, [2]string{m, v})
	}
	r.UseRepository()
	r.Apt("purge", "gcc", "cpp", "make", "patch", "binutils", "linux-headers-*", "linux-kbuild-*")
	if out := r.Run("sh", "-c", "command -v make gcc gcc-14 ld; ls -d /usr/src/linux-*"); out.Stdout != "" {
		t.Fatalf("the root has %v", out)
	}
	const list = "dpkg -l | sort; ls -A /usr/src /tmp /var/tmp"
	before := r.Sh(list)

	m, v := ids[0][0], ids[0][1]
	if res := r.Run("dkms", "install", m+"/"+v, "-k", r.Kernels()[0]); res.Status == 0 || !strings.Contains(res.Stderr+res.Stdout, "headers") {
		t.Errorf("without build_toolchain: %v", res)
	}
	r.Write("/etc/dkms/framework.conf.d/toolchain.conf", "build_toolchain=packages\n", 0o644)
	for _, id := range ids {
		if out := r.MustRun("dkms-kernel-install", "postinst", id[0], id[1]); !strings.Contains(out, "installed") {
			t.Errorf("postinst %s: %s", id, out)
		}
	}
	kernels := r.Kernels()
	if modules := r.Glob("/usr/lib/modules/" + kernels[0] + "/updates/dkms/*"); len(modules) < 2*len(packages)-1 {
		t.Errorf("for %s there are %q", kernels[0], modules)
	}
	k := kernels[0]
	r.MustRun("dkms-kernel-install", "remove", k)
	if out := r.MustRun("/usr/lib/kernel/install.d/40-dkms.install", "add", k, "entry", "image"); !strings.Contains(out, m+"/"+v+" for "+k+": from the cache") {
		t.Errorf("the plugin: %s", out)
	}
	if out := r.MustRun("dkms-kernel-install", "sync"); strings.Contains(out, "for the time") || strings.Contains(out, "installed") {
		t.Errorf("with nothing to do: %s", out)
	}
	if after := r.Sh(list); after != before {
		t.Errorf("the root had\n%s\nand has\n%s", before, after)
	}

	// What cannot be had is said, and the next run tries again.
	r.Write("/etc/apt/sources.list", "", 0o644)
	r.MustRun("apt-get", "update")
	r.MustRun("dkms", "unbuild", m+"/"+v, "--all")
	r.MustRun("rm", "-r", "/var/cache/dkms-kernel-install")
	if res := r.Run("dkms", "install", m+"/"+v, "-k", k); res.Status == 0 || !strings.Contains(res.Stderr, "cannot get a compiler") {
		t.Errorf("without a repository: %v", res)
	}
}
