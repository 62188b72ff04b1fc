// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import "golang.org/x/sys/unix"

// only are more system calls to deny, which not all architectures have.
var only = []uint32{unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_INOTIFY_INIT}

// socketcall is socketcall(2), if C libraries use it.
var socketcall []uint32
