// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// initCase is a package whose dkms.conf init makes again.
type initCase struct {
	args []string // for init
}

// initQuick are packages that build in seconds, initAll the others that init can do.
var (
	initQuick = map[string]initCase{
		"acpi-call-dkms":         {},
		"ddcci-dkms":             {args: []string{"--make-arg", `NOTE=it's  "$5"`}}, // two directories, and the second needs symbols of the first
		"dkms-test-dkms":         {},
		"librem-ec-acpi-dkms":    {args: []string{"--module", "librem_ec_acpi=/updates:::all", "--make-arg", "KERNEL_DIR=${kernel_source_dir}"}},
		"v4l2loopback-dkms":      {args: []string{"--module", "v4l2loopback=:::v4l2loopback", "--make-arg", "KERNEL_DIR=${KV_OUT_DIR}"}},
		"vhba-dkms":              {},
		"dkms-replace-test-dkms": {},
	}
	initAll = map[string]initCase{
		"apfs-dkms":                    {args: []string{"--module", "apfs=:::default", "--make-arg", "KERNEL_DIR=${kernel_source_dir}"}}, // its Makefile makes a header first
		"bbswitch-dkms":                {},
		"broadcom-sta-dkms":            {},
		"digimend-dkms":                {},
		"dkms-noautoinstall-test-dkms": {},
		"dm-writeboost-dkms":           {},
		"dpdk-kmods-dkms":              {},
		"evdi-dkms":                    {args: []string{"--make-arg", "DKMS_BUILD=1"}},
		"falcosecurity-scap-dkms":      {},
		"gost-crypto-dkms":             {},
		"jool-dkms":                    {},
		"langford-dkms":                {},
		"lime-forensics-dkms":          {},
		"leds-alix-dkms":               {},
		"lenovolegionlinux-dkms":       {},
		"mimic-dkms":                   {args: []string{"--make-arg", "CHECKSUM_HACK=kfunc"}},
		"mstflint-dkms":                {},
		"openrazer-driver-dkms":        {},
		"openvpn-dco-dkms":             {args: []string{"--module", "ovpn-dco-v2=/updates::drivers/net/ovpn-dco:all", "--make-arg", "KERNEL_SRC=${kernel_source_dir}"}},
		"r8125-dkms":                   {},
		"r8168-dkms":                   {},
		"rapiddisk-dkms":               {},
		"reform2-lpc-dkms":             {},
		"rtpengine-kernel-dkms":        {args: []string{"--make-arg", "RTPENGINE_VERSION=1"}},
		"sl-modem-dkms": {args: []string{"--module", "slusb=/kernel/drivers/misc:drivers", "--module", "ungrab-winmodem=/kernel/drivers/misc:ungrab-winmodem",
			"--make-arg", "KERNEL_DIR=${kernel_source_dir}", "--make-arg", "KERNEL_VER=${kernelver}", "--make-arg", "USB=1"}},
		"smifb2-dkms":         {},
		"tp-smapi-dkms":       {args: []string{"--make-arg", "HDAPS=1"}},
		"vpoll-dkms":          {},
		"west-chamber-dkms":   {args: []string{"--make-arg", "XA_ABSTOPSRCDIR=$PWD"}},
		"xtables-addons-dkms": {args: []string{"--make-arg", "XA_ABSTOPSRCDIR=${PWD}"}},
		"xtrx-dkms":           {},
	}
)

// initCannot are the packages that init cannot do, or that cannot show it here, and why.
var initCannot = map[string]string{
	"dahdi-dkms":                   "its Makefile decides by the kernel's configuration which of some forty modules it makes; each would need a --module",
	"ezurio-qcacld-2.0-dkms":       "it needs a dozen settings that only its dkms.conf has, and which modules there are depends on them",
	"iptables-netflow-dkms":        "its configure script makes the Makefile",
	"lttng-modules-dkms":           "it depends on the kernel's version and configuration which of its probes there are; init says which those are",
	"nvidia-fs-dkms":               "it needs another package, by BUILD_DEPENDS",
	"nvidia-kernel-dkms":           "its obj-m comes out of $(eval …), and its modules are installed by other names than they are built",
	"nvidia-open-kernel-dkms":      "its obj-m comes out of $(eval …), and its modules are installed by other names than they are built",
	"nvidia-tesla-535-kernel-dkms": "its obj-m comes out of $(eval …), and its modules are installed by other names than they are built",
	"openafs-modules-dkms":         "its configure script makes the Makefiles",
	"osmocom-dahdi-dkms":           "its Makefile decides by the kernel's configuration which of some forty modules it makes; each would need a --module",
	"zfs-dkms":                     "its configure script makes the Makefiles",
}

// TestInit removes the dkms.conf of real packages, has init write another one, builds by that, and expects the modules
// that the packaged one names.
func TestInit(t *testing.T) {
	t.Parallel()
	root, cases := NewRoot, maps.Clone(initQuick)
	packages := slices.Sorted(maps.Keys(cases))
	if os.Getenv("DKMS_TEST_ALL") != "" {
		root = NewFullRoot
		packages = root(t).Packages()
		maps.Copy(cases, initAll)
	}
	for _, pkg := range packages {
		c, ok := cases[pkg]
		if !ok && initCannot[pkg] == "" {
			t.Errorf("%s: nobody has looked yet whether init can do it", pkg)
			continue
		}
		t.Run(pkg, func(t *testing.T) {
			if !ok {
				t.Skip(initCannot[pkg])
			}
			r := root(t)
			r.InstallProgram()
			m, v := r.Unpack(pkg)
			id, dir := m+"/"+v, "/usr/src/"+m+"-"+v
			k := r.Kernels()[0]
			packaged := r.Read(dir + "/dkms.conf")
			want := strings.Fields(r.Sh(`cd ` + dir + ` && kernelver=` + k + ` kernel_source_dir=/usr/lib/modules/` + k + `/build bash -c '
				. ./dkms.conf >/dev/null 2>&1; echo "${BUILT_MODULE_NAME[@]:-$PACKAGE_NAME}"'`))
			slices.Sort(want)

			r.MustRun("rm", dir+"/dkms.conf")
			res := r.Run(append([]string{"dkms-kernel-install", "init", dir, "--name", m}, c.args...)...)
			if res.Status != 0 {
				t.Fatalf("init: %v", res)
			}
			t.Logf("%s%s%s", res.Stdout, res.Stderr, r.Read(dir+"/dkms.conf"))
			r.MustRun("dkms", "add", id)
			if res := r.Run("dkms", "build", id, "-k", k); res.Status != 0 {
				log := tail(res.Stdout + res.Stderr)
				_, quick := initQuick[pkg] // which build by their own, or something is wrong
				r.Run("dkms", "remove", id, "--all")
				r.Write(dir+"/dkms.conf", packaged, 0o644)
				r.MustRun("dkms", "add", id)
				if res := r.Run("dkms", "build", id, "-k", k); res.Status != 0 && !quick {
					t.Skipf("it does not build by its own dkms.conf, either: %s", tail(res.Stdout+res.Stderr))
				}
				t.Fatalf("build: %s", log)
			}
			if diff := cmp.Diff(want, built(r, id, k)); diff != "" {
				t.Errorf("modules (-packaged +init): %s", diff)
			}
			// Debian's dkms reads it the same way.
			if pkg != "ddcci-dkms" {
				return
			}
			r.MustRun("dkms", "unbuild", id, "--all")
			if res := r.Peer("build", id, "-k", k); res.Status != 0 {
				t.Fatalf("Debian's dkms: %v", res)
			}
			if diff := cmp.Diff(want, built(r, id, k)); diff != "" {
				t.Errorf("modules by Debian's dkms (-want +got): %s", diff)
			}
		})
	}
}

// built lists the built modules of a package.
func built(r *Root, id, k string) []string {
	var names []string
	for _, file := range r.Glob("/var/lib/dkms/" + id + "/" + k + "/*/module/*.ko*") {
		name, _, _ := strings.Cut(path.Base(file), ".ko")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
