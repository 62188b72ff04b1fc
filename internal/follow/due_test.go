// SPDX-License-Identifier: GPL-2.0-or-later

package follow

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

var k61 = tree.Target{Release: "6.1", Arch: "x86_64"}

func dueMachine(t *testing.T) *machine.Machine {
	t.Helper()
	root := t.TempDir()
	m, err := machine.Open(machine.Options{Root: root}, func(line string) { t.Error(line) })
	if err == nil {
		err = os.MkdirAll(m.Tree.Dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// withoutTime is due without the moment of the note.
func withoutTime(due Due) Due {
	due.Changed = 0
	return due
}

// What is foreseen adds up until the run says what is left.
func TestDue(t *testing.T) {
	m := dueMachine(t)
	renew := Policy{Initramfs: Renew}
	foresee := func(p Policy, due Due) {
		t.Helper()
		if err := Foresee(m, k61, p, due); err != nil {
			t.Fatal(err)
		}
	}
	owed := func(want Due) Due {
		t.Helper()
		got := Owed(m, k61)
		if diff := cmp.Diff(want, withoutTime(got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		return got
	}
	owed(Due{})
	foresee(renew, Due{Modules: []string{"b", "a"}})
	foresee(renew, Due{Modules: []string{"b", "c"}, Fresh: "c/1"})
	noted := owed(Due{Depmod: true, Modules: []string{"a", "b", "c"}, Fresh: "c/1"})
	if noted.Changed == 0 {
		t.Error("the note does not say when it was made")
	}
	left, err := Owe(m, k61, Due{Modules: []string{"a"}})
	if err != nil || left.Changed != noted.Changed {
		t.Errorf("%+v, %v: not the note of %d", left, err, noted.Changed)
	}
	owed(Due{Modules: []string{"a"}})
	if kernels := Owing(m, func(k tree.Target) bool { return k.Release == "6.1" }); !cmp.Equal(kernels, []tree.Target{k61}) {
		t.Errorf("something is due for %v", kernels)
	}
	if kernels := Owing(m, func(tree.Target) bool { return false }); kernels != nil {
		t.Errorf("none matches, and there is %v", kernels)
	}
	if _, err := Owe(m, k61, Due{}); err != nil {
		t.Fatal(err)
	}
	owed(Due{})
	if entries, _ := os.ReadDir(m.Tree.Dir); len(entries) != 0 {
		t.Errorf("%v is left", entries)
	}
}

// Nobody who leaves something to others owes it.
func TestForeseePolicy(t *testing.T) {
	more := Due{Modules: []string{"a"}, Fresh: "a/1"}
	for _, tt := range []struct {
		policy Policy
		want   Due
	}{
		{Policy{}, Due{Depmod: true}},
		{Policy{NoDepmod: true}, Due{}},
		{Policy{NoDepmod: true, Initramfs: Carried}, Due{Modules: []string{"a"}, Fresh: "a/1"}},
		{Policy{Initramfs: Renew}, Due{Depmod: true, Modules: []string{"a"}, Fresh: "a/1"}},
	} {
		m := dueMachine(t)
		if err := Foresee(m, k61, tt.policy, more); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, withoutTime(Owed(m, k61))); diff != "" {
			t.Errorf("%+v: %s", tt.policy, diff)
		}
	}
}

func TestOwedDamaged(t *testing.T) {
	m := dueMachine(t)
	if err := os.WriteFile(dueFile(m, k61), []byte("{\"Modules\":[\"a\"],"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Owed(m, k61); !got.Depmod || got.Modules != nil {
		t.Errorf("%+v: want depmod alone", got)
	}
}
