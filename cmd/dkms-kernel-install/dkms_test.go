// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

// TestOptionForms checks that each option of the dkms face that takes a value may be
// written --option=value and --option value, and a short one -o value and -ovalue.
func TestOptionForms(t *testing.T) {
	parse := func(args ...string) (c classic) {
		parser, err := kong.New(&c)
		if err == nil {
			_, err = parser.Parse(append(args, "status", "toy/1.0"))
		}
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		return c
	}
	parser, err := kong.New(&classic{})
	if err != nil {
		t.Fatal(err)
	}
	none := parse()
	for _, flag := range parser.Model.Flags {
		if flag.IsBool() {
			continue
		}
		want := parse("--" + flag.Name + "=7")
		if cmp.Equal(none, want) {
			t.Errorf("--%s=7 says nothing", flag.Name)
		}
		forms := [][]string{{"--" + flag.Name, "7"}}
		if flag.Short != 0 {
			forms = append(forms, []string{"-" + string(flag.Short), "7"}, []string{"-" + string(flag.Short) + "7"})
		}
		for _, args := range forms {
			if diff := cmp.Diff(want, parse(args...)); diff != "" {
				t.Errorf("%q: %s", args, diff)
			}
		}
	}
}
