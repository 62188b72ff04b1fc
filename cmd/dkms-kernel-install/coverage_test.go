// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestCovered checks that scripts use every action and every spelling of every option of
// the dkms face, in a command that must succeed.
func TestCovered(t *testing.T) {
	used, err := usedWords(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := kong.New(&classic{}, kong.Name("dkms"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range k.Model.Flags {
		names := []string{"--" + f.Name}
		for _, alias := range f.Aliases {
			names = append(names, "--"+alias)
		}
		if f.Short != 0 {
			names = append(names, "-"+string(f.Short))
		}
		for _, name := range names {
			if !used[name] {
				t.Errorf("no script uses the option %s", name)
			}
		}
	}
	for _, verb := range slices.Sorted(maps.Keys(verbs)) {
		if !used[verb] {
			t.Errorf("no script uses the action %s", verb)
		}
	}
}

// usedWords returns the arguments of dkms in those lines of scripts in which it must
// succeed. Options are without their values.
func usedWords(pattern string) (map[string]bool, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		script, _, _ := strings.Cut(string(text), "\n-- ") // where the files begin
		for line := range strings.Lines(script) {
			words := strings.Fields(line)
			// [root] user 0 dkms ..., exec dkms ..., status 0 dkms ...
			for len(words) > 0 && words[0] != "dkms" && (strings.HasPrefix(words[0], "[") || slices.Contains([]string{"exec", "user", "status", "0"}, words[0])) {
				words = words[1:]
			}
			if len(words) == 0 || words[0] != "dkms" {
				continue
			}
			for _, word := range words[1:] {
				name := strings.Trim(word, "'")
				if strings.HasPrefix(name, "--") {
					name, _, _ = strings.Cut(name, "=")
				}
				used[name] = true
			}
		}
	}
	return used, nil
}
