// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

func TestClean(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"plain, a tab\tand a line\n", "plain, a tab\tand a line\n"},
		{"Größe 模块 e\u0301 🐧 “…”", "Größe 模块 e\u0301 🐧 “…”"},
		{"\x1b[31mred\x1b[0m\x1b]0;title\x07", "?[31mred?[0m?]0;title?"},
		{"up\rdown\b\v\f\x00\x7f", "up?down?????"},
		{"\u009b31m\u0085", "?31m?"}, // escape sequences of one character
		{"\u202egnp.exe\u202c \u2066x\u2069 \u200e\u200f\u061c", "?gnp.exe? ?x? ???"},
		{"\u2028\u2029\ufeff\u00ad\u200b\U000e0041", "??????"},
		{"bad \xff\xfe, cut \xe2\x80", "bad ??, cut "}, // nobody completes it
		{"cut \xe2\x80\n", "cut ??\n"},
	} {
		for n := 1; n <= max(1, len(tt.text)); n++ {
			var got bytes.Buffer
			w := Clean(&got)
			for part := tt.text; part != ""; part = part[min(n, len(part)):] {
				if m, err := w.Write([]byte(part[:min(n, len(part))])); m != min(n, len(part)) || err != nil {
					t.Fatalf("%q: %d bytes written, %v", tt.text, m, err)
				}
			}
			if got.String() != tt.want {
				t.Errorf("%q, %d bytes at a time: %q, want %q", tt.text, n, got.String(), tt.want)
			}
		}
	}
	failing := errors.New("full")
	if n, err := Clean(writeTo{failing}).Write([]byte("x")); n != 0 || err != failing {
		t.Errorf("Write returns %d, %v", n, err)
	}
	if n, err := Clean(writeTo{&fs.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}}).Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("to a broken pipe, Write returns %d, %v", n, err)
	}
}

// writeTo fails.
type writeTo struct{ err error }

func (w writeTo) Write([]byte) (int, error) { return 0, w.err }

// A program gets the names that are there, a terminal none that steers it.
func TestStatusJSON(t *testing.T) {
	name := "a\x1b\u202e\u009b\U000e0041ü\"b"
	var out bytes.Buffer
	if err := StatusJSON(Clean(&out), []observe.Status{{ID: tree.ID{Name: name, Version: "1"}}}, nil); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\u202e\u009b\U000e0041") || !strings.Contains(out.String(), "ü") {
		t.Errorf("it writes %q", out.String())
	}
	var all struct{ Packages []struct{ Package string } }
	if err := json.Unmarshal(out.Bytes(), &all); err != nil || len(all.Packages) != 1 || all.Packages[0].Package != name {
		t.Errorf("it reads %q, %v; want %q", all, err, name)
	}
}

// Text of a package does not pass for a line of ours.
func TestOneLine(t *testing.T) {
	var out bytes.Buffer
	NewText(&out, "dkms: ", false, false).Note("toy: it is only for\nerror: everything is lost")
	if want := "dkms: toy: it is only for; error: everything is lost\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
