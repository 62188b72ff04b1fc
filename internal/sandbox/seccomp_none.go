// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !amd64 && !arm64 && !riscv64 && !ppc64le && !s390x

package sandbox

var only, socketcall []uint32
