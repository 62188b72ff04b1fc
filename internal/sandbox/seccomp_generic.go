// SPDX-License-Identifier: GPL-2.0-or-later

//go:build arm64 || riscv64

package sandbox

import "golang.org/x/sys/unix"

var only = []uint32{unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP}

var socketcall []uint32
