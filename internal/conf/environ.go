// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"slices"
	"strings"

	"dkms-kernel-install/internal/lazy"
)

// Environ returns env with extra, and without variables that must reach nothing that
// this program runs: those that control a compiler, those of a make that called this
// program, and the pass phrase of the signing key.
func Environ(env []string, extra ...string) []string {
	var out []string
	inKbuild := slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "sub_make_done=") })
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if dropped[name] || strings.HasPrefix(name, "BASH_FUNC_") {
			continue
		}
		if inKbuild && (strings.HasPrefix(name, "KBUILD_") || kbuild[name]) {
			continue
		}
		out = append(out, e)
	}
	return append(out, extra...)
}

// Confined returns what commands of builds and confs of packages get to see of env,
// with extra: what is for them, and nothing that the caller's environment may hold
// besides, such as passwords. If network is set, they see proxies.
func Confined(env []string, network bool, extra ...string) []string {
	env = slices.DeleteFunc(Environ(env), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return !passed().MatchString(name) && !(network && proxy().MatchString(name))
	})
	return append(env, extra...)
}

// unconfined returns the names of the variables of env that [Confined] leaves out.
func unconfined(env []string) (names []string) {
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if variable().MatchString(name) && !passed().MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

var (
	// passed matches what any program goes by, what steers kbuild, and what Makefiles
	// of NVIDIA's modules ask people to set.
	passed = lazy.Regexp(`^(?:PATH|HOME|TMPDIR|TZ|LANG|LC_.*|` +
		`ARCH|CROSS_COMPILE|LLVM|LLVM_IAS|KBUILD_.*|KCFLAGS|KCPPFLAGS|KAFLAGS|KRUSTFLAGS|SOURCE_DATE_EPOCH|` +
		`IGNORE_CC_MISMATCH|IGNORE_PREEMPT_RT_PRESENCE|IGNORE_XEN_PRESENCE)$`)
	proxy = lazy.Regexp(`^(?i:http_proxy|https_proxy|ftp_proxy|all_proxy|no_proxy)$`)
)

// SignPIN is the variable with the pass phrase of the key that modules are signed with,
// by the name that the kernel has for it.
const SignPIN = "KBUILD_SIGN_PIN"

var dropped = set("CC CXX CFLAGS CXXFLAGS LDFLAGS MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES GNUMAKEFLAGS " +
	SignPIN + " sub_make_done BASH_ENV ENV CDPATH GREP_OPTIONS LC_ALL LANGUAGE " +
	"kernelver arch module module_version kernel_source_dir kernel_config dkms_tree source_tree install_tree parallel_jobs")

// kbuild are the variables that the kernel's top Makefile exports besides KBUILD_*.
var kbuild = set("ARCH SRCARCH CROSS_COMPILE KERNELRELEASE KERNELVERSION VERSION PATCHLEVEL SUBLEVEL EXTRAVERSION " +
	"srctree objtree abs_srctree abs_objtree srcroot abs_output VPATH building_out_of_srctree need-config " +
	"LD AR NM STRIP OBJCOPY OBJDUMP READELF AS CPP HOSTCC HOSTCXX HOSTLD HOSTAR CHECK CHECKFLAGS MAKE Q quiet " +
	"LLVM LLVM_SUFFIX LINUXINCLUDE NOSTDINC_FLAGS USERINCLUDE CLANG_FLAGS INSTALL_MOD_PATH INSTALL_PATH MODLIB")

func set(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}
