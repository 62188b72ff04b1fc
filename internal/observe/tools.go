// SPDX-License-Identifier: GPL-2.0-or-later

package observe

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/lazy"
)

// unknown stands for the version of a program that cannot be found out. It begins with a
// dollar, as does what a shell is to expand: a build with such a compiler has no key.
const unknown = "$unknown"

// tool matches the names of variables that name a program to build with, or a prefix or
// suffix of such programs.
var tool = lazy.Regexp(`^(?:(?:HOST|KERNEL_|TARGET_)?(?:CC|CXX|LD|AS|STRIP|OBJCOPY|RUSTC|PAHOLE)|LLVM|CROSS_COMPILE)$`)

// assigned calls do for each NAME=VALUE in a shell command whose NAME matches [tool]. A
// quote may begin before the name or after the equals sign.
func assigned(text string, do func(name, value string)) {
	for before, after, ok := strings.Cut(text, "="); ok; before, after, ok = strings.Cut(after, "=") {
		start := 1 + strings.LastIndexFunc(before, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
		if !tool().MatchString(before[start:]) {
			continue
		}
		value, end := after, " \t\r\n;&|"
		for _, q := range []string{`"`, "'"} {
			if strings.HasSuffix(before[:start], q) || strings.HasPrefix(after, q) {
				value, end = strings.TrimPrefix(after, q), q
			}
		}
		if i := strings.IndexAny(value, end); i >= 0 {
			value = value[:i]
		}
		do(before[start:], strings.Trim(value, `"'`))
	}
}

// namedTools returns the programs, sorted, that texts want used in place of the kernel's
// own; texts are shell commands and NAME=VALUE. What a shell is to expand is among them
// as it is written.
func namedTools(texts []string) (programs []string) {
	for _, text := range texts {
		assigned(text, func(name, value string) {
			switch {
			case value == "":
			case strings.ContainsAny(value, "$`"):
				programs = append(programs, value)
			case name == "CROSS_COMPILE":
				programs = append(programs, value+"gcc", value+"ld")
			case name == "LLVM" && strings.HasSuffix(value, "/"):
				programs = append(programs, value+"clang", value+"ld.lld")
			case name == "LLVM" && strings.HasPrefix(value, "-"):
				programs = append(programs, "clang"+value, "ld.lld"+value)
			case name == "LLVM":
				programs = append(programs, "clang", "ld.lld")
			default:
				for _, word := range strings.Fields(value) { // ccache gcc-14 -m32
					if word[0] != '-' {
						programs = append(programs, word)
					}
				}
			}
		})
	}
	slices.Sort(programs)
	return slices.Compact(programs)
}

// compiler matches the names of compilers of C.
var compiler = lazy.Regexp(`(?:^|[-/])(?:gcc|clang|cc)(?:-[0-9.]+)?$`)

func isCompiler(program string) bool { return compiler().MatchString(program) }

// commandWords returns the words of shell commands and of NAME=VALUE that may be names
// of programs.
func commandWords(texts ...string) (list []string) {
	for _, text := range texts {
		for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n;&|()<>{}`$'\"=,:", r) }) {
			if strings.Trim(word, "./") != "" {
				list = append(list, word)
			}
		}
	}
	return list
}

// Wrappers returns the programs that MAKE of directives, NAME=VALUE, names by absolute
// paths: executable files, and no links.
func Wrappers(directives []string) (list []string) {
	for _, d := range directives {
		name, value, _ := strings.Cut(d, "=")
		if name, _, _ = strings.Cut(name, "["); name != "MAKE" {
			continue
		}
		for _, word := range commandWords(value) {
			fi, err := os.Lstat(word)
			if err == nil && filepath.IsAbs(word) && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				list = append(list, filepath.Clean(word))
			}
		}
	}
	return list
}
