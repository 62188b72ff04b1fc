// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"os"
	"os/exec"
	"path/filepath"
)

// program386 is the smallest program of 32 bits: a header, one segment, and exit(0).
const program386 = "\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x02\x00\x03\x00\x01\x00\x00\x00\x54\x80\x04\x08\x34\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x34\x00\x20\x00\x01\x00\x00\x00\x00\x00\x00\x00" +
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x80\x04\x08\x00\x80\x04\x08" +
	"\x5d\x00\x00\x00\x5d\x00\x00\x00\x05\x00\x00\x00\x00\x10\x00\x00" +
	"\x31\xdb\x31\xc0\x40\xcd\x80\x0f\x0b" // xor ebx, ebx; xor eax, eax; inc eax; int 0x80; ud2

func init() {
	attacks["foreign-program"] = func() error {
		dir, err := os.MkdirTemp("", "foreign")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "program")
		if err := os.WriteFile(file, []byte(program386), 0o755); err != nil {
			return err
		}
		return exec.Command(file).Run()
	}
}
