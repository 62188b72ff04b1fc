// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"os"
	"regexp"
	"testing"
)

// TestManPages checks that the manual pages describe everything that can be set.
func TestManPages(t *testing.T) {
	for page, names := range map[string][]string{"dkms.conf.5": confNames, "framework.conf.5": frameworkNames} {
		text, err := os.ReadFile("../../install.d/man/" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			// It begins a paragraph of its own.
			head := regexp.MustCompile(`(?m)^\.TP\n\.BR? (?:.*" )?` + name + `(?:\[[01]\])?(?: .*)?$`)
			if !head.Match(text) {
				t.Errorf("%s does not describe %s", page, name)
			}
		}
	}
}

// TestFrameworkConf checks that the file that is installed shows every setting,
// and sets none.
func TestFrameworkConf(t *testing.T) {
	const file = "../../install.d/framework.conf"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range frameworkNames {
		if !regexp.MustCompile(`(?m)^#` + name + `=`).Match(text) {
			t.Errorf("framework.conf does not show %s", name)
		}
	}
	if set, err := readLiteral(file); err != nil || set == nil || len(set) != 0 {
		t.Errorf("framework.conf sets %v, %v", set, err)
	}
}
