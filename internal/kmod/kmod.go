// Package kmod handles one kernel module file, a .ko: it reads and checks what the module says of itself, signs it
// in the kernel's format, and compresses and decompresses it. It knows nothing of the trees that modules live in.
//
// Modules are trusted to be neither whole nor honest: every size in one is checked before it is used.
package kmod

import (
	"fmt"
	"strings"
)

// MaxSize is the size in bytes of the largest module that this package reads, uncompressed. Real ones with
// all of their debug information reach some hundred megabytes.
const MaxSize = 1 << 30

// Compression is how a module file is compressed.
type Compression int

// The compressions that the kernel's own build has (CONFIG_MODULE_COMPRESS_*).
const (
	None Compression = iota
	Gzip
	XZ
	Zstd
)

var extensions = [...]string{None: "", Gzip: ".gz", XZ: ".xz", Zstd: ".zst"}

// Ext is what a module's file name has after ".ko": "", ".gz", ".xz" or ".zst".
func (c Compression) Ext() string {
	return extensions[c]
}

// String is the compression's name: "none", "gzip", "xz" or "zstd".
func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case XZ:
		return "xz"
	case Zstd:
		return "zstd"
	default:
		return fmt.Sprintf("Compression(%d)", int(c))
	}
}

// SplitName splits a module's file name, such as "foo.ko.xz", into "foo" and XZ. It reports false when file, which
// has no directory in it, is not the name of a module file.
func SplitName(file string) (name string, c Compression, ok bool) {
	for i, ext := range extensions {
		name, ok = strings.CutSuffix(file, ".ko"+ext)
		if ok && name != "" && !strings.Contains(name, "/") {
			return name, Compression(i), true
		}
	}
	return "", None, false
}
