// SPDX-License-Identifier: GPL-2.0-or-later

package main

import "golang.org/x/sys/unix"

// Newer architectures do not have these older system calls.
func init() {
	older := []uint32{unix.SYS_RENAMEAT, unix.SYS_RENAME, unix.SYS_MKDIR, unix.SYS_SYMLINK, unix.SYS_LINK}
	changes = append(changes, older...)
	nameCalls = append(append(nameCalls, older...), unix.SYS_UNLINK, unix.SYS_RMDIR)
}
