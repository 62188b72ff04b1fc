// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	for _, test := range []struct {
		text                             string
		name, dest, source, dir, targets string
		err                              string
	}{
		// The examples of linux-mod-r1.eclass.
		{"gentoo", "gentoo", "/extra", ".", ".", "", ""},
		{"gamepad=kernel/drivers/hid:gamepad:gamepad/obj", "gamepad", "/extra/kernel/drivers/hid", "gamepad", "gamepad/obj", "", ""},
		{"name2=:source", "name2", "/extra", "source", "source", "", ""},
		{"name3=install::build", "name3", "/extra/install", ".", "build", "", ""},
		{"a=:::first second", "a", "/extra", ".", ".", "first second", ""},

		{"a=", "a", "/extra", ".", ".", "", ""},
		{"a=::::", "a", "/extra", ".", ".", "", ""},
		{"a=extra", "a", "/extra", ".", ".", "", ""},
		{"a=/kernel/fs/", "a", "/kernel/fs", ".", ".", "", ""},
		{"a=/updates", "a", "/updates", ".", ".", "", ""},
		{"a=updates", "a", "/extra/updates", ".", ".", "", ""},
		{"a=/kernelly", "a", "/extra/kernelly", ".", ".", "", ""},
		{"a=/", "a", "/extra", ".", ".", "", ""},
		{"a=:/top/s:/top/b/../c", "a", "/extra", "s", "c", "", ""},
		{"a=:./s//x/.", "a", "/extra", "s/x", "s/x", "", ""},
		{"a=:/top", "a", "/extra", ".", ".", "", ""},
		{"rt2800-usb+1.0=", "rt2800-usb+1.0", "/extra", ".", ".", "", ""},

		{err: "no name"},
		{text: "=x", err: "no name"},
		{text: "a:b=c", err: "no name of a module"},
		{text: "a/b", err: "no name of a module"},
		{text: "-a", err: "no name of a module"},
		{text: "a b", err: "no name of a module"},
		{text: "a.ko", err: "without its suffix"},
		{text: "a.o", err: "without its suffix"},
		{text: "a=::::x", err: "5 parts"},
		{text: "a=:::::", err: "6 parts"},
		{text: "a=:..", err: "source-dir: \"..\" leads out of the source"},
		{text: "a=:s/../../x", err: "leads out"},
		{text: "a=:/other", err: "leads out of the source"},
		{text: "a=:/topper", err: "leads out of the source"},
		{text: "a=::..", err: "build-dir: \"..\" leads out"},
		{text: "a=:a b", err: "characters"},
		{text: "a=:$(x)", err: "characters"},
		{text: "a=:-x", err: "characters"},
		{text: "a=../x", err: "leads upwards"},
		{text: "a=x y", err: "characters"},
		{text: "a=x\ny", err: "characters"},
		{text: "a=:::-f", err: "no target"},
		{text: "a=:::x;y", err: "no target"},
	} {
		s, err := ParseSpec(test.text, "/top")
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: error %v, want %q", test.text, err, test.err)
			}
			continue
		}
		if err != nil || s.Name != test.name || s.Dest != test.dest || s.Source != test.source || s.Dir != test.dir || s.Target != test.targets {
			t.Errorf("%q: got %+v, %v", test.text, s, err)
		}
	}
}
