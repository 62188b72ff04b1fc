// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/tree"
)

func TestDecisive(t *testing.T) {
	for _, tt := range []struct{ name, log, want, hint string }{
		{"nothing", "", "", ""},
		{"only commands", "# command: make\n\n", "", ""},
		{"last line", "a\nb\n\n", "b", ""},
		{"compiler error before make's", "  CC [M]  toy.o\ntoy.c:3:1: warning: unused\ntoy.c:5:2: error: unknown type name 'u9'\nmake[2]: *** [toy.o] Error 1\nmake: *** [all] Error 2\n",
			"toy.c:5:2: error: unknown type name 'u9'", ""},
		{"the first of several", "a.c:1:1: fatal error: x.h: No such file or directory\nb.c:1:1: error: y\n", "a.c:1:1: fatal error: x.h: No such file or directory", ""},
		{"modpost", "ERROR: modpost: \"f\" [toy.ko] undefined!\nmake: *** [modules] Error 2\n", "ERROR: modpost: \"f\" [toy.ko] undefined!", ""},
		{"no compiler", "make: gcc: No such file or directory\nmake: *** [all] Error 127\n", "make: gcc: No such file or directory", "install the program gcc"},
		{"no program", "/bin/sh: 1: flex: not found\nmake: *** [all] Error 127\n", "/bin/sh: 1: flex: not found", "install the program flex"},
		{"no make", "dkms: line 4: make: command not found\n", "dkms: line 4: make: command not found", "install the program make"},
		{"another ABI", "make: *** [Makefile:2: all] Bad system call\n", "make: *** [Makefile:2: all] Bad system call", "build_sandbox"},
		{"disk full", "cc1: error writing: No space left on device\nmake: *** [all] Error 1\n", "cc1: error writing: No space left on device", "make room"},
		{"no rule", "make: *** No rule to make target 'modules'.  Stop.\nbye\n", "make: *** No rule to make target 'modules'.  Stop.", ""},
		{"configure", "checking for x... no\nconfigure: error: \n\t*** Unable to build\n", "configure: error: *** Unable to build", ""},
		{"configure, in one line", "configure: error: C compiler cannot create executables\nSee config.log\n", "configure: error: C compiler cannot create executables", "headers of the C library"},
		{"configure, in its directory", "checking whether the C compiler works... no\nconfigure: error: in `/tree/build':\nconfigure: error: C compiler cannot create executables\nSee `config.log' for more details\n",
			"configure: error: C compiler cannot create executables", "headers of the C library"},
		{"configure, in its directory, after a question", "checking whether we are cross compiling... configure: error: in '/tree/build':\nconfigure: error: cannot run C compiled programs.\n",
			"configure: error: cannot run C compiled programs.", "noexec"},
		{"configure, without a compiler", "configure: error: in `/tree/build':\nconfigure: error: no acceptable C compiler found in $PATH\n", "configure: error: no acceptable C compiler found in $PATH", "install a C compiler"},
		{"a symbol for the GPL", "ERROR: modpost: GPL-incompatible module toy.ko uses GPL-only symbol '__rcu_read_lock'\nmake[3]: *** [scripts/Makefile.modpost:145: Module.symvers] Error 1\n",
			"ERROR: modpost: GPL-incompatible module toy.ko uses GPL-only symbol '__rcu_read_lock'", "toy.ko is not under the GPL, and this kernel has __rcu_read_lock for modules that are"},
		{"a symbol for the GPL, before 5.10", "FATAL: modpost: GPL-incompatible module toy.ko uses GPL-only symbol 'kmalloc'\n", "FATAL: modpost: GPL-incompatible module toy.ko uses GPL-only symbol 'kmalloc'", "toy.ko is not under the GPL"},
		{"objtool of another system", "./tools/objtool/objtool: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by ./tools/objtool/objtool)\nmake[3]: *** [scripts/Makefile.build:243: toy.o] Error 1\n",
			"./tools/objtool/objtool: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by ./tools/objtool/objtool)", "install them again"},
		{"objtool that cannot be executed", "/bin/sh: 1: ./tools/objtool/objtool: not found\nmake[3]: *** [scripts/Makefile.build:243: toy.o] Error 127\n", "/bin/sh: 1: ./tools/objtool/objtool: not found", "headers are not whole"},
		{"objtool of another machine", "/bin/sh: 1: ./tools/objtool/objtool: Exec format error\nmake[3]: *** [x: toy.o] Error 126\n", "/bin/sh: 1: ./tools/objtool/objtool: Exec format error", "made for another system"},
		{"objtool without a library", "./tools/objtool/objtool: error while loading shared libraries: libelf.so.1: cannot open shared object file: No such file or directory\n",
			"./tools/objtool/objtool: error while loading shared libraries: libelf.so.1: cannot open shared object file: No such file or directory", "made for another system"},
		{"recordmcount of another machine", "./scripts/recordmcount: 1: ./scripts/recordmcount: Syntax error: \"(\" unexpected\nmake[1]: *** [/tree/build/toy.o] Error 2\n", "./scripts/recordmcount: 1: ./scripts/recordmcount: Syntax error: \"(\" unexpected", "made for another system"},
		{"a plugin of another machine", "cc1: error: cannot load plugin ./scripts/gcc-plugins/x.so: ./scripts/gcc-plugins/x.so: wrong ELF class: ELFCLASS64\n", "cc1: error: cannot load plugin ./scripts/gcc-plugins/x.so: ./scripts/gcc-plugins/x.so: wrong ELF class: ELFCLASS64", "made for another system"},
		{"no symbols, for nvidia's", "The Module.symvers file is missing, or does not contain any\nsymbols exported from the kernel.\nenvironment variable IGNORE_MISSING_MODULE_SYMVERS to 1.\nmake[2]: *** [/tree/build/Kbuild:181: module_symvers_sanity_check] Error 1\n",
			"The Module.symvers file is missing, or does not contain any", "install them again"},
		{"symbols of another version", "  MODPOST 1 modules\nFATAL: parse error in symbol dump file\nmake[2]: *** [__modpost] Error 1\n", "FATAL: parse error in symbol dump file", "Module.symvers"},
		{"no fixdep", "  CC [M]  toy.o\n/bin/sh: 1: scripts/basic/fixdep: not found\nmake[2]: *** [scripts/Makefile.build:287: toy.o] Error 127\n", "/bin/sh: 1: scripts/basic/fixdep: not found", "make modules_prepare"},
		{"headers not prepared", "  ERROR: Kernel configuration is invalid.\n         include/generated/autoconf.h or include/config/auto.conf are missing.\n", "ERROR: Kernel configuration is invalid.", "make modules_prepare"},
		{"a kernel of another gcc", "cc1: error: incompatible gcc/plugin versions\ncc1: error: failed to initialize plugin ./scripts/gcc-plugins/x.so\n", "cc1: error: incompatible gcc/plugin versions", "CONFIG_CC_VERSION_TEXT"},
		{"a kernel of clang", "gcc: error: unrecognized command-line option '-mretpoline-external-thunk'\n", "gcc: error: unrecognized command-line option '-mretpoline-external-thunk'", "CONFIG_CC_VERSION_TEXT"},
		{"an option of the package's own", "gcc: error: unrecognized command-line option '-Wno-new'\n", "gcc: error: unrecognized command-line option '-Wno-new'", ""},
		{"no crates", "error[E0463]: can't find crate for `kernel`\n\nerror: aborting due to 1 previous error\n", "error[E0463]: can't find crate for `kernel`", "rustc"},
		{"crates of another rustc", "error[E0514]: found crate `core` compiled by an incompatible version of rustc\n  |\n", "error[E0514]: found crate `core` compiled by an incompatible version of rustc", "CONFIG_RUSTC_VERSION_TEXT"},
		{"a file in another /tmp", "/bin/sh: 1: /tmp/gen.sh: No such file or directory\n", "/bin/sh: 1: /tmp/gen.sh: No such file or directory", "put /tmp/gen.sh elsewhere"},
		{"no linker below three makes", "make[3]: ld.lld: No such file or directory\nmake[3]: *** [scripts/Makefile.modfinal:56: toy.ko] Error 127\nmake[2]: *** [Makefile:1947: modules] Error 2\nmake[1]: *** [Makefile:240: __sub-make] Error 2\n",
			"make[3]: ld.lld: No such file or directory", "install the program ld.lld"},
		{"not executable", "/bin/sh: 1: ./gen.sh: Permission denied\nmake: *** [Makefile:2: all] Error 126\n", "/bin/sh: 1: ./gen.sh: Permission denied", "read ./gen.sh, and to run it"},
		{"headers that nobody may read", "make[1]: *** /usr/src/linux-headers-6.1: Permission denied.  Stop.\n", "make[1]: *** /usr/src/linux-headers-6.1: Permission denied.  Stop.", "read /usr/src/linux-headers-6.1"},
		{"only 126", "make: *** [Makefile:2: all] Error 126\n", "make: *** [Makefile:2: all] Error 126", "is not executable"},
		{"installs", "  CC [M]  toy.o\ninstall: cannot create regular file '/lib/modules/6.1/extra/toy.ko': Read-only file system\nmake: *** [Makefile:9: install] Error 1\n",
			"install: cannot create regular file '/lib/modules/6.1/extra/toy.ko': Read-only file system", "name a target that only builds"},
		{"what a command said before it failed", "make: Entering directory '/tree/build'\nUnable to find the Linux source tree.\nMakefile:16: recipe for target 'all' failed\nmake: *** [Makefile:20: check_kernel_dir] Error 1\nmake: Leaving directory '/tree/build'\n",
			"Unable to find the Linux source tree.", ""},
		{"a command that said nothing", "  CC [M]  toy.o\n  LD [M]  toy.ko\nmake[1]: *** [Makefile:2: modules] Error 2\nmake: *** [Makefile:1: all] Error 2\n", "make[1]: *** [Makefile:2: modules] Error 2", ""},
		{"a verbose make shows what it would say", "test -e include/config/auto.conf || (\t\t\\\necho >&2 \"  ERROR: Kernel configuration is invalid.\";\t\t\\\n/bin/false)\ntoy.c:1:2: error: no member named 'gem_free'\n",
			"toy.c:1:2: error: no member named 'gem_free'", ""},
		{"a program that was missing before", "/bin/sh: 1: bc: not found\ntoy.c:45:62: error: macro \"__DATE__\" might prevent reproducible builds [-Werror=date-time]\n",
			"toy.c:45:62: error: macro \"__DATE__\" might prevent reproducible builds [-Werror=date-time]", "install the program bc"},
		{"headers without module.lds", "make[4]: *** No rule to make target 'scripts/module.lds', needed by '/tree/build/toy.ko'.  Stop.\n", "make[4]: *** No rule to make target 'scripts/module.lds', needed by '/tree/build/toy.ko'.  Stop.", "headers are not whole"},
		{"headers without autoconf.h", "././include/linux/kconfig.h:5:10: fatal error: generated/autoconf.h: No such file or directory\n", "././include/linux/kconfig.h:5:10: fatal error: generated/autoconf.h: No such file or directory", "headers are not whole"},
		{"headers without macros.s", "Assembler messages:\nError: can't open arch/x86/kernel/macros.s for reading: No such file or directory\n", "Error: can't open arch/x86/kernel/macros.s for reading: No such file or directory", "headers are not whole"},
		{"an ARCH that kernels do not know", "/bin/sh: 1: bc: not found\nMakefile:669: arch/aarch64/Makefile: No such file or directory\nmake[1]: *** No rule to make target 'arch/aarch64/Makefile'.  Stop.\n", "Makefile:669: arch/aarch64/Makefile: No such file or directory", "aarch64 is arm64"},
		{"an empty ARCH", "Makefile:590: /usr/src/linux-headers-3.14.70/arch//Makefile: No such file or directory\n", "Makefile:590: /usr/src/linux-headers-3.14.70/arch//Makefile: No such file or directory", "without ARCH"},
		{"SUBDIRS", "Kconfig:34: can't open file \"Documentation/Kconfig\"\nmake[3]: *** [scripts/kconfig/Makefile:73: syncconfig] Error 1\n", "Kconfig:34: can't open file \"Documentation/Kconfig\"", "M= has to name"},
		{"SUBDIRS, where sources and objects are apart", "sh: 0: Can't open /usr/src/linux-headers-5.4.0-2-common/scripts/mkmakefile\nmake[2]: *** [x: outputmakefile] Error 127\n", "sh: 0: Can't open /usr/src/linux-headers-5.4.0-2-common/scripts/mkmakefile", "M= has to name"},
		{"SUBDIRS, and objtool first", "/usr/src/h/tools/build/Makefile.build:37: /usr/src/h/tools/build/Build.include: No such file or directory\nmake[4]: *** No rule to make target '/usr/src/h/tools/build/Build.include'.  Stop.\n",
			"/usr/src/h/tools/build/Makefile.build:37: /usr/src/h/tools/build/Build.include: No such file or directory", "M= has to name"},
		{"an empty M", "make[2]: *** No rule to make target 'arch/x86/entry/syscalls/syscall_32.tbl', needed by 'arch/x86/include/generated/uapi/asm/unistd_32.h'.  Stop.\n",
			"make[2]: *** No rule to make target 'arch/x86/entry/syscalls/syscall_32.tbl', needed by 'arch/x86/include/generated/uapi/asm/unistd_32.h'.  Stop.", "M= has to name"},
		{"M that leads nowhere", "Makefile:199: *** specified external module directory \"/x\" does not exist.  Stop.\n", "Makefile:199: *** specified external module directory \"/x\" does not exist.  Stop.", "correct MAKE"},
		{"M where no makefile is", "scripts/Makefile.build:41: /tree/build/Makefile: No such file or directory\nmake[2]: *** No rule to make target '/tree/build/Makefile'.  Stop.\n", "scripts/Makefile.build:41: /tree/build/Makefile: No such file or directory", "no Kbuild or Makefile"},
		{"half a compiler", "gcc: error trying to exec 'cc1': execvp: No such file or directory\nMakefile:974: *** \"Cannot generate ORC metadata for CONFIG_UNWINDER_ORC=y, please install libelf-dev\".  Stop.\n", "gcc: error trying to exec 'cc1': execvp: No such file or directory", "cc1, which the compiler starts"},
		{"no assembler", "gcc: fatal error: cannot execute 'as': execvp: No such file or directory\n", "gcc: fatal error: cannot execute 'as': execvp: No such file or directory", "as, which the compiler starts"},
		{"no libelf", "Makefile:933: *** \"Cannot generate ORC metadata for CONFIG_UNWINDER_ORC=y, please install libelf-dev, libelf-devel or elfutils-libelf-devel\".  Stop.\nmake: *** [all] Error 2\n",
			"Makefile:933: *** \"Cannot generate ORC metadata for CONFIG_UNWINDER_ORC=y, please install libelf-dev, libelf-devel or elfutils-libelf-devel\".  Stop.", "install the headers of libelf"},
		{"another compiler, by a check", "*** Failed CC version check. Bailing out! ***\nmake[2]: *** [Kbuild:180: cc_version_check] Error 1\n", "*** Failed CC version check. Bailing out! ***", "CONFIG_CC_VERSION_TEXT"},
		{"PREEMPT_RT", "*** Failed PREEMPT_RT sanity check. Bailing out! ***\nmake[2]: *** [Kbuild:187: preempt_rt_sanity_check] Error 1\n", "*** Failed PREEMPT_RT sanity check. Bailing out! ***", "kernels with PREEMPT_RT"},
		{"a command in one word", "dkms: line 5: make ARCH=arm -j4: command not found\n", "dkms: line 5: make ARCH=arm -j4: command not found", "end the inner quotes after make"},
		{"a command without a program", "dkms: line 5: -j8: command not found\n", "dkms: line 5: -j8: command not found", "no program before -j8"},
		{"no program for env", "/usr/bin/env: 'python': No such file or directory\nmake[2]: *** [x] Error 127\n", "/usr/bin/env: 'python': No such file or directory", "install the program python"},
		{"no interpreter", "/bin/sh: 1: ./gen.sh: not found\nmake: *** [Makefile:2: all] Error 127\n", "/bin/sh: 1: ./gen.sh: not found", "./gen.sh is missing, or the program that its first line names"},
		{"no interpreter, for make", "make: ./gen.sh: No such file or directory\nmake: *** [Makefile:2: all] Error 127\n", "make: ./gen.sh: No such file or directory", "./gen.sh is missing"},
		{"no interpreter, for bash", "/bin/bash: line 1: ./gen.sh: cannot execute: required file not found\nmake: *** [Makefile:2: all] Error 127\n", "/bin/bash: line 1: ./gen.sh: cannot execute: required file not found", "./gen.sh is missing"},
		{"no interpreter, before bash 5.2", "/bin/sh: ./gen.sh: /bin/bash^M: bad interpreter: No such file or directory\nmake: *** [Makefile:2: all] Error 126\n", "/bin/sh: ./gen.sh: /bin/bash^M: bad interpreter: No such file or directory", "./gen.sh is missing"},
		{"line ends of DOS, for env", "/usr/bin/env: 'bash\\r': No such file or directory\n", "/usr/bin/env: 'bash\\r': No such file or directory", "carriage return"},
		{"line ends of DOS, for dash", "gen.sh: 2: \r: not found\ngen.sh: 6: Syntax error: end of file unexpected (expecting \"then\")\n", "gen.sh: 2: \r: not found", "carriage return"},
		{"line ends of DOS, for bash", "gen.sh: line 3: $'\\r': command not found\n", "gen.sh: line 3: $'\\r': command not found", "carriage return"},
		{"no network", "curl: (6) Could not resolve host: git.kernel.org\nmake: *** [Makefile:40: sync-source] Error 6\n", "curl: (6) Could not resolve host: git.kernel.org", "NAME=network"},
		{"no network for wget", "wget: unable to resolve host address 'cdn.kernel.org'\nmake: *** [x] Error 4\n", "wget: unable to resolve host address 'cdn.kernel.org'", "NAME=network"},
		{"too many files", "make[3]: /bin/sh: Too many open files\nmake[3]: *** [x] Error 127\n", "make[3]: /bin/sh: Too many open files", "ulimit -n"},
		{"git", "fatal: detected dubious ownership in repository at '/tree/build'\nTo add an exception, call:\n\tgit config\nmake: *** [x] Error 128\n", "fatal: detected dubious ownership in repository at '/tree/build'", ""},
		{"memory", "cc1: fatal error: Killed signal terminated program cc1\ncompilation terminated.\n", "cc1: fatal error: Killed signal terminated program cc1", "fewer jobs"},
		{"disk full before an error", "x.c:1:1: error: y\n/tmp/a.s: fatal error: error writing to a.s: No space left on device\n", "/tmp/a.s: fatal error: error writing to a.s: No space left on device", "make room"},
		{"control characters stay for the report to clean", "x: error: \x1b[31mred\n", "x: error: \x1b[31mred", ""},
		{"not UTF-8", "x: error: \xff\n", "x: error: ?", ""},
		{"a long line", "x: error: " + strings.Repeat("a", 5000) + "\n", "x: error: " + strings.Repeat("a", 290) + "…", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, h := decisive(strings.NewReader(tt.log))
			if got != tt.want {
				t.Errorf("decisive line is %q, want %q", got, tt.want)
			}
			if tt.hint == "" && h != "" || !strings.Contains(h, tt.hint) {
				t.Errorf("hint is %q, want %q", h, tt.hint)
			}
		})
	}
}

func FuzzDecisive(f *testing.F) {
	f.Add("a: error: b\n")
	f.Fuzz(func(t *testing.T, log string) {
		if got, _ := decisive(strings.NewReader(log)); len(got) > 310 || strings.Contains(got, "\n") {
			t.Errorf("%q", got)
		}
	})
}

func TestQuote(t *testing.T) {
	for _, s := range []string{"", "a", "a b", "it's", "$(x)", "~", "/usr/src/a-1.0+b", "ü", "a\nb", "-n", "*", "`x`", "#"} {
		out, err := exec.Command("bash", "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s && s != "-n" {
			t.Errorf("quote(%q) = %s, which bash takes for %q (%v)", s, quote(s), out, err)
		}
	}
}

func TestMakeCommand(t *testing.T) {
	dir := t.TempDir()
	auto := filepath.Join(dir, "6.1/build/include/config/auto.conf")
	if err := os.MkdirAll(filepath.Dir(auto), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		make, config string
		jobs         int
		want         string
	}{
		{"", "", 0, "make KERNELRELEASE=6.1 -C " + dir + "/6.1/build M=/tree/toy/1.0/build"},
		{"make", "", 0, "make KERNELRELEASE=6.1"},
		{"make all", "", 3, "make -j3 KERNELRELEASE=6.1 all"},
		{"make all", "", -1, "make -j KERNELRELEASE=6.1 all"},
		{"make all X='a b'", "", 0, "make KERNELRELEASE=6.1 all X='a b'"},
		{"'make' all", "", 0, "'make' all"},
		{"makefile.sh", "", 0, "makefile.sh"},
		{"cd src && make", "", 0, "cd src && make"},
		{"make\tall && make more", "", 0, "make KERNELRELEASE=6.1\tall && make more"},
		{"make all", "CONFIG_LD_IS_LLD=y\n", 0, "make KERNELRELEASE=6.1 LLVM=1 LD=ld.lld all"},
	} {
		if err := os.WriteFile(auto, []byte(tt.config), 0o644); err != nil {
			t.Fatal(err)
		}
		d := Description{
			Environment: Environment{ID: tree.ID{Name: "toy", Version: "1.0"}, Kernel: kernel.Dirs{Modules: dir}.Kernel("6.1", "x86_64")},
			Tree:        tree.Tree{Dir: "/tree"}, Jobs: tt.jobs, Conf: conf.Conf{Make: tt.make},
		}
		if got := d.makeCommand(); got != tt.want {
			t.Errorf("MAKE=%q: %q, want %q", tt.make, got, tt.want)
		}
	}
}
