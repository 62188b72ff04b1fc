// SPDX-License-Identifier: GPL-2.0-or-later

package follow

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dkms-kernel-install/internal/distro"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// weakMachine returns a machine of a distribution whose script is script.
func weakMachine(t *testing.T, id, script string) *machine.Machine {
	t.Helper()
	m := &machine.Machine{Options: machine.Options{Root: t.TempDir()}, Distro: distro.Distro{IDs: []string{id}}}
	m.Kernels = kernel.Dirs{Modules: m.StandardModules()}
	if err := os.MkdirAll(m.Kernels.Modules, 0o755); err != nil {
		t.Fatal(err)
	}
	file := m.WeakScript(machine.WeakAdd, "6.1")[0]
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTellWeak(t *testing.T) {
	k, toy, other := tree.Target{Release: "6.1", Arch: "x86_64"}, tree.ID{Name: "toy", Version: "1.0"}, tree.ID{Name: "other", Version: "2"}
	tell := func(m *machine.Machine, changes ...Change) (warnings string) {
		t.Helper()
		m.Note = func(line string) { warnings += line }
		(&indexing{Rest: Rest{Kernel: k}, changes: changes}).tellWeak(context.Background(), m, Policy{})
		return warnings
	}

	t.Run("fine", func(t *testing.T) {
		m := weakMachine(t, "rhel", `{ echo "$2"; cat; } >>"$(dirname "$0")/in"; echo words; echo words >&2`)
		if got := tell(m, Change{Package: toy, Placed: []string{"/a b"}}, Change{Placed: []string{"/x"}, NoWeakModules: true},
			Change{Package: other, Placed: []string{"/c"}, Removed: []string{"/d"}}); got != "" {
			t.Errorf("it warns: %s", got)
		}
		if in, _ := os.ReadFile(m.Path("/usr/sbin/in")); string(in) != "--remove-modules\n/d\n--add-modules\n/a b\n/c\n" {
			t.Errorf("the script reads %q", in)
		}
	})
	t.Run("fails", func(t *testing.T) {
		// More words than are kept, and none of the input is read.
		m := weakMachine(t, "suse", `exec 0<&-; yes | head -c 100000; echo "$(printf '\303\251%.0s' $(seq 300)) end" >&2; echo; exit 3`)
		got := tell(m, Change{Package: toy, Removed: []string{strings.Repeat("/path", 1<<16)}})
		want := "warning: 6.1: " + m.WeakScript(machine.WeakRemove, "6.1")[0] + " --remove-kernel-modules 6.1 failed: exit status 3: " + strings.Repeat("é", 100) + "… (links to them may be left: "
		if !strings.HasPrefix(got, want) {
			t.Errorf("got  %q,\nwant %q", got, want)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		m := weakMachine(t, "rhel", "sleep 1000 & echo hm; sleep 1000")
		m.WeakTimeout = 100 * time.Millisecond
		got := tell(m, Change{Package: toy, Placed: []string{"/a"}}, Change{Package: other, Placed: []string{"/b"}})
		if want := "failed: it did not end within 100ms"; !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
		if want := "tell it again: dkms install --force toy/1.0 -k 6.1 && dkms install --force other/2 -k 6.1)"; !strings.HasSuffix(got, want) {
			t.Errorf("got %q, want %q at its end", got, want)
		}
	})
	t.Run("cannot run", func(t *testing.T) {
		m := weakMachine(t, "rhel", "")
		if err := os.Chmod(m.WeakScript(machine.WeakAdd, "6.1")[0], 0o644); err != nil {
			t.Fatal(err)
		}
		if got := tell(m, Change{Placed: []string{"/a"}}); !strings.Contains(got, "permission denied") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("nothing to tell", func(t *testing.T) {
		m := weakMachine(t, "rhel", "exit 1")
		if got := tell(m, Change{}); got != "" {
			t.Errorf("it was run: %s", got)
		}
	})
	t.Run("other trees", func(t *testing.T) {
		m := weakMachine(t, "rhel", "exit 1")
		m.Kernels.Modules = t.TempDir()
		if got := tell(m, Change{Placed: []string{"/a"}}); got != "" {
			t.Errorf("it was run: %s", got)
		}
	})
}
