// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/store"
)

// keptBuilds returns the checksums of the files of all builds in the cache of the root, by the key of the build and
// the file's name. It leaves out logs, which hold times.
func keptBuilds(r *Root) map[string]string {
	r.t.Helper()
	cache := store.Dir{Path: filepath.Join(r.Dir, "var/cache/dkms-kernel-install/builds"), MaxSize: 1 << 40}
	entries, err := os.ReadDir(cache.Path)
	r.check(err)
	list := map[string]string{}
	for _, e := range entries {
		if e.Name()[0] == '.' {
			continue // when it was tidied
		}
		dir := filepath.Join(r.t.TempDir(), "build")
		if ok, err := cache.Get(e.Name(), dir); !ok || err != nil {
			r.t.Fatalf("%s: %v, %v", e.Name(), ok, err)
		}
		for line := range strings.Lines(commandOutput(r.t, "sh", "-c", `cd "$1" && find . -type f ! -name make.log -exec sha256sum {} +`, "sh", dir)) {
			sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
			list[e.Name()+" "+file] = sum
		}
	}
	return list
}

// TestSameTwice builds the same packages in two roots that differ in what must not matter: the user, the day, the name
// of the host, the number of processes, the age of files and the order in which they were made. Both must have the same
// keys, and the same modules, bit by bit.
func TestSameTwice(t *testing.T) {
	t.Parallel()
	packages := []string{"acpi-call-dkms", "bbswitch-dkms", "v4l2loopback-dkms", "vhba-dkms"}
	build := func(prepare string, command ...string) map[string]string {
		r := installAgain(t, packages...)
		r.Sh(prepare)
		built := strings.Count(r.MustRun(append(command, "dkms-kernel-install", "add-all")...), ": built, ")
		kept := keptBuilds(r)
		modules := 0
		for name := range kept {
			if strings.HasSuffix(name, ".ko") {
				modules++
			}
		}
		// Some packages are not for every kernel.
		if built < len(packages) || modules != built {
			t.Errorf("%d packages were built, %d modules are in the cache", built, modules)
		}
		return kept
	}
	one := build(`printf 'parallel_jobs=1\n' >/etc/dkms/framework.conf.d/test.conf`)
	other := build(`printf 'parallel_jobs=5\nbuild_user=daemon\n' >/etc/dkms/framework.conf.d/test.conf
		cd /usr/src
		for dir in */dkms.conf; do
			dir=${dir%/dkms.conf}
			mv $dir old
			mkdir $dir
			(cd old && find . ! -type d | sort -r | xargs -I{} cp -a --parents {} ../$dir)
			rm -r old
			find $dir -type f -exec touch -d 2001-02-03 {} +
		done`,
		"unshare", "-u", "sh", "-c", `hostname elsewhere && exec "$@"`, "sh",
		"env", "LANG=C.UTF-8", "TZ=Asia/Tokyo", "USER=somebody", "HOME=/tmp", "TERM=vt100")
	if diff := cmp.Diff(one, other); diff != "" {
		t.Error(diff)
	}
}

// TestRemoveAndAdd removes a kernel and adds it again: no compiler runs.
func TestRemoveAndAdd(t *testing.T) {
	t.Parallel()
	r := installAgain(t, "acpi-call-dkms", "bbswitch-dkms")
	k := r.Kernels()[0]
	// These are there from the beginning, as programs count by their content.
	for _, program := range []string{"make", "gcc", "ld", "strip"} {
		r.Write("/usr/local/sbin/"+program, "#!/bin/sh\ncase $1 in --version|-print-*) exec /usr/bin/"+program+" \"$1\" ;; esac\n"+
			"test -e /etc/no-compiler || exec /usr/bin/"+program+" \"$@\"\necho "+program+" >>/tmp/ran\nexit 1\n", 0o755)
	}
	r.MustRun("dkms-kernel-install", "add", k)
	modules := func() string { return r.Sh("cd /usr/lib/modules/" + k + "/updates/dkms && sha256sum *") }
	was := modules()
	r.MustRun("dkms-kernel-install", "remove", k)
	r.Write("/etc/no-compiler", "", 0o644)
	out := r.MustRun("dkms-kernel-install", "add", k)
	if strings.Count(out, "from the cache") != 2 || r.Exists("/tmp/ran") {
		t.Errorf("what ran: %s", r.Sh("cat /tmp/ran || true")+out)
	}
	if now := modules(); now != was {
		t.Errorf("the modules are others: %s, %s", was, now)
	}
}
