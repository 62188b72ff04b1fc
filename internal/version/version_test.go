// SPDX-License-Identifier: GPL-2.0-or-later

package version

import "testing"

func TestCompare(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"1", "", 1},
		{"1.0", "1.0", 0},
		{"1.0", "1-0", 0},
		{"1.10", "1.9", 1},
		{"1.010", "1.10", 0},
		{"1.0.1", "1.0", 1},
		{"3.5-rc2", "3.5", 1},
		{"3.4.999", "3.5", -1},
		{"4.12-rc1", "4.12", 1},
		{"2.6.9-1cvs2004", "2.6.9-1cvs2005", -1},
		{"2.6.9-1cvs2004", "2.6.9-1", 1},
		{"2.6.9-1cvs2004", "2.6.9-2", -1},
		{"1.0a", "1.0b", -1},
		{"1.0.5", "1.0a", -1},
		{"6.12.107+deb13-amd64", "6.12.90+deb13-amd64", 1},
		{"99999999999999999999999", "99999999999999999999998", 1},
		{"1~β", "1~α", 1},
	} {
		if got := Compare(tt.a, tt.b); got != tt.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := Compare(tt.b, tt.a); got != -tt.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", tt.b, tt.a, got, -tt.want)
		}
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1.2", "1.10", "a")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if Compare(a, b) != -Compare(b, a) {
			t.Errorf("Compare(%q, %q) is not the opposite of the reverse", a, b)
		}
		if Compare(a, b) <= 0 && Compare(b, c) <= 0 && Compare(a, c) > 0 {
			t.Errorf("%q <= %q <= %q, yet the first is newer than the last", a, b, c)
		}
	})
}
