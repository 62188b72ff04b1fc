// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSync changes what builds are made from, one thing after the other. Each time sync makes the builds that depend on
// it, and no others, runs depmod once for each kernel concerned, and renews only the initramfs that has a module.
func TestSync(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.InstallProgram()
	kernels := r.Kernels()
	generic, cloud := kernels[0], kernels[1]
	counted := func(program, real string) {
		r.Write("/usr/local/sbin/"+program, "#!/bin/sh\necho \"$*\" >>/tmp/"+program+".log\n"+real+"\n", 0o755)
	}
	// Small images are made in seconds.
	r.Write("/etc/dracut.conf.d/test.conf", "hostonly=no\ncompress=cat\ndracutmodules=\" base \"\n", 0o644)
	r.Unpack("acpi-call-dkms")
	r.Unpack("bbswitch-dkms")
	r.Write("/etc/dkms/bbswitch.conf", "BUILD_DEPENDS=acpi-call\n", 0o644)
	r.MustRun("dkms", "add", "acpi-call/1.2.2")
	r.MustRun("dkms", "add", "bbswitch/0.8")

	built := regexp.MustCompile(`(?m)^(\S+) for (\S+): built, .*installed`)
	// sync runs a command and expects these builds, these kernels for depmod, and these for dracut.
	sync := func(status int, builds, depmod, dracut []string, command ...string) string {
		t.Helper()
		r.Write("/tmp/depmod.log", "", 0o644)
		r.Write("/tmp/dracut.log", "", 0o644)
		res := r.Run(append([]string{"dkms-kernel-install"}, command...)...)
		if res.Status != status {
			t.Fatalf("%q: %v, want status %d", command, res, status)
		}
		var got []string
		for _, m := range built.FindAllStringSubmatch(res.Stdout, -1) {
			got = append(got, m[1]+" for "+m[2])
		}
		slices.Sort(got)
		var want []string
		for _, b := range builds {
			for _, k := range depmod {
				want = append(want, b+" for "+k)
			}
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q built %q, want %q: %v", command, got, want, res)
		}
		for program, want := range map[string][]string{"depmod": depmod, "dracut": dracut} {
			// dracut also runs depmod on its own directories.
			ran := slices.DeleteFunc(strings.Split(strings.TrimSpace(r.Read("/tmp/"+program+".log")), "\n"), func(line string) bool {
				return line == "" || strings.Contains(line, "/initramfs")
			})
			if len(ran) != len(want) {
				t.Errorf("%q ran %s as %q, want it for %q", command, program, ran, want)
				continue
			}
			for _, k := range want { // in any order: kernels are worked on at the same time
				if !slices.ContainsFunc(ran, func(line string) bool { return strings.Contains(line, k) }) {
					t.Errorf("%q ran %s as %q, want it for %q", command, program, ran, want)
				}
			}
		}
		return res.Stdout
	}
	carried := func() { t.Helper(); carries(r, cloud, "/boot/initrd.img-"+cloud) }
	other := ""
	// renewed is carried, but the module must not have been in the image before.
	renewed := func() {
		t.Helper()
		carried()
		was := other
		if other = r.Sh("sha256sum /tmp/image/" + acpiCall(cloud)); other == was {
			t.Errorf("the module in the image is still the old one: %s", was)
		}
	}
	counted("depmod", `exec /usr/sbin/depmod "$@"`)
	// One kernel's initramfs carries a module, the other's does not.
	counted("dracut", `case $* in *cloud*) set -- --add-drivers acpi_call "$@" ;; esac
exec /usr/bin/dracut "$@"`)
	both := []string{"acpi-call/1.2.2", "bbswitch/0.8"}
	sync(0, both, kernels, nil, "sync")
	r.MustRun("dracut", "--force", "--kver", cloud, "/boot/initrd.img-"+cloud)
	r.MustRun("dracut", "--force", "--kver", generic, "/boot/initrd.img-"+generic)
	renewed()
	sync(0, nil, nil, nil, "sync")

	t.Log("a package is upgraded, another depends on it")
	r.Sh(`cp -r /usr/src/acpi-call-1.2.2 /usr/src/acpi-call-1.3 && cd /usr/src/acpi-call-1.3 &&
		sed -i 's/1\.2\.2/1.3/' dkms.conf && echo 'int acpi_call_new;' >>acpi_call.c`)
	r.MustRun("dkms", "add", "acpi-call/1.3")
	r.MustRun("dkms-kernel-install", "sync", "--dry-run")
	both[0] = "acpi-call/1.3"
	sync(0, both, kernels, []string{cloud}, "sync")
	renewed()

	t.Log("other headers under the same release")
	headers := "/usr/lib/modules/" + cloud + "/build"
	r.Sh(`cd ` + headers + ` && { cat Module.symvers; printf '0x00000001\tnew_symbol\tvmlinux\tEXPORT_SYMBOL\t\n'; } >new && mv new Module.symvers`)
	sync(0, both, []string{cloud}, []string{cloud}, "sync")
	carried()

	t.Log("another compiler")
	cc := strings.TrimSpace(r.Sh(`sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ ]*\) .*/\1/p' ` + headers + `/.config`))
	r.Write("/usr/local/bin/"+cc, "#!/bin/sh\ncase $1 in --version) echo '"+cc+" (Test) 99.1' ;; *) exec /usr/bin/"+cc+" \"$@\" ;; esac\n", 0o755)
	sync(0, both, kernels, []string{cloud}, "sync")
	carried()

	t.Log("a build fails, and is mended")
	modules := func() string { return r.Sh("sha256sum /usr/lib/modules/*/updates/dkms/*") }
	before := modules()
	r.Sh("cp /usr/src/bbswitch-0.8/bbswitch.c /tmp && echo '#error broken' >>/usr/src/bbswitch-0.8/bbswitch.c")
	if out := sync(2, nil, nil, nil, "sync"); strings.Count(out, "#error broken") != 2 {
		t.Errorf("the reason is not told: %s", out)
	}
	if modules() != before {
		t.Error("a failed build changed what is installed")
	}
	r.Sh("{ cat /tmp/bbswitch.c; echo 'int bbswitch_mended;'; } >/usr/src/bbswitch-0.8/bbswitch.c")
	sync(0, both[1:], kernels, nil, "sync")

	t.Log("a package manager brings a new version, and both kernels carry it")
	r.MustRun("dracut", "--force", "--add-drivers", "acpi_call", "--kver", generic, "/boot/initrd.img-"+generic)
	r.Write("/etc/dracut.conf.d/drivers.conf", `add_drivers+=" acpi_call "`, 0o644)
	r.Sh(`cp -r /usr/src/acpi-call-1.3 /usr/src/acpi-call-1.4 && cd /usr/src/acpi-call-1.4 &&
		sed -i 's/1\.3/1.4/' dkms.conf && echo 'int acpi_call_newer;' >>acpi_call.c`)
	r.Write("/etc/dkms/framework.conf.d/all.conf", "autoinstall_all_kernels=yes\n", 0o644)
	both[0] = "acpi-call/1.4"
	sync(0, both, kernels, kernels, "postinst", "acpi-call", "1.4", "", "", "1.3")
	renewed()
	carries(r, generic, "/boot/initrd.img-"+generic)

	if out := sync(0, nil, nil, nil, "sync", "--dry-run"); out != "" {
		t.Errorf("there is still something to do: %s", out)
	}
	sync(0, nil, nil, nil, "sync")
}

// acpiCall returns the path of the module for a kernel, without a slash at the beginning.
func acpiCall(k string) string { return "usr/lib/modules/" + k + "/updates/dkms/acpi_call.ko.xz" }

// carries unpacks the image to /tmp/image and checks that it holds the installed module.
func carries(r *Root, k, image string) {
	r.t.Helper()
	r.Sh("rm -rf /tmp/image && mkdir /tmp/image && cd /tmp/image && lsinitrd --unpack " + image + " && cmp " + acpiCall(k) + " /" + acpiCall(k))
}

// TestSyncByKernelInstall lets kernel-install make the initramfs: it calls our plugin on the way, which finds nothing to
// do, and runs depmod. If sync is killed, the next one does what is left.
func TestSyncByKernelInstall(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.InstallProgram()
	k := r.Kernels()[1]
	image := "/boot/debian/" + k + "/initrd"
	r.Write("/etc/dracut.conf.d/test.conf", "hostonly=no\ncompress=cat\ndracutmodules=\" base \"\nadd_drivers+=\" acpi_call \"\n", 0o644)
	r.Unpack("acpi-call-dkms")
	r.MustRun("dkms", "add", "acpi-call/1.2.2")
	r.MustRun("kernel-install", "add", k, "/usr/lib/modules/"+k+"/vmlinuz")
	carries(r, k, image)
	for _, program := range []string{"depmod", "dracut", "kernel-install"} {
		real := strings.TrimSpace(r.Sh("command -v " + program))
		r.Write("/usr/local/sbin/"+program, "#!/bin/sh\necho \"$*\" >>/tmp/"+program+".log\nexec "+real+" \"$@\"\n", 0o755)
	}
	// Our plugin is called between these two.
	for _, name := range []string{"39-before", "41-after"} {
		r.Write("/etc/kernel/install.d/"+name+".install", "#!/bin/sh\nls -id /var/lib/dkms/acpi-call/1.2.2/"+k+"/*/module /"+acpiCall(k)+" >/tmp/"+name+"\n", 0o755)
	}
	change := func(name string) {
		r.Sh("rm -f /tmp/*.log && touch /tmp/depmod.log /tmp/dracut.log /tmp/kernel-install.log && echo 'int " + name + ";' >>/usr/src/acpi-call-1.2.2/acpi_call.c")
	}
	ran := func(program string, want int) {
		t.Helper()
		n := 0
		for line := range strings.Lines(r.Read("/tmp/" + program + ".log")) {
			if !strings.Contains(line, "/initramfs") { // dracut's own
				n++
			}
		}
		if n != want {
			t.Errorf("%s ran %d times, want %d: %s", program, n, want, r.Read("/tmp/"+program+".log"))
		}
	}

	change("one")
	out := r.MustRun("dkms-kernel-install", "sync", "--kernel", k)
	if strings.Count(out, ": built, ") != 1 || !strings.Contains(out, "new initramfs by kernel-install") {
		t.Errorf("sync: %s", out)
	}
	carries(r, k, image)
	for _, program := range []string{"depmod", "dracut", "kernel-install"} {
		ran(program, 1)
	}
	if before, after := r.Read("/tmp/39-before"), r.Read("/tmp/41-after"); before != after {
		t.Errorf("the plugin did what sync had done: %s%s", before, after)
	}

	change("two")
	cmd := r.Start("dkms-kernel-install", "sync", "--kernel", k)
	for start := time.Now(); r.Read("/tmp/dracut.log") == ""; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > r.Timeout {
			t.Fatal("sync makes no initramfs")
		}
	}
	r.check(syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL))
	cmd.Wait()
	r.Sh("rm /tmp/dracut.log && touch /tmp/dracut.log")
	out = r.MustRun("dkms-kernel-install", "sync", "--kernel", k)
	if strings.Contains(out, "built") || !strings.Contains(out, "new initramfs by kernel-install") {
		t.Errorf("sync after one that was killed: %s", out)
	}
	ran("dracut", 1)
	carries(r, k, image)
	if out := r.MustRun("dkms-kernel-install", "sync", "--kernel", k); out != "" {
		t.Errorf("there is still something to do: %s", out)
	}
	ran("dracut", 1)
}
