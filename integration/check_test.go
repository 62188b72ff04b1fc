// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"os"
	"strings"
	"testing"
)

// TestCheck builds packages against the headers of a kernel that is still in packages. When it is installed, what was
// built comes from the cache.
func TestCheck(t *testing.T) {
	t.Parallel()
	packages := []string{"acpi-call-dkms", "vhba-dkms"}
	if os.Getenv("DKMS_TEST_ALL") != "" {
		packages = append(packages, "bbswitch-dkms", "jool-dkms", "lime-forensics-dkms", "openvpn-dco-dkms", "r8168-dkms", "xtables-addons-dkms")
	}
	r := NewRoot(t)
	r.UseRepository()
	var k string
	for _, release := range r.Kernels() {
		if strings.Contains(release, "cloud") {
			k = release
		}
	}
	r.Apt("purge", "linux-image-"+k, "linux-headers-"+k, "linux-image-cloud-amd64", "linux-headers-cloud-amd64")
	r.MustRun("rm", "-rf", "/usr/lib/modules/"+k)
	r.InstallDeb()
	r.Apt(append([]string{"install"}, packages...)...)
	before := r.Snapshot()
	check := r.MustRun("dkms-kernel-install", "check", "--headers=/opt/repo/linux-headers-"+k+".deb")
	if strings.Count(check, " for "+k+": built") != len(packages) {
		t.Errorf("check: %s", check)
	}
	if len(r.Snapshot()) != len(before) || r.Exists("/usr/src/linux-headers-"+k) {
		t.Error("check has left something")
	}
	if out := r.Apt("install", "linux-image-"+k, "linux-headers-"+k); strings.Count(out, " for "+k+": from the cache") != len(packages) {
		t.Errorf("the kernel is installed: %s", out)
		t.Log(check)
	}
	// A finished module fits the kernel that it was built for.
	for _, k := range r.Kernels() {
		module := "/usr/lib/modules/" + k + "/updates/dkms/acpi_call.ko.xz"
		if out := r.MustRun("dkms-kernel-install", "check", "--symbols", module, "--headers=/lib/modules/"+k); !strings.Contains(out, ": fits: all ") {
			t.Errorf("check --symbols: %s", out)
		}
	}
}
