// SPDX-License-Identifier: GPL-2.0-or-later

package build

import "testing"

func TestOwnJobs(t *testing.T) {
	for _, tt := range []struct {
		command string
		n       int
		own     bool
	}{
		{"", 0, false},
		{"make", 0, false},
		{"make all", 0, false},
		{"make -j8", 8, true},
		{"make -j 8 all", 8, true},
		{"make -j8 && make -j16 install", 16, true},
		{"make -j4;make -j 2", 4, true},
		{"make -j", 0, true},
		{"make -j all", 0, true},
		{"make -j8 && make -j all", 0, true},
		{"make -j\tall", 0, true},
		{"make --jobs", 0, true},
		{"make --jobs=3", 3, true},
		{"make --jobs 3", 3, true},
		{"make -j$(nproc)", 0, true},
		{"make -j`nproc` all", 0, true},
		{"make -j \\$(nproc)", 0, true},
		{"make -j\"$jobs\"", 0, true},
		{"make '-j8'", 8, true},
		{"make -j'8'", 8, true},
		{"'make' -j7 -l4 CC='gcc'", 7, true},
		{"make -kj5", 5, true},
		{"make -skj", 0, true},
		{"MAKEFLAGS=-j6 make", 6, true},
		{"(cd src && make -j3)", 3, true},
		{"make -j99999999999999999999", 0, true},
		{"make -j0", 0, true},
		{"make -C dir -f x.mk", 0, false},
		{"make M=/usr/src/a-j8/build", 0, false},
		{"make X=a-j8", 0, false},
		{"make -Ijazz", 0, false},
		{"make --jobserver-style=pipe", 0, false},
		{"tar -xjf a.tar.bz2 && make", 0, false},
		{"tar -jxf a.tar.bz2 && make", 0, false},
	} {
		if n, own := OwnJobs(tt.command); n != tt.n || own != tt.own {
			t.Errorf("%s: %d, %v; want %d, %v", tt.command, n, own, tt.n, tt.own)
		}
	}
}
