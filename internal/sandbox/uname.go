// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// unameDir is where worlds have a program uname, and what they see in /proc. It is in a
// directory that they do not see of the machine.
const unameDir = "/run/dkms-kernel-install"

// uname takes from uname(1) what it prints, and names another kernel in it.
const uname = `#!/bin/sh
running=%s kernel=%s
out=$(%s "$@") || exit
case $out in
*"$running"*) out=${out%%%%"$running"*}$kernel${out#*"$running"} ;;
esac
printf '%%s\n' "$out"
`

// nameKernel has uname and /proc name the kernel called s.Release. Many Makefiles ask
// them for which kernel to build. The system call itself cannot be answered otherwise.
func (s *spec) nameKernel() error {
	if s.Release == "" || !slices.Contains(s.Hide, filepath.Dir(unameDir)) {
		return nil
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	running := unix.ByteSliceToString(u.Release[:])
	if s.Release == running {
		return nil
	}
	program, err := exec.LookPath("uname")
	if err != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Dir(unameDir)); err != nil {
		return nil // it is not hidden, either
	}
	if err := os.Mkdir(unameDir, 0o755); err != nil {
		return err
	}
	script := fmt.Sprintf(uname, quote(running), quote(s.Release), quote(program))
	if err := os.WriteFile(filepath.Join(unameDir, "uname"), []byte(script), 0o755); err != nil {
		return err
	}
	for i, e := range s.Env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			s.Env[i] = "PATH=" + unameDir + ":" + path
		}
	}
	for _, file := range []string{"/proc/sys/kernel/osrelease", "/proc/version"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		other := filepath.Join(unameDir, filepath.Base(file))
		if err := os.WriteFile(other, []byte(strings.Replace(string(text), running, s.Release, 1)), 0o644); err != nil {
			return err
		}
		// Few ask there, and not every container allows it.
		_ = unix.Mount(other, file, "", unix.MS_BIND, "")
	}
	return nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
