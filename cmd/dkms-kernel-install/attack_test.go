// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// attacks are what no build may do, by the name that scripts have for it. Each returns
// nil if it could be done.
var attacks = map[string]func() error{
	"read-key": func() error { return readKey("secret") },
	"find-key": func() error { return readKey("left") },
	"leave-key": func() error {
		_, err := unix.AddKey("user", "left", []byte("left"), unix.KEY_SPEC_SESSION_KEYRING)
		return err
	},
}

// readKey reads a key of the session keyring.
func readKey(name string) error {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", name, 0)
	if err == nil {
		_, err = unix.KeyctlBuffer(unix.KEYCTL_READ, id, make([]byte, 100), 0)
	}
	return err
}

// attack is the program
//
//	attack NAME...
//
// It tries these attacks, prints the names of those that succeed, and fails if none does.
func attack() {
	runtime.LockOSThread() // for those that change a thread
	status := 1
	for _, name := range os.Args[1:] {
		try, ok := attacks[name]
		if !ok {
			fmt.Println("unknown attack", name)
			unix.Exit(0)
		}
		if err := try(); err != nil {
			fmt.Fprintf(os.Stderr, "attack %s: %v\n", name, err)
			continue
		}
		fmt.Println(name)
		status = 0
	}
	unix.Exit(status)
}

// withKey is the program
//
//	withkey COMMAND...
//
// It runs a command in a new session keyring that has a key called secret.
func withKey() {
	runtime.LockOSThread()
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if err == nil {
		_, err = unix.AddKey("user", "secret", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
	}
	path, errPath := exec.LookPath(os.Args[1])
	if err == nil && errPath == nil {
		err = syscall.Exec(path, os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "withkey:", err, errPath)
	os.Exit(1)
}
