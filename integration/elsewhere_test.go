// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// elsewhere runs a face of the program on this machine, for the root r.
func (r *Root) elsewhere(env string, args ...string) Result {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(r.Dir, "usr/lib/kernel/install.d/40-dkms.install"))
	cmd.Args = args
	cmd.Env = append(os.Environ(), env)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	code, err := status(cmd.Run())
	r.check(err)
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Status: code}
}

// thisMachine returns what this machine has where the program writes, and where a root's links could lead it.
func thisMachine(t *testing.T) map[string]string {
	t.Helper()
	list := map[string]string{}
	for _, top := range []string{"/etc/dkms", "/etc/hostile", "/etc/tree", "/boot", "/usr/src", "/usr/lib/modules", "/usr/lib/dkms", "/lib/modules", "/var/lib/dkms", "/var/cache/dkms-kernel-install"} {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // most do not exist
			}
			if info, err := d.Info(); err == nil {
				list[path] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime())
			}
			return nil
		})
	}
	return list
}

// imageFiles returns the SHA-256 of each file that the program makes below dir: of all in its places.
func imageFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	for _, top := range []string{"var/lib/dkms", "var/cache/dkms-kernel-install", "usr/lib/dkms", "usr/lib/modules", "run", "tmp", "etc/dkms"} {
		err := filepath.WalkDir(filepath.Join(dir, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			list[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%x", sha256.Sum256(text))
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return list
}

// checkImage reports what an image has that it must not have, by its contents, and whether it has that many modules.
func checkImage(t *testing.T, files map[string]string, modules int) {
	t.Helper()
	for file := range files {
		switch base := filepath.Base(file); {
		case base == "make.log", base == ".lock", strings.HasPrefix(base, "mok."), strings.HasPrefix(file, "/var/cache/"), strings.Contains(file, "dkms-kernel-install."):
			t.Errorf("the image has %s", file)
		case strings.Contains(file, "/updates/dkms/"):
			modules--
		}
	}
	if modules != 0 {
		t.Errorf("the image has %d modules fewer than it should have", modules)
	}
}

// TestElsewhere runs the program for a root that is not the machine's: what it makes is what it makes inside, with the
// root's own tools, and this machine stays as it is. Both are images that are made, and come out the same.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	packages := []string{"acpi-call-dkms", "v4l2loopback-dkms"}
	prepare := func() (*Root, []string) {
		r := NewRoot(t)
		r.InstallProgram()
		r.MustRun("rm", "/etc/dkms/framework.conf.d/machine.conf")
		var sources []string
		for _, pkg := range packages {
			m, v := r.Unpack(pkg)
			sources = append(sources, m, v)
		}
		return r, sources
	}
	inside, sources := prepare()
	outside, _ := prepare()
	before := thisMachine(t)
	for ; len(sources) > 0; sources = sources[2:] {
		inside.MustRun("dkms-kernel-install", "postinst", sources[0], sources[1])
		if res := outside.elsewhere("", "dkms-kernel-install", "--root", outside.Dir, "postinst", sources[0], sources[1]); res.Status != 0 {
			t.Fatalf("postinst for a root elsewhere: %v", res)
		}
	}
	if diff := cmp.Diff(inside.Snapshot(), outside.Snapshot()); diff != "" {
		t.Errorf("inside (-) has other files than from outside (+): %s", diff)
	}
	made := imageFiles(t, inside.Dir)
	if diff := cmp.Diff(made, imageFiles(t, outside.Dir)); diff != "" {
		t.Errorf("inside (-) has other contents than from outside (+): %s", diff)
	}
	checkImage(t, made, 3) // the cloud kernel has no video devices

	if res := outside.elsewhere("", "dkms-kernel-install", "--root", outside.Dir, "check", "acpi-call"); res.Status != 0 || strings.Count(res.Stdout, ": built") != 2 {
		t.Errorf("check in a root elsewhere: %v", res)
	}

	// kernel-install's own --root names the root to its plugins.
	k := outside.Kernels()[0]
	outside.MustRun("rm", "-r", "/usr/lib/modules/"+k+"/updates")
	if res := outside.elsewhere("KERNEL_INSTALL_ROOT="+outside.Dir, "40-dkms.install", "add", k, "entry", "image"); res.Status != 0 || !strings.Contains(res.Stdout, "for "+k+": installed") {
		t.Errorf("the plugin for a root elsewhere: %v", res)
	}
	if diff := cmp.Diff(made, imageFiles(t, outside.Dir)); diff != "" {
		t.Errorf("after the plugin: %s", diff)
	}

	// What the root says is done in the root, and its links lead nowhere else.
	outside.Write("/etc/dkms/framework.conf", "touch /etc/hostile /boot/hostile\n", 0o644)
	outside.Sh("mv /var/lib/dkms /etc/tree && ln -s /etc/tree /var/lib/dkms && rm -r /run && ln -s /etc /run")
	if res := outside.elsewhere("", "dkms-kernel-install", "--root", outside.Dir, "status"); res.Status != 1 || !strings.Contains(res.Stderr, "its /run is not a directory") {
		t.Errorf("a link in place of a directory for a mount: %v", res)
	}
	outside.MustRun("rm", "/run")
	if res := outside.elsewhere("", "dkms-kernel-install", "--root", outside.Dir, "status"); res.Status != 0 || !strings.Contains(res.Stdout, "acpi-call") {
		t.Errorf("status of a hostile root: %v", res)
	}
	if !outside.Exists("/boot/hostile") {
		t.Error("its framework.conf was not evaluated in the root")
	}
	if diff := cmp.Diff(before, thisMachine(t)); diff != "" {
		t.Errorf("this machine changed: %s", diff)
	}
	for dir, why := range map[string]string{"/nonexistent": "no such file", "/etc/passwd": "not a directory", "/proc/self": "holds no root file system"} {
		if res := outside.elsewhere("", "dkms-kernel-install", "--root", dir, "status"); res.Status != 1 || !strings.Contains(res.Stderr, why) {
			t.Errorf("--root %s: %v", dir, res)
		}
	}
}
