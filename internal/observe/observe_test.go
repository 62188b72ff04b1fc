// SPDX-License-Identifier: GPL-2.0-or-later

package observe

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/tree"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

var (
	k61 = tree.Target{Release: "6.1", Arch: "x86_64"}
	toy = tree.ID{Name: "toy", Version: "1.0"}
)

// newMachine makes a machine with a kernel and its headers, and the package toy,
// registered and built.
func newMachine(t *testing.T) *machine.Machine {
	t.Helper()
	root := t.TempDir()
	for file, text := range map[string]string{
		"etc/dkms/framework.conf":                       "",
		"usr/src/toy-1.0/dkms.conf":                     "PACKAGE_NAME=toy\nPACKAGE_VERSION=1.0\nDEST_MODULE_LOCATION=/extra\nAUTOINSTALL=yes\n",
		"usr/src/toy-1.0/toy.c":                         "one",
		"lib/modules/6.1/build/include/linux/x.h":       "x",
		"lib/modules/6.1/build/Makefile":                "all:",
		"var/lib/dkms/toy/1.0/6.1/x86_64/module/toy.ko": "a module",
	} {
		file = filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := machine.Open(machine.Options{Root: root, Arch: k61.Arch}, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if err := m.Tree.Register(toy, filepath.Join(root, "usr/src/toy-1.0")); err != nil {
		t.Fatal(err)
	}
	return m
}

// look returns what is seen of toy from 6.1 in a run of its own.
func look(t *testing.T, m *machine.Machine, s Scope, remembered bool) Seen {
	t.Helper()
	m.Hashes = m.Hashes.Again()
	snapshot, err := Look(m, []tree.Target{k61})
	if err != nil {
		t.Fatal(err)
	}
	view := snapshot.Fresh
	if remembered {
		view = snapshot.Remembered
	}
	v := view(context.Background(), k61, s)
	if !v.Headers || len(v.Packages) != 1 {
		t.Fatalf("%+v", v)
	}
	if !remembered {
		if err := snapshot.Remember(v); err != nil {
			t.Fatal(err)
		}
	}
	return v.Packages[0]
}

func TestStale(t *testing.T) {
	m := newMachine(t)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(m.Path("/usr/src/toy-1.0/toy.c"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	renew := Scope{Renew: true}
	seen := look(t, m, renew, false)
	if !seen.Built || seen.Installed || seen.ConfErr != nil || seen.Stale != "" || seen.Unrecorded == nil {
		t.Fatalf("built by somebody else: %+v", seen)
	}
	if seen := look(t, m, Scope{Renew: true, Replaced: toy}, false); seen.Stale == "" {
		t.Error("its package was replaced, and nobody knows what it was made from")
	}
	if err := fingerprint.Write(m.Tree.TargetDir(toy, k61), m.Tree.ModuleDir(toy, k61), *seen.Unrecorded, seen.Modules, false); err != nil {
		t.Fatal(err)
	}
	if seen := look(t, m, renew, false); seen.Stale != "" || seen.Unrecorded != nil {
		t.Errorf("recorded: %+v", seen)
	}
	write("two, longer")
	if seen := look(t, m, renew, false); seen.Stale != "its source changed since it was built" {
		t.Errorf("another source: %q", seen.Stale)
	}
	if seen := look(t, m, Scope{}, false); seen.Stale != "" {
		t.Errorf("nobody asked whether it is stale: %q", seen.Stale)
	}
}

// What the cache remembers is as good as what was read, until a file changes.
func TestRemembered(t *testing.T) {
	m := newMachine(t)
	if seen := look(t, m, Scope{}, true); seen.ConfErr == nil {
		t.Error("nothing was read yet, and the conf is known")
	}
	look(t, m, Scope{}, false)
	if seen := look(t, m, Scope{}, true); seen.ConfErr != nil || !seen.Conf.Autoinstall {
		t.Errorf("%+v", seen)
	}
	if err := os.WriteFile(filepath.Join(m.EtcDir(), "toy.conf"), []byte("AUTOINSTALL=no\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// A run reads its settings, and which overrides there are, once.
	next, err := machine.Open(m.Options, m.Note)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if seen := look(t, next, Scope{}, true); seen.ConfErr == nil {
		t.Error("an override came, and the old conf is believed")
	}
}

func TestFailed(t *testing.T) {
	m := newMachine(t)
	in, err := Inputs(context.Background(), m, Description(m, look(t, m, Scope{}, false), k61))
	if err != nil || in.Key == "" {
		t.Fatalf("%+v, %v", in, err)
	}
	lasting := &failure.Failure{What: "build failed", Why: "toy.c:1: error", Hint: "correct it", Status: failure.StatusMake, Lasting: true}
	passing := *lasting
	passing.Lasting = false
	for _, tt := range []struct {
		name string
		key  string
		err  error
		want bool
	}{
		{"the same", in.Key, lasting, true},
		{"of another build", "0" + in.Key, lasting, false},
		{"that may pass", in.Key, &passing, false},
		{"that nobody can name", "", lasting, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			os.Remove(failuresFile(m))
			RememberOutcome(m, toy, k61, tt.key, tt.err)
			f := look(t, m, Scope{}, false).Failed
			if (f != nil) != tt.want {
				t.Fatalf("failed: %v", f)
			}
			if f != nil && f.Hint != "correct it; to try again all the same: dkms install toy/1.0 -k 6.1" {
				t.Errorf("hint: %s", f.Hint)
			}
		})
	}
	RememberOutcome(m, toy, k61, in.Key, lasting)
	// The build that is there is older than the failure.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(m.Tree.ModuleDir(toy, k61), old, old); err != nil {
		t.Fatal(err)
	}
	if list := FailedBuilds(m, func(tree.Target) bool { return true }); len(list) != 1 || list[0].ID != toy {
		t.Errorf("failed builds: %+v", list)
	}
	RememberOutcome(m, toy, k61, in.Key, nil)
	if f := look(t, m, Scope{}, false).Failed; f != nil {
		t.Errorf("it succeeded since: %v", f)
	}
}
