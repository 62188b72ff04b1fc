// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/conf"
)

// prebuilt registers packages that take no time to build: their make command copies modules that were built before.
// What takes time is the program itself, so that kills hit all of its steps.
func prebuilt(r *Root, k string) {
	m, v := r.Unpack("vhba-dkms")
	r.MustRun("dkms", "build", m+"/"+v, "-k", k, "--directive", "STRIP=no")
	// A module that says its name has to have that of its file.
	r.Sh("cd /root && cp /var/lib/dkms/vhba/" + v + "/" + k + "/x86_64/module/vhba.ko.xz . && xz -d vhba.ko.xz && sed -i s/name=vhba/nam_=vhba/ vhba.ko && dkms remove vhba/" + v + " --all")
	for pkg, modules := range map[string][]string{"one": {"one"}, "three": {"three_a", "three_b", "three_c"}, "dummy": {"dummy"}} {
		dir := "/usr/src/" + pkg + "-1.0/"
		text := fmt.Sprintf("PACKAGE_NAME=%s\nPACKAGE_VERSION=1.0\nAUTOINSTALL=yes\nMAKE=true\n", pkg)
		for i, m := range modules {
			text += fmt.Sprintf("BUILT_MODULE_NAME[%d]=%s\nDEST_MODULE_LOCATION[%[1]d]=/extra\n", i, m)
			r.Sh("mkdir -p " + dir + " && cp /root/vhba.ko " + dir + m + ".ko")
		}
		r.Write(dir+"dkms.conf", text, 0o644)
		r.MustRun("dkms", "add", pkg+"/1.0")
	}
}

// contents returns the checksum of every file that Snapshot lists, except logs.
func contents(r *Root) map[string]string {
	list := map[string]string{}
	for line := range strings.Lines(r.Sh("find /var/lib/dkms /usr/lib/modules/*/updates /usr/lib/modules/*/kernel/drivers/net -type f ! -name make.log ! -name .fingerprint.json ! -name '.placed-*' ! -name .lock -exec sha256sum {} +")) {
		sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		list[file] = sum
	}
	return list
}

// TestKill kills an add with everything that it started, at random moments, and expects the next add to end with
// everything in place and nothing left over.
func TestKill(t *testing.T) {
	t.Parallel()
	r := installAll(t)
	k := r.Kernels()[1]
	prebuilt(r, k)
	add := []string{"dkms-kernel-install", "add", k}
	start := time.Now()
	r.MustRun(add...)
	took := time.Since(start)
	// The package dummy displaces the kernel's own module, which a kill must not lose.
	if !strings.Contains(r.MustRun("dkms", "status"), "(Original modules exist)") {
		t.Fatalf("nothing was displaced: %s", r.MustRun("dkms", "status"))
	}
	snapshot, content := r.Snapshot(), contents(r)
	status := r.MustRun("dkms", "status")

	const kills = 50
	early := 0
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	for n := range kills {
		r.MustRun("dkms-kernel-install", "remove", k)
		cmd := r.Command(context.Background(), add...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(random.Int64N(int64(took)))
		time.Sleep(after)
		if syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) == nil {
			early++
		}
		cmd.Wait()
		for start := time.Now(); len(r.Processes()) > 0; time.Sleep(time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("kill %d, after %v: still there: %q", n, after, r.Processes())
			}
		}
		// Whatever the moment, what status calls installed is there.
		r.MustRun("dkms", "status")
		if res := r.Run(add...); res.Status != 0 {
			t.Fatalf("kill %d, after %v: the next add fails: %v", n, after, res)
		}
		if diff := cmp.Diff(snapshot, r.Snapshot()); diff != "" {
			t.Fatalf("kill %d, after %v: %s", n, after, diff)
		}
		if diff := cmp.Diff(content, contents(r)); diff != "" {
			t.Fatalf("kill %d, after %v: %s", n, after, diff)
		}
		if got := r.MustRun("dkms", "status"); got != status {
			t.Fatalf("kill %d, after %v: status is %s", n, after, got)
		}
	}
	t.Logf("%d of %d kills came before the end of an add that takes %v", early, kills, took)
}

// TestLoad checks that a real kernel decompresses, checks and loads the modules that our program placed.
func TestLoad(t *testing.T) {
	t.Parallel()
	r := installAll(t, "acpi-call-dkms", "dkms-test-dkms")
	k := r.Kernels()[1]
	r.MustRun("dkms-kernel-install", "add", k)
	placed := func(name string) string {
		return filepath.Join(r.Dir, "usr/lib/modules", k, "updates/dkms", name+".ko.xz")
	}
	out := BootAndLoad(t, filepath.Join(r.Dir, "usr/lib/modules", k, "vmlinuz"), placed("dkms_test"), placed("acpi_call"))
	for _, want := range []string{
		"load dkms_test.ko.xz: ok\n", "load acpi_call.ko.xz: ok\n", "module dkms_test ", "module acpi_call ",
		// It found a signature by a key that is not in its keyring.
		"module verification failed: signature and/or required key missing",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// TestConfs reads every real dkms.conf with package conf and with bash alone.
func TestConfs(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	k := r.Kernels()[0]
	// Both sides run on this machine and look at the root from outside.
	headers := filepath.Join(r.Dir, "usr/lib/modules", k, "build")
	sh := &conf.Shell{Environ: os.Environ()}
	defer sh.Close()
	set, err := sh.ReadSettings(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	set.AddonModulesDir = "/updates/dkms"
	for _, pkg := range r.Packages() {
		files, err := filepath.Glob(filepath.Join(r.made.dir, "src", pkg, "usr/src/*/dkms.conf"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: %q, %v", pkg, files, err)
		}
		t.Run(pkg, func(t *testing.T) {
			src := conf.Source{File: files[0], Module: "m", Version: "v", Release: k, Arch: "x86_64", KernelSourceDir: headers,
				Config: func(string) (bool, error) { return false, os.ErrNotExist }}
			got, err := sh.Read(src, set)
			if err != nil {
				t.Fatal(err)
			}
			cmd := `for v; do eval "${v%%=*}"='${v#*=}'; done; f=$FILE; set --; . "$f" >/dev/null 2>&1 </dev/null
				echo "$PACKAGE_NAME $PACKAGE_VERSION"
				for i in "${!DEST_MODULE_LOCATION[@]}"; do
					b=${BUILT_MODULE_NAME[i]:-$PACKAGE_NAME}
					echo "$b ${DEST_MODULE_NAME[i]:-$b}"
				done
				echo "make: ${MAKE[0]}"; echo "pre: $PRE_BUILD"; echo "post: $POST_INSTALL"`
			bash := commandOutput(t, append([]string{"env", "FILE=" + files[0], "bash", "-c", cmd, "bash"}, src.Vars(set)...)...)
			want := fmt.Sprintf("%s %s\n", got.Name, got.Version)
			for _, m := range got.Modules {
				want += fmt.Sprintf("%s %s\n", m.BuiltName, m.DestName)
			}
			want += fmt.Sprintf("make: %s\npre: %s\npost: %s\n", got.Make, got.PreBuild, got.PostInstall)
			if got.Excluded == "" {
				if diff := cmp.Diff(strings.ReplaceAll(bash, "\r", ""), want); diff != "" {
					t.Errorf("package conf (+) reads otherwise than bash (-): %s", diff)
				}
			}
		})
	}
}

// TestUname builds packages that ask which kernel runs, as many do, for kernels that do not run.
func TestUname(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.InstallProgram()
	for name, make := range map[string]string{
		"shell": "KDIR := /lib/modules/$(shell uname -r)/build\n",
		"file":  "KVER ?= $(shell cat /proc/sys/kernel/osrelease)\nKDIR ?= /lib/modules/$(KVER)/build\n",
		"words": "KDIR := /lib/modules/$(word 3,$(shell cat /proc/version))/build\nifneq ($(word 3,$(shell uname -a)),$(word 3,$(shell cat /proc/version)))\n$(error no)\nendif\n",
	} {
		src := "/usr/src/" + name + "-1.0"
		r.Sh("mkdir " + src)
		r.Write(src+"/"+name+".c", "#include <linux/module.h>\nMODULE_LICENSE(\"GPL\");\nMODULE_DESCRIPTION(\"a test\");\n", 0o644)
		r.Write(src+"/Makefile", "obj-m := "+name+".o\n"+make+"all:\n\t$(MAKE) -C $(KDIR) M=$(CURDIR) modules\n", 0o644)
		r.Write(src+"/dkms.conf", "PACKAGE_NAME="+name+"\nPACKAGE_VERSION=1.0\nMAKE=\"make all\"\nBUILT_MODULE_NAME="+name+"\nDEST_MODULE_LOCATION=/updates\nAUTOINSTALL=yes\n", 0o644)
		r.MustRun("dkms", "add", name+"/1.0")
	}
	r.MustRun("dkms-kernel-install", "add-all")
	for _, k := range r.Kernels() {
		for _, name := range []string{"shell", "file", "words"} {
			if got := r.MustRun("modinfo", "-k", k, "-F", "vermagic", name); !strings.HasPrefix(got, k+" ") {
				t.Errorf("%s for %s has the vermagic %s", name, k, got)
			}
		}
	}
}
