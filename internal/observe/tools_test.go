// SPDX-License-Identifier: GPL-2.0-or-later

package observe

import (
	"strings"
	"testing"
)

func TestNamedTools(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"make -C /lib/modules/6.1/build M=/var/lib/dkms/toy/1.0/build": "",
		"make CC=gcc-12":                                   "gcc-12",
		"CC=gcc-12 make HOSTCC=cc LD='ld.x'":               "cc gcc-12 ld.x",
		`make "CC=ccache gcc-12 -m32"`:                     "ccache gcc-12",
		`make CC="ccache gcc-12 -m32"; true`:               "ccache gcc-12",
		"make CC=;make MYCC=gcc-9 SUBCC=x":                 "",
		"make CC=$CC":                                      "$CC",
		"make LLVM=$V":                                     "$V",
		"make CC='gcc -B$V'":                               "gcc -B$V",
		"make LLVM=1":                                      "clang ld.lld",
		"make LLVM=-17":                                    "clang-17 ld.lld-17",
		"make LLVM=/opt/llvm/bin/":                         "/opt/llvm/bin/clang /opt/llvm/bin/ld.lld",
		"make ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-": "aarch64-linux-gnu-gcc aarch64-linux-gnu-ld",
	} {
		if got := namedTools([]string{text}); strings.Join(got, " ") != want {
			t.Errorf("namedTools(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestCommandWords(t *testing.T) {
	for text, want := range map[string]string{
		"gen-tool >x.h && make -C /k M=$(pwd)/src": "gen-tool x.h make -C /k M pwd /src",
		`'make' "CC=ccache gcc-12"; /opt/a.sh|tee`: "make CC ccache gcc-12 /opt/a.sh tee",
		"./configure .. `which perl`":              "./configure which perl",
	} {
		if got := commandWords(text); strings.Join(got, " ") != want {
			t.Errorf("commandWords(%q) = %q, want %q", text, got, want)
		}
	}
	for program, want := range map[string]bool{"gcc": true, "gcc-12": true, "x86_64-linux-gnu-gcc-14": true, "clang": true, "cc": true, "ccache": false, "make": false, "mcc": false} {
		if isCompiler(program) != want {
			t.Errorf("%s is a compiler: %v", program, !want)
		}
	}
}
