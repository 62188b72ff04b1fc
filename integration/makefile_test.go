// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makeIn runs make in a directory, without the environment of a make that runs these tests.
func makeIn(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("make", append([]string{"-C", dir}, args...)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=")
	})
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make %q: %v\n%s", args, err, out)
	}
}

// TestInstall checks what make install and make uninstall do to existing files.
func TestInstall(t *testing.T) {
	dest := t.TempDir()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dest, name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	makeIn(t, "..", "install", "DESTDIR="+dest)
	for _, link := range []string{"dkms", "dkms-kernel-install"} {
		if read("usr/sbin/"+link) != read("usr/lib/kernel/install.d/40-dkms.install") {
			t.Errorf("%s is not the plugin", link)
		}
	}
	for line := range strings.Lines(read("etc/dkms/framework.conf")) {
		if line != "\n" && !strings.HasPrefix(line, "#") {
			t.Errorf("framework.conf sets something: %s", line)
		}
	}
	if err := os.WriteFile(filepath.Join(dest, "etc/dkms/framework.conf"), []byte("verbose=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	makeIn(t, "..", "install", "DESTDIR="+dest)
	makeIn(t, "..", "uninstall", "DESTDIR="+dest)
	if got := read("etc/dkms/framework.conf"); got != "verbose=1\n" {
		t.Errorf("framework.conf of the administrator is now %s", got)
	}
	for _, name := range []string{"usr/sbin/dkms", "usr/sbin/dkms-kernel-install", "usr/lib/kernel/install.d/40-dkms.install"} {
		if _, err := os.Lstat(filepath.Join(dest, name)); !os.IsNotExist(err) {
			t.Errorf("uninstall left %s: %v", name, err)
		}
	}
	makeIn(t, "..", "install-debian", "DESTDIR="+dest, "PREFIX=/usr/local")
	if hook := read("etc/kernel/header_postinst.d/dkms"); !strings.Contains(hook, "\n/usr/local/lib/dkms/with-grub ") {
		t.Errorf("with another prefix, the hook for headers is %s", hook)
	}
}

// TestReproducible checks that the program is the same if built in two directories.
func TestReproducible(t *testing.T) {
	var builds [2][]byte
	for i := range builds {
		dir := filepath.Join(t.TempDir(), "checkout")
		if out, err := exec.Command("sh", "-ec", `mkdir "$1" && cd .. && tar -c --exclude=.git cmd internal go.mod go.sum Makefile | tar -C "$1" -x`, "sh", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		makeIn(t, dir, "build", "VERSION=1")
		b, err := os.ReadFile(filepath.Join(dir, "dkms-kernel-install"))
		if err != nil {
			t.Fatal(err)
		}
		builds[i] = b
	}
	if !bytes.Equal(builds[0], builds[1]) {
		t.Error("two builds of the same source differ")
	}
}
