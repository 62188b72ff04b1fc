// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import "golang.org/x/sys/unix"

var only = []uint32{unix.SYS_IPC, unix.SYS_SEMTIMEDOP, unix.SYS_INOTIFY_INIT, unix.SYS_UMOUNT}

var socketcall = []uint32{unix.SYS_SOCKETCALL}
