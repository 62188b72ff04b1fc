// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"bytes"
	"errors"
	"io"
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
		{"no program for env", exit("exit 2"), "/usr/bin/env: 'python': No such file or directory\n", false},
		{"no interpreter", exit("exit 2"), "/bin/bash: line 1: ./gen.sh: cannot execute: required file not found\n", false},
		{"no interpreter, before bash 5.2", exit("exit 2"), "/bin/sh: ./gen.py: /usr/bin/python2: bad interpreter: No such file or directory\n", false},
		{"half a compiler", exit("exit 1"), "configure: error: C compiler cannot create executables\n", false},
		{"no network", exit("exit 1"), "curl: (6) Could not resolve host: example.org\n", false},
		{"the compiler is wrong", exit("exit 2"), "toy.c:1: internal compiler error: in foo\n", false},
		{"a shell finds nothing", exit("exit 127"), "", false},
		{"a signal in a shell", exit("exit 137"), "", false},
		{"a signal", exit("kill -9 $$"), "", false},
		{"it was not started", errors.New("cannot start"), "", false},
		{"a long line", exit("exit 1"), strings.Repeat("x", 10000) + "\nKilled\n", false},
	} {
		if got := lasting(tt.err, []byte(tt.log)); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// counted is a log of size bytes that counts how many are read.
type counted struct{ size, read int64 }

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, bytes.Repeat([]byte("foo.c: warning: error\n"), len(p)/22+2)[off%22:])
	c.read += int64(n)
	if off+int64(n) > c.size {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

// Much output does not cost much: only its ends are read, and searched.
func TestExcerpt(t *testing.T) {
	for _, tt := range []struct {
		start, end int64
		whole      bool
	}{
		{0, 0, true},
		{100, 100, true},
		{100, 1000, true},
		{100, 100 + 2*endSize, true},
		{100, 101 + 2*endSize, false},
		{100, 64 << 20, false},
		{0, 1 << 40, false},
	} {
		log := &counted{size: tt.end}
		text, whole, err := excerpt(log, tt.start, tt.end)
		if err != nil {
			t.Fatal(err)
		}
		if want := min(tt.end-tt.start, 2*endSize); whole != tt.whole || log.read != want || int64(len(text)) > want {
			t.Errorf("from %d to %d: %d bytes, of %d that are read, and whole is %v", tt.start, tt.end, len(text), log.read, whole)
		}
		if whole && int64(len(text)) != tt.end-tt.start {
			t.Errorf("from %d to %d: %d bytes", tt.start, tt.end, len(text))
		}
	}
	text := "first\n" + strings.Repeat("x", endSize) + "\n" + strings.Repeat("y", endSize) + "\nlast\n"
	got, whole, err := excerpt(strings.NewReader(text), 0, int64(len(text)))
	if err != nil || whole || !bytes.HasPrefix(got, []byte("first\nxxx")) || !bytes.HasSuffix(got, []byte("xxx\nlast\n")) || bytes.Contains(got, []byte("y")) {
		t.Errorf("%d bytes, %v, %v", len(got), whole, err)
	}
}
