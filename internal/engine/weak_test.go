package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/distro"
	"dkms-kernel-install/internal/tree"
)

// weakEngine returns an engine of a distribution whose script is script, and a
// result of a package for a kernel.
func weakEngine(t *testing.T, id, script string) (*Engine, *Result) {
	t.Helper()
	dir := t.TempDir()
	e := &Engine{Distro: distro.Distro{IDs: []string{id}}, System: System{
		Modules: dir, WeakModules: filepath.Join(dir, "weak-modules"), WeakModules2: filepath.Join(dir, "weak-modules2"),
	}}
	e.Settings.InstallTree = dir
	for _, file := range []string{e.System.WeakModules, e.System.WeakModules2} {
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return e, &Result{ID: tree.ID{Name: "toy", Version: "1.0"}, Kernel: tree.Target{Release: "6.1", Arch: "x86_64"}}
}

func TestWeakCommand(t *testing.T) {
	const redhat, suse = "weak-modules --no-initramfs --add-modules", "weak-modules2 --add-kernel-modules 6.1"
	for _, tt := range []struct{ ids, env, want string }{
		{"rhel fedora", "", redhat},
		{"centos rhel fedora", "", redhat},
		{"rocky rhel centos fedora", "", redhat},
		{"rhel fedora", "no", redhat},
		{"rhel fedora", "yes", ""},
		{"rhel fedora", "1", ""},
		{"fedora", "", ""},
		{"opensuse-leap suse opensuse", "", suse},
		{"opensuse-tumbleweed opensuse suse", "", suse},
		{"sles suse", "", suse},
		{"sles suse", "YES", ""},
		{"debian", "", ""},
		{"", "", ""},
	} {
		t.Run(tt.ids+" "+tt.env, func(t *testing.T) {
			t.Setenv("NO_WEAK_MODULES", tt.env)
			e, _ := weakEngine(t, "", "")
			e.Distro.IDs = strings.Fields(tt.ids)
			got := e.weakCommand(weakAdd, "6.1")
			if len(got) > 0 {
				got[0] = filepath.Base(got[0])
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTellWeak(t *testing.T) {
	tell := func(e *Engine, r *Result, verb weakVerb, paths ...string) string {
		t.Helper()
		e.tellWeak(context.Background(), verb, conf.Conf{}, paths, r)
		return strings.Join(r.Warnings, "\n")
	}

	t.Run("fine", func(t *testing.T) {
		e, r := weakEngine(t, "rhel", `cat >"$(dirname "$0")/in"; echo words; echo words >&2`)
		if got := tell(e, r, weakAdd, "/a b", "/c"); got != "" {
			t.Errorf("it warns: %s", got)
		}
		if in, _ := os.ReadFile(filepath.Join(e.System.Modules, "in")); string(in) != "/a b\n/c\n" {
			t.Errorf("the script reads %q", in)
		}
	})
	t.Run("fails", func(t *testing.T) {
		// More words than are kept, and none of the input is read.
		e, r := weakEngine(t, "suse", `exec 0<&-; yes | head -c 100000; echo "$(printf '\303\251%.0s' $(seq 300)) end" >&2; echo; exit 3`)
		got := tell(e, r, weakRemove, strings.Repeat("/path", 1<<16))
		want := e.System.WeakModules2 + " --remove-kernel-modules 6.1 failed: exit status 3: " + strings.Repeat("é", 100) + "… (links to them may be left: "
		if !strings.HasPrefix(got, want) {
			t.Errorf("got  %q,\nwant %q", got, want)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		e, r := weakEngine(t, "rhel", "sleep 1000 & echo hm; sleep 1000")
		e.System.WeakTimeout = 100 * time.Millisecond
		got := tell(e, r, weakAdd, "/a")
		if want := "failed: it did not end within 100ms"; !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
		if want := "tell it again: dkms install --force toy/1.0 -k 6.1)"; !strings.HasSuffix(got, want) {
			t.Errorf("got %q, want %q at its end", got, want)
		}
	})
	t.Run("cannot run", func(t *testing.T) {
		e, r := weakEngine(t, "rhel", "")
		if err := os.Chmod(e.System.WeakModules, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := tell(e, r, weakAdd, "/a"); !strings.Contains(got, "permission denied") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("nothing to tell", func(t *testing.T) {
		e, r := weakEngine(t, "rhel", "exit 1")
		if got := tell(e, r, weakAdd); got != "" {
			t.Errorf("it was run: %s", got)
		}
	})
	t.Run("other trees", func(t *testing.T) {
		e, r := weakEngine(t, "rhel", "exit 1")
		e.Settings.InstallTree = t.TempDir()
		if got := tell(e, r, weakAdd, "/a"); got != "" {
			t.Errorf("it was run: %s", got)
		}
	})
}
