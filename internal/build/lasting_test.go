// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestLasting(t *testing.T) {
	exit := func(status string) error {
		return exec.Command("bash", "-c", status).Run()
	}
	for _, tt := range []struct {
		name string
		err  error
		log  string
		want bool
	}{
		{"the source is wrong", exit("exit 2"), "toy.c:1:2: error: implicit declaration of function 'x'\nmake: *** [all] Error 2\n", true},
		{"a header that the kernel has no more", exit("exit 2"), "toy.c:1:10: fatal error: linux/x.h: No such file or directory\n", true},
		{"nothing is said", exit("exit 1"), "", true},
		{"configure is looking", exit("exit 1"), "checking for a file... not found yet\nconfigure: error: no\n", true},
		{"a full disk", exit("exit 2"), "toy.c: error: x\n/tmp/x.s: Fatal error: can't close: No space left on device\n", false},
		{"no memory", exit("exit 2"), "gcc: fatal error: Killed signal terminated program cc1\nmake: *** Error 1\n", false},
		{"no memory, of another", exit("exit 2"), "cc1: out of memory allocating 65536 bytes\n", false},
		{"no program", exit("exit 2"), "sh: 1: flex: not found\nmake: *** Error 127\n", false},
		{"no program for bash", exit("exit 1"), "PRE_BUILD: line 3: bison: command not found \n", false},
		{"no program for make", exit("exit 2"), "make[1]: clang-99: No such file or directory\n", false},
		{"no network", exit("exit 1"), "curl: (6) Could not resolve host: example.org\n", false},
		{"the compiler is wrong", exit("exit 2"), "toy.c:1: internal compiler error: in foo\n", false},
		{"a shell finds nothing", exit("exit 127"), "", false},
		{"a signal in a shell", exit("exit 137"), "", false},
		{"a signal", exit("kill -9 $$"), "", false},
		{"it was not started", errors.New("cannot start"), "", false},
		{"a long line", exit("exit 1"), strings.Repeat("x", 10000) + "\nKilled\n", false},
	} {
		if got := lasting(tt.err, strings.NewReader(tt.log)); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
