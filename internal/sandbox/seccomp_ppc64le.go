// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import "golang.org/x/sys/unix"

var only = []uint32{unix.SYS_IPC, unix.SYS_SEMTIMEDOP, unix.SYS_INOTIFY_INIT, unix.SYS_UMOUNT, unix.SYS_SOCKETCALL}

var socketcall []uint32 // C libraries do without
