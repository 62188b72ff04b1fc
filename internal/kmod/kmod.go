// SPDX-License-Identifier: GPL-2.0-or-later

// Package kmod handles one kernel module file, a .ko: it reads and checks what the
// module says of itself, signs it in the kernel's format, and compresses and
// decompresses it. It knows nothing of the trees that modules live in.
//
// Modules are trusted to be neither whole nor honest: every size in one is checked
// before it is used.
package kmod

import (
	"io"
	"path/filepath"
	"strings"

	"dkms-kernel-install/internal/codec"
)

// MaxSize is the size in bytes of the largest module that this package reads,
// uncompressed. Real ones with all of their debug information reach some hundred
// megabytes.
const MaxSize = 1 << 30

// compressions are those that the kernel's own build has for modules
// (CONFIG_MODULE_COMPRESS_*).
var compressions = []codec.Compression{codec.None, codec.Gzip, codec.XZ, codec.Zstd}

// SplitName splits a module's file name, such as "foo.ko.xz", into "foo" and XZ. It
// reports false if file, which has no directory in it, is not the name of a module
// file.
func SplitName(file string) (name string, c codec.Compression, ok bool) {
	for _, c := range compressions {
		name, ok = strings.CutSuffix(file, ".ko"+c.Suffix())
		if ok && name != "" && !strings.Contains(name, "/") {
			return name, c, true
		}
	}
	return "", codec.None, false
}

// Normal returns the name of a module as the kernel has it: with underscores for dashes,
// which it does not tell apart.
func Normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// ModuleName returns the name that the kernel has for the module in the file at path.
func ModuleName(path string) string {
	name, _, _ := SplitName(filepath.Base(path))
	return Normal(name)
}

// Compress writes module to dst, compressed with c as the kernel can read it if it has
// CONFIG_MODULE_DECOMPRESS. Level is that of [codec.WriterOptions]. The same module and
// level give the same bytes.
func Compress(dst io.Writer, module []byte, c codec.Compression, level int) error {
	return codec.Compress(dst, module, c, codec.WriterOptions{Kernel: true, Level: level})
}
