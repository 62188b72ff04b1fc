// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func kernelConfig(option string) (bool, error) {
	return option == "CONFIG_PCI" || option == "CONFIG_DRM", nil
}

// read evaluates text as the dkms.conf of toy/1.0.
func read(t *testing.T, sh *Shell, text string, change ...func(*Source, *Settings)) (Conf, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "dkms.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	src := Source{
		File: file, Module: "toy", Version: "1.0", Release: "6.12.1-amd64", Arch: "x86_64",
		KernelSourceDir: "/lib/modules/6.12.1-amd64/build", KernelConfigFile: "/boot/config", Config: kernelConfig,
	}
	set, err := settings(values{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	set.ParallelJobs = 3
	for _, f := range change {
		f(&src, &set)
	}
	return sh.Read(src, set)
}

const minimal = `
PACKAGE_NAME=toy
PACKAGE_VERSION=1.0
DEST_MODULE_LOCATION=/extra
`

var toy = Module{BuiltName: "toy", BuiltLocation: ".", DestName: "toy", DestLocation: "/extra", Strip: true}

// Variables of the environment are not directives: STRIP or MAKE may have other
// meanings there, and NO_WEAK_MODULES other values.
func TestEnvironment(t *testing.T) {
	for _, name := range confNames {
		t.Setenv(name, "1")
	}
	sh := &Shell{}
	defer sh.Close()
	c, err := read(t, sh, minimal)
	if diff := cmp.Diff(Conf{Name: "toy", Version: "1.0", Modules: []Module{toy}}, c); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// readTest adds text to the conf minimal, and says what that changes in the Conf.
type readTest struct {
	name string
	text string
	want func(*Conf)
}

// testRead reads confs, each with a file VERSION beside it.
func testRead(t *testing.T, tests []readTest) {
	t.Helper()
	sh := &Shell{}
	defer sh.Close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := Conf{Name: "toy", Version: "1.0", Modules: []Module{toy}}
			tt.want(&want)
			got, err := read(t, sh, minimal+tt.text, func(src *Source, _ *Settings) {
				if err := os.WriteFile(filepath.Join(filepath.Dir(src.File), "VERSION"), []byte("4.5\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRead(t *testing.T) {
	testRead(t, []readTest{
		{"minimal", "", func(c *Conf) {}},
		{"CR LF", "AUTOINSTALL=yes\r\nMAKE[0]=\"make all\"\r\n", func(c *Conf) {
			c.Autoinstall = true
			c.Make = "make all"
		}},
		{"variables", `MAKE="make $kernelver $arch $kernel_source_dir $kernel_config $dkms_tree $source_tree $install_tree $module $module_version $parallel_jobs"`, func(c *Conf) {
			c.Make = "make 6.12.1-amd64 x86_64 /lib/modules/6.12.1-amd64/build /boot/config /var/lib/dkms /usr/src /lib/modules toy 1.0 3"
		}},
		{"conditionals, functions and substitutions", `
			f() { local x=$1; echo "$x-$x"; }
			if [[ $kernelver == 6.* ]]; then MAKE[0]="make $(f a)"; else MAKE[0]=no; fi
			for i in 1 2 3; do :; done; [ a = b ]`, func(c *Conf) { c.Make = "make a-a" }},
		{"sparse arrays", `
			BUILT_MODULE_NAME[2]=a; DEST_MODULE_LOCATION[2]=/kernel-add/drivers
			BUILT_MODULE_NAME[40]=b; DEST_MODULE_NAME[40]=c; DEST_MODULE_LOCATION[40]=/updates/x/; BUILT_MODULE_LOCATION[40]=src/b/
			BUILT_MODULE_NAME[0]=toy; STRIP[0]=no; STRIP[40]=yes`, func(c *Conf) {
			c.Modules = []Module{
				{BuiltName: "toy", BuiltLocation: ".", DestName: "toy", DestLocation: "/extra"},
				{BuiltName: "a", BuiltLocation: ".", DestName: "a", DestLocation: "/kernel-add/drivers"},
				{BuiltName: "b", BuiltLocation: "src/b", DestName: "c", DestLocation: "/updates/x", Strip: true},
			}
		}},
		{"unset variables under set -u", "set -u; MAKE=make", func(c *Conf) { c.Make = "make" }},
		{"set -e, IFS, traps and options", `set -efu; IFS=,; trap 'echo $RANDOM' DEBUG; trap 'echo x >&2' EXIT; shopt -s nocasematch; MAKE="a b"`, func(c *Conf) { c.Make = "a b" }},
		{"functions with the names of builtins", `printf() { echo no; }; MAKE=x`, func(c *Conf) { c.Make = "x" }},
		{"gaps in PATCH", `PATCH[0]=a.patch; PATCH[2]=b.patch; PATCH[3]=c.patch; PATCH_MATCH[1]=x`, func(c *Conf) {
			c.Patches = []string{"a.patch", "b.patch"}
			c.Warnings = []string{`PATCH[3], "c.patch", is passed over, since there is no PATCH[1]: number them from 0 without gaps`}
		}},
		{"PATCH from 1", `PATCH[1]=a.patch`, func(c *Conf) {
			c.Warnings = []string{`PATCH[1], "a.patch", is passed over, since there is no PATCH[0]: number them from 0 without gaps`}
		}},
		{"empty elements are no gaps", `PATCH=(a.patch "" b.patch); PATCH[9]=`, func(c *Conf) { c.Patches = []string{"a.patch", "b.patch"} }},
		{"patterns that are passed over are not read", `PATCH[5]=a.patch; PATCH_MATCH[5]='('`, func(c *Conf) {
			c.Warnings = []string{`PATCH[5], "a.patch", is passed over, since there is no PATCH[0]: number them from 0 without gaps`}
		}},
		{"gaps in MAKE", `MAKE[0]=a; MAKE[2]=b; MAKE_MATCH[2]=.; MAKE_MATCH[1]=.`, func(c *Conf) {
			c.Make = "a"
			c.Warnings = []string{`MAKE[2], "b", is passed over, since there is no MAKE[1]: number them from 0 without gaps`}
		}},
		{"MAKE from 1", `MAKE[1]=b; MAKE_MATCH[1]=.`, func(c *Conf) {
			c.Warnings = []string{`MAKE[1], "b", is passed over, since there is no MAKE[0]: number them from 0 without gaps`}
		}},
		{"destination with ..", "DEST_MODULE_LOCATION=/kernel/../updates/", func(c *Conf) { c.Modules[0].DestLocation = "/updates" }},
		{"destination elsewhere", "DEST_MODULE_LOCATION=/kernel/../misc/a//b/../", func(c *Conf) { c.Modules[0].DestLocation = "/misc/a" }},
		{"destination with .. at its end", "DEST_MODULE_LOCATION=/kernel/a/..", func(c *Conf) { c.Modules[0].DestLocation = "/kernel" }},
		{"destination that begins like the headers", "DEST_MODULE_LOCATION=/kernel/../builds", func(c *Conf) { c.Modules[0].DestLocation = "/builds" }},
		{"no module", "unset DEST_MODULE_LOCATION; MAKE=true", func(c *Conf) {
			c.Modules, c.Make = nil, "true"
			c.Warnings = []string{"it names no module: MAKE runs, and nothing is placed"}
		}},
		{"module names with slashes", `
			BUILT_MODULE_NAME=(master/ec_master devices/ec_x); BUILT_MODULE_LOCATION[1]=./src/
			DEST_MODULE_NAME=(ec_master); DEST_MODULE_LOCATION[1]=/extra`, func(c *Conf) {
			c.Modules = []Module{
				{BuiltName: "ec_master", BuiltLocation: "master", DestName: "ec_master", DestLocation: "/extra", Strip: true},
				{BuiltName: "ec_x", BuiltLocation: "src/devices", DestName: "ec_x", DestLocation: "/extra", Strip: true},
			}
		}},
		{"module name with .. inside", "BUILT_MODULE_LOCATION=a; BUILT_MODULE_NAME=../b/toy", func(c *Conf) { c.Modules[0].BuiltLocation = "b" }},
		{"records from 1", `unset DEST_MODULE_LOCATION; BUILT_MODULE_NAME[1]=toy; DEST_MODULE_LOCATION[1]=/extra`, func(c *Conf) {}},
		{"override_dest_module_location", "DEST_MODULE_LOCATION=$(override_dest_module_location /kernel/../misc)", func(c *Conf) { c.Modules[0].DestLocation = "/misc" }},
		{"override_dest_module_location with nothing", `set -u; printf() { echo no; }; MAKE="make $(override_dest_module_location)x"`, func(c *Conf) { c.Make = "make x" }},
		{"a pattern that is none", `BUILD_EXCLUSIVE_KERNEL='^(?!5)'`, func(c *Conf) {
			c.Excluded = "it is only for kernels that match ^(?!5), which is no extended regular expression, and so matches nothing"
			c.Warnings = []string{`BUILD_EXCLUSIVE_KERNEL[0]: "^(?!5)" is no extended regular expression, and so matches nothing`}
		}},
		{"a pattern for the architecture that is none", `BUILD_EXCLUSIVE_ARCH='('`, func(c *Conf) {
			c.Excluded = "it is only for architectures that match (, which is no extended regular expression, and so matches nothing"
			c.Warnings = []string{`BUILD_EXCLUSIVE_ARCH[0]: "(" is no extended regular expression, and so matches nothing`}
		}},
		{"patterns for commands that are none", `MAKE=a; MAKE[1]=b; MAKE_MATCH[1]='(('; PATCH=(a b); PATCH_MATCH[1]='['`, func(c *Conf) {
			c.Make = "a"
			c.Warnings = []string{
				`MAKE_MATCH[1]: "((" is no extended regular expression, and so matches nothing`,
				`PATCH_MATCH[1]: "[" is no extended regular expression, and so matches nothing`,
			}
			c.Patches = []string{"a"}
		}},
		{"a placeholder as the first kernel", `BUILD_EXCLUSIVE_KERNEL_MIN="#MODULE_VERSION#"`, func(c *Conf) {
			c.Excluded = "it is only for kernels from #MODULE_VERSION# on"
		}},
		{"a placeholder as the last kernel", `BUILD_EXCLUSIVE_KERNEL_MAX="#MODULE_VERSION#"`, func(c *Conf) {}},
		{"another placeholder", `BUILD_EXCLUSIVE_KERNEL_MIN=@PKGVER@`, func(c *Conf) { c.Excluded = "it is only for kernels from @PKGVER@ on" }},
		{"unicode", `MAKE="make 'größe' 模块"`, func(c *Conf) { c.Make = "make 'größe' 模块" }},
		{"line breaks in values", "PRE_BUILD='a\n b'", func(c *Conf) { c.PreBuild = "a\n b" }},
		{"return", "MAKE=x\nreturn 3\nMAKE=y", func(c *Conf) { c.Make = "x" }},
		{"local", "local MAKE=x", func(c *Conf) { c.Make = "x" }},
		{"readonly", "readonly MAKE=x", func(c *Conf) { c.Make = "x" }},
		{"an associative array", "declare -A MAKE=([a]=b)", func(c *Conf) {}},
		{"megabytes of output", `head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; yes x | head -c 10000000 >&2; MAKE=x`, func(c *Conf) { c.Make = "x" }},
		{"reading standard input", "read -r MAKE; cat", func(c *Conf) {}},
		{"NULs", "MA\x00KE=x\x00", func(c *Conf) { c.Make = "x" }},
		{"no final line break", "MAKE=x", func(c *Conf) { c.Make = "x" }},
		{"MAKE_MATCH", `MAKE[0]=a; MAKE[1]=b; MAKE[2]=c; MAKE_MATCH[2]='^6\.(12|13)'; MAKE[3]=d; MAKE_MATCH[3]='^5'`, func(c *Conf) { c.Make = "c" }},
		{"MAKE_MATCH[0]", `MAKE[0]=a; MAKE_MATCH[0]='^5'`, func(c *Conf) {}},
		{"PATCH_MATCH", `PATCH[3]=d.patch; PATCH[0]=a.patch; PATCH[1]=b.patch; PATCH_MATCH[1]='^5'; PATCH[2]=c.patch; PATCH_MATCH[2]=amd64$`, func(c *Conf) {
			c.Patches = []string{"a.patch", "c.patch", "d.patch"}
		}},
		{"BUILD_DEPENDS", `BUILD_DEPENDS=(a b a); BUILD_DEPENDS_REBUILD=Yes`, func(c *Conf) {
			c.BuildDepends = []string{"a", "b"}
			c.BuildDependsRebuild = true
		}},
		{"retired directives", `CLEAN="make clean"; REMAKE_INITRD=yes; MODULES_CONF_OBSOLETE_ONLY[0]=x`, func(c *Conf) {
			c.Warnings = []string{"CLEAN is a retired directive", "REMAKE_INITRD is a retired directive", "MODULES_CONF_OBSOLETE_ONLY is a retired directive"}
		}},
		{"CLEAN=true", `CLEAN=true`, func(c *Conf) {}},
		{"kernel pattern", `BUILD_EXCLUSIVE_KERNEL='^5\.'`, func(c *Conf) { c.Excluded = `it is only for kernels that match ^5\.` }},
		{"kernel pattern matches", `BUILD_EXCLUSIVE_KERNEL='^(5|6)\.'`, func(c *Conf) {}},
		{"kernel too old", `BUILD_EXCLUSIVE_KERNEL_MIN=6.13`, func(c *Conf) { c.Excluded = "it is only for kernels from 6.13 on" }},
		{"kernel too new", `BUILD_EXCLUSIVE_KERNEL_MAX=6.12`, func(c *Conf) { c.Excluded = "it is only for kernels up to 6.12" }},
		{"kernel in range", `BUILD_EXCLUSIVE_KERNEL_MIN=6.12; BUILD_EXCLUSIVE_KERNEL_MAX=6.13`, func(c *Conf) {}},
		{"architecture", `BUILD_EXCLUSIVE_ARCH=aarch64`, func(c *Conf) { c.Excluded = "it is only for architectures that match aarch64" }},
		{"configuration", `BUILD_EXCLUSIVE_CONFIG="CONFIG_PCI !CONFIG_PREEMPT_RT CONFIG_DRM"`, func(c *Conf) {}},
		{"configuration lacks", `BUILD_EXCLUSIVE_CONFIG="CONFIG_PCI CONFIG_X"`, func(c *Conf) { c.Excluded = "it is only for kernels with CONFIG_X" }},
		{"configuration has", `BUILD_EXCLUSIVE_CONFIG="!CONFIG_PCI"`, func(c *Conf) { c.Excluded = "it is only for kernels without CONFIG_PCI" }},
		{"OBSOLETE_BY", `OBSOLETE_BY=6.10`, func(c *Conf) {
			c.Excluded = "OBSOLETE_BY is 6.10"
			c.Warnings = []string{"OBSOLETE_BY is a retired directive"}
		}},
		{"OBSOLETE_BY and KERNEL_MAX", `OBSOLETE_BY=6.10; BUILD_EXCLUSIVE_KERNEL_MAX=7`, func(c *Conf) {
			c.Warnings = []string{"OBSOLETE_BY is a retired directive"}
		}},
		{"one module excluded", `
			BUILT_MODULE_NAME[0]=toy
			BUILT_MODULE_NAME[1]=b; DEST_MODULE_LOCATION[1]=/extra; BUILD_EXCLUSIVE_KERNEL_MAX[1]=6.1`, func(c *Conf) {}},
		{"no module left", `
			DEST_MODULE_LOCATION=()
			BUILT_MODULE_NAME[1]=b; DEST_MODULE_LOCATION[1]=/extra; BUILD_EXCLUSIVE_KERNEL_MAX[1]=6.1`, func(c *Conf) {
			c.Modules = nil
			c.Excluded = "b.ko: it is only for kernels up to 6.1"
		}},
	})
}

// TestReadPublic has what public confs hold, each on its own.
func TestReadPublic(t *testing.T) {
	release, err := exec.Command("uname", "-r").Output()
	if err != nil {
		t.Fatal(err)
	}
	running := strings.TrimSpace(string(release))
	testRead(t, []readTest{
		{"placeholders as versions", `PACKAGE_VERSION="#MODULE_VERSION#"`, func(c *Conf) { c.Version = "#MODULE_VERSION#" }},
		{"placeholders without quotes", "PACKAGE_VERSION=#MODULE_VERSION#", func(c *Conf) { c.Version = "#MODULE_VERSION#" }},
		{"placeholders of autoconf", "PACKAGE_VERSION=@PKGVER@", func(c *Conf) { c.Version = "@PKGVER@" }},
		{"CR in values made of others", "PACKAGE_NAME=\"toy\"\r\nMAKE[0]=\"make -C src/$PACKAGE_NAME all\"\r\n", func(c *Conf) { c.Make = "make -C src/toy all" }},
		{"CR after patterns", "BUILD_EXCLUSIVE_KERNEL=\"^6\\.12.*amd64$\"\r\nBUILD_EXCLUSIVE_ARCH=\"x86_64$\"\r\nMAKE[1]=\"b\"\r\nMAKE_MATCH[1]=\"64$\"\r\nMAKE[0]=a\r\n", func(c *Conf) { c.Make = "b" }},
		{"CR and line breaks in a command", "MAKE=\"make\r\n  all\"\r\n", func(c *Conf) { c.Make = "make   all" }},
		{"a command over several lines", "MAKE=\"make -C $kernel_source_dir\n\tM=$dkms_tree\nmodules\"", func(c *Conf) {
			c.Make = "make -C /lib/modules/6.12.1-amd64/build \tM=/var/lib/dkms modules"
		}},
		{"lines that go on", "MAKE=\"make \\\n\tall\"; BUILD_EXCLUSIVE_CONFIG=\"CONFIG_PCI\n CONFIG_DRM\"", func(c *Conf) { c.Make = "make \tall" }},
		{"arrays over several lines", "BUILT_MODULE_NAME=(\n  a # the first\n  b\n)\nDEST_MODULE_LOCATION=(\n  /extra\n  /extra\n)\n", func(c *Conf) {
			a, b := toy, toy
			a.BuiltName, a.DestName, b.BuiltName, b.DestName = "a", "a", "b", "b"
			c.Modules = []Module{a, b}
		}},
		{"the running kernel", `MAKE="make KVERSION=$(uname -r)"`, func(c *Conf) { c.Make = "make KVERSION=" + running }},
		{"a file beside the conf", `PACKAGE_VERSION=$(cat "$(dirname "${BASH_SOURCE[0]}")/VERSION")`, func(c *Conf) { c.Version = "4.5" }},
		{"a file in the directory of the conf", `cd "${BASH_SOURCE%/*}"; PACKAGE_VERSION=$(< VERSION)`, func(c *Conf) { c.Version = "4.5" }},
		{"sed over kernelver", `MAKE="make V=$(echo $kernelver | sed -e 's/\([0-9]*\.[0-9]*\).*/\1/')"`, func(c *Conf) { c.Make = "make V=6.12" }},
		{"quoted quotes", `MAKE="'make' CFLAGS=\"-O2 -g\" X='a b'"`, func(c *Conf) { c.Make = `'make' CFLAGS="-O2 -g" X='a b'` }},
		{"unset and env", `MAKE="unset ARCH; env X=1 make all"`, func(c *Conf) { c.Make = "unset ARCH; env X=1 make all" }},
		{"variables for the command's shell", `MAKE='make -C ${dkms_tree}/$module'`, func(c *Conf) { c.Make = "make -C ${dkms_tree}/$module" }},
	})
}

// The tree uses some names itself: as the name by which a package is registered, or that
// by which its conf would have it registered.
func TestReserved(t *testing.T) {
	sh := &Shell{}
	defer sh.Close()
	for _, tt := range []struct{ name, version, confName, confVersion, want string }{
		{"", "", "toy", "1.0", ""},
		{"toy", "1.0", "mok.key", "original_module", ""}, // what it calls itself does not count
		{"toy.key", "kernel", "toy", "1.0", ""},
		{"", "", "mok.key", "1.0", `"mok.key" is not a package: the tree uses that name`},
		{"", "", "toy", "original_module", `"original_module" is not a version: the tree uses that name`},
		{"mok.pub", "1.0", "toy", "1.0", `"mok.pub" is not a package`},
		{"mok.pub.old", "1.0", "toy", "1.0", `"mok.pub.old" is not a package`},
		{"post_transaction.log", "1.0", "toy", "1.0", `"post_transaction.log" is not a package`},
		{"dkms_dbversion", "1.0", "toy", "1.0", `"dkms_dbversion" is not a package`},
		{"toy", "kernel-6.1-x86_64", "toy", "1.0", `"kernel-6.1-x86_64" is not a version`},
	} {
		text := fmt.Sprintf("PACKAGE_NAME=%s\nPACKAGE_VERSION=%s\nBUILT_MODULE_NAME=x\nDEST_MODULE_LOCATION=/extra\n", tt.confName, tt.confVersion)
		_, err := read(t, sh, text, func(src *Source, _ *Settings) { src.Module, src.Version = tt.name, tt.version })
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestReadErrors(t *testing.T) {
	sh := &Shell{}
	defer sh.Close()
	long := strings.Repeat("x", 256)
	for _, tt := range []struct{ name, text, want string }{
		{"exit", "exit 0", "it ended bash itself (exit status 0)"},
		{"failure under set -e", "set -e; false", "it ended bash itself (exit status 1)"},
		{"unset variable under set -u", "set -u; MAKE=$nowhere", "nowhere: unbound variable"},
		{"syntax error", "if true; then\nMAKE=x", "syntax error"},
		{"unclosed quote", "MAKE=\"x", "unexpected EOF"},
		{"CR LF in a conditional", "if true; then\r\nMAKE=x\r\nfi\r\n", "syntax error"},
		{"kills bash", "kill -9 $$; kill -9 $BASHPID", "bash"},
		{"execs", "exec true", "it ended bash itself"},
		{"sets too much", `MAKE=$(head -c 9000000 /dev/zero | tr '\0' x)`, "more than 8 MiB"},
		{"short AUTOINSTALL", `AUTOINSTALL="Y"`, `AUTOINSTALL must be yes or no, not "Y"`},
		{"AUTOINSTALL", "AUTOINSTALL=maybe", `AUTOINSTALL must be yes or no, not "maybe"`},
		{"no name", "PACKAGE_NAME=", "PACKAGE_NAME is missing"},
		{"no version", "unset PACKAGE_VERSION", "PACKAGE_VERSION is missing"},
		{"no version, for a reason", "PACKAGE_VERSION=$(echo 'fatal: not a git repository' >&2)", "PACKAGE_VERSION is missing; it printed: fatal: not a git repository"},
		{"name with a slash", "PACKAGE_NAME=../x", "PACKAGE_NAME"},
		{"name with a dash", "PACKAGE_NAME=-rf", "begins with a dash"},
		{"long name", "PACKAGE_NAME=" + long, "longer than 255 bytes"},
		{"name is ..", "PACKAGE_VERSION=..", `".." is not a name`},
		{"ko", "BUILT_MODULE_NAME=toy.ko", "ends in .ko"},
		{"o", "BUILT_MODULE_NAME=a; DEST_MODULE_NAME=toy.o", "ends in .o"},
		{"module name leads out", "BUILT_MODULE_NAME=../../etc/x", `BUILT_MODULE_NAME[0]: "../../etc" leads out`},
		{"module name leads out of its location", "BUILT_MODULE_LOCATION=a; BUILT_MODULE_NAME=b/../../../x", `BUILT_MODULE_NAME[0]: ".." leads out`},
		{"module name is a directory", "BUILT_MODULE_NAME=a/", "BUILT_MODULE_NAME[0]: it is empty"},
		{"module name ends in ..", "BUILT_MODULE_NAME=a/..", `BUILT_MODULE_NAME[0]: ".." is not a name`},
		{"both names with a slash", "BUILT_MODULE_NAME=a/b; DEST_MODULE_NAME=a/b", `DEST_MODULE_NAME[0]: "a/b" contains a slash`},
		{"one module by two names", "BUILT_MODULE_NAME=(a/b b); BUILT_MODULE_LOCATION[1]=a; DEST_MODULE_LOCATION[1]=/extra; DEST_MODULE_NAME[1]=c", "two records build a/b.ko"},
		{"no destination, a name", "unset DEST_MODULE_LOCATION; BUILT_MODULE_NAME=toy", "DEST_MODULE_LOCATION[0]: it is missing"},
		{"no destination, a place", "unset DEST_MODULE_LOCATION; BUILT_MODULE_LOCATION=src", "DEST_MODULE_LOCATION[0] is missing"},
		{"no destination, a new name", "unset DEST_MODULE_LOCATION; DEST_MODULE_NAME=x", "DEST_MODULE_LOCATION[0] is missing"},
		{"destination", "DEST_MODULE_LOCATION=/etc", `"/etc" does not begin with`},
		{"destination prefix", "DEST_MODULE_LOCATION=//extra", `"//extra" does not begin with`},
		{"relative destination", "DEST_MODULE_LOCATION=extra", `"extra" does not begin with`},
		{"destination leads out", "DEST_MODULE_LOCATION=/extra/../../../etc", "is no directory below /lib/modules/KERNEL"},
		{"destination leads out and back", "DEST_MODULE_LOCATION=/extra/../../6.1/extra", "is no directory below /lib/modules/KERNEL"},
		{"destination is the kernel's directory", "DEST_MODULE_LOCATION=/kernel/..", "is no directory below /lib/modules/KERNEL"},
		{"destination in the headers", "DEST_MODULE_LOCATION=/kernel/../build/scripts", "leads to the kernel's headers"},
		{"destination is the sources", "DEST_MODULE_LOCATION=/updates/../source/", "leads to the kernel's headers"},
		{"built location leads out", "BUILT_MODULE_LOCATION=../source", `"../source" leads out of the build directory, in which the modules must be built`},
		{"merge conflict", "A=1\n<<<<<<< HEAD\nB=2\n=======\nB=3\n>>>>>>> theirs\n", "line 6: syntax error near"},
		{"end of a merge conflict", "A=1\n>>>>>>> theirs\n", "line 6: syntax error near"},
		{"same built name", "BUILT_MODULE_NAME=(a a); DEST_MODULE_NAME=(a b); DEST_MODULE_LOCATION[1]=/extra", "two records build a.ko"},
		{"same destination name", "BUILT_MODULE_NAME=(a b); DEST_MODULE_NAME=(c c); DEST_MODULE_LOCATION[1]=/extra", "two records install c.ko"},
		{"alike built names", "BUILT_MODULE_NAME=(n-n n_n); DEST_MODULE_NAME=(a b); DEST_MODULE_LOCATION[1]=/extra", "two records build n-n.ko and n_n.ko, which are the same module for the kernel"},
		{"alike destination names", "BUILT_MODULE_NAME=(a b); DEST_MODULE_NAME=(n_-n n-_n); DEST_MODULE_LOCATION[1]=/extra", "two records install n_-n.ko and n-_n.ko, which are the same module for the kernel"},
		{"one of two names missing", "BUILT_MODULE_NAME[1]=b; DEST_MODULE_LOCATION[1]=/extra", "BUILT_MODULE_NAME[0] is missing"},
		{"one of two destinations missing", "BUILT_MODULE_NAME=(a b)", "DEST_MODULE_LOCATION[1]: it is missing"},
		{"bad dependency", "BUILD_DEPENDS=a/b", "BUILD_DEPENDS[0]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := read(t, sh, minimal+tt.text)
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one with %q", err, tt.want)
			}
			// One bad conf does not spoil the next.
			if _, err := read(t, sh, minimal); err != nil {
				t.Errorf("after it: %v", err)
			}
		})
	}
}

func TestReadBinary(t *testing.T) {
	sh := &Shell{}
	defer sh.Close()
	if _, err := read(t, sh, "\x7fELF"+strings.Repeat("\x00", 1000)); err == nil || !strings.Contains(err.Error(), "not a text file") {
		t.Errorf("error is %v", err)
	}
	if _, err := read(t, sh, minimal); err != nil {
		t.Error(err)
	}
}

func TestReadTimeout(t *testing.T) {
	for name, text := range map[string]string{
		"loop":       "while :; do :; done",
		"child":      "sleep 1000",
		"background": "sleep 1000 & disown; sleep 1000",
		"noise":      "yes",
		"noise 2":    "yes >&2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sh := &Shell{Timeout: 200 * time.Millisecond}
			defer sh.Close()
			if _, err := read(t, sh, minimal+text); err == nil || !strings.Contains(err.Error(), "did not end within") {
				t.Errorf("error is %v", err)
			}
			sh.Timeout = 0
			if _, err := read(t, sh, minimal); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOverrides(t *testing.T) {
	sh := &Shell{}
	defer sh.Close()
	etc := t.TempDir()
	want := "conf"
	for _, name := range []string{
		"toy", "toy-1.0", "toy-1.0-6.12.1-amd64", "toy-1.0-6.12.1-amd64-x86_64", "toy--6.12.1-amd64", "toy--6.12.1-amd64-x86_64",
	} {
		want += " " + name
		if err := os.WriteFile(filepath.Join(etc, name+".conf"), []byte(fmt.Sprintf("MAKE=\"$MAKE %s\"\n", name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := read(t, sh, minimal+"MAKE=conf", func(src *Source, set *Settings) {
		set.EtcDir = etc
		src.Directives = []string{"STRIP[0]=no", "POST_ADD=x=y $HOME"}
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Make != want || c.PostAdd != "x=y $HOME" || c.Modules[0].Strip {
		t.Errorf("MAKE is %q, want %q; conf %+v", c.Make, want, c)
	}
}

func TestAddonModulesDir(t *testing.T) {
	sh := &Shell{}
	defer sh.Close()
	// Some packages name impossible places, and get away with it on such distributions.
	c, err := read(t, sh, minimal+"DEST_MODULE_LOCATION=/kernel/../../misc/", func(_ *Source, set *Settings) { set.AddonModulesDir = "/updates/dkms" })
	if err != nil || c.Modules[0].DestLocation != "/updates/dkms" {
		t.Errorf("got %+v, %v", c, err)
	}
	// One may ask where that is. ADDON_MODULES_DIR may name any place.
	for _, dir := range []string{"/updates/dkms", "/addons"} {
		c, err := read(t, sh, minimal+"DEST_MODULE_LOCATION=$(override_dest_module_location /kernel/misc); MAKE=$DEST_MODULE_LOCATION",
			func(_ *Source, set *Settings) { set.AddonModulesDir = dir })
		if err != nil || c.Modules[0].DestLocation != dir || c.Make != dir {
			t.Errorf("%s: got %+v, %v", dir, c, err)
		}
	}
}

func TestReadSettings(t *testing.T) {
	for _, tt := range []struct {
		name    string
		files   map[string]string
		want    func(*Settings)
		wantErr string
		bash    bool
	}{
		{name: "none", want: func(*Settings) {}},
		{
			name:  "plain",
			files: map[string]string{"framework.conf": "# a comment\n\nsource_tree=\"/srv/src\"\nparallel_jobs=7 # seven\n mok_signing_key=/keys/a.key\nverbose=''\nunknown=x\nrequired_packages=\"zfs spl nvidia*\"\n"},
			want: func(s *Settings) {
				s.SourceTree, s.ParallelJobs, s.MOKSigningKey = "/srv/src", 7, "/keys/a.key"
				s.RequiredPackages = []string{"zfs", "spl", "nvidia*"}
			},
		},
		{
			name: "in order",
			files: map[string]string{
				"framework.conf":            "source_tree=/a\ndkms_tree=/b/\n",
				"framework.conf.d/20.conf":  "source_tree=/c\n",
				"framework.conf.d/10.conf":  "source_tree=/d\n",
				"framework.conf.d/30.other": "source_tree=/e\n",
			},
			want: func(s *Settings) { s.SourceTree, s.DkmsTree = "/c", "/b" },
		},
		{
			name:  "a script",
			files: map[string]string{"framework.conf": "build_environment=(A=1 'B=two words')\nsign_file=\"/usr/src/linux-$kernelver/scripts/sign-file\"\n[ -n x ] && try_sign_modules=true"},
			want: func(s *Settings) {
				s.BuildEnvironment = []string{"A=1", "B=two words"}
				s.SignFile = "/usr/src/linux-$kernelver/scripts/sign-file"
				s.TrySignModules = "true"
			},
			bash: true,
		},
		{name: "relative", files: map[string]string{"framework.conf": "dkms_tree=var/lib\n"}, wantErr: "not an absolute path"},
		{name: "cache", files: map[string]string{"framework.conf": "build_cache_size=0\nbuild_cache_days=3\n"},
			want: func(s *Settings) { s.BuildCacheSize, s.BuildCacheAge = 0, 3*24*time.Hour }},
		{name: "cache size", files: map[string]string{"framework.conf": "build_cache_size=1G\n"}, wantErr: "not a number of MiB"},
		{name: "cache days", files: map[string]string{"framework.conf": "build_cache_days=-1\n"}, wantErr: "not a number of days"},
		{name: "jobs", files: map[string]string{"framework.conf": "parallel_jobs=many\n"}, wantErr: "not a number"},
		{name: "glob", files: map[string]string{"framework.conf": "required_packages='['\n"}, wantErr: "not a glob"},
		{name: "syntax", files: map[string]string{"framework.conf": "if\n"}, wantErr: "syntax error", bash: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			if err := os.Mkdir(filepath.Join(etc, "framework.conf.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range tt.files {
				if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			sh := &Shell{}
			defer sh.Close()
			got, err := sh.ReadSettings(etc, "")
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error is %v, want one with %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want, _ := settings(values{}, etc)
			tt.want(&want)
			want.Overrides = map[string]bool{"framework.conf.d": true}
			for name := range tt.files {
				if filepath.Dir(name) == "." {
					want.Overrides[name] = true
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if started := sh.cancel != nil; started != tt.bash {
				t.Errorf("bash started: %v, want %v", started, tt.bash)
			}
		})
	}
}

// TestSettingsForKernel reads settings for a kernel: bash expands $kernelver in any way
// that it has.
func TestSettingsForKernel(t *testing.T) {
	etc := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(etc, "framework.conf"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh := &Shell{}
	defer sh.Close()
	for text, want := range map[string]PerKernel{
		"sign_file='/a-$kernelver/${kernelver}'":                             {SignFile: "/a-6.1-2/6.1-2"},
		"sign_file=\"/a-${kernelver%-*}\"":                                   {SignFile: "/a-6.1"},
		"mok_certificate=/k-$(echo $kernelver | tr -d 6)":                    {MOKCertificate: "/k-.1-2"},
		"mok_signing_key=/k\n[[ $kernelver == 6.1* ]] && mok_signing_key=/l": {MOKSigningKey: "/l"},
		"build_environment=/env-${kernelver//./_}":                           {BuildEnvironmentFile: "/env-6_1-2"},
		"build_environment=(A=${kernelver#6} 'B=$kernelver')":                {BuildEnvironment: []string{"A=.1-2", "B=6.1-2"}},
		"post_transaction=\"x ${kernelver%-*} \\$kernelver\"":                {PostTransaction: "x 6.1 $kernelver"},
	} {
		write(text)
		got, err := sh.ReadSettings(etc, "6.1-2")
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got.PerKernel); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	write("build_environment=(/file A=1)")
	if _, err := sh.ReadSettings(etc, ""); err == nil || !strings.Contains(err.Error(), `"/file" is not NAME=VALUE`) {
		t.Errorf("a file in a list: %v", err)
	}
}

func TestReadExports(t *testing.T) {
	sh := &Shell{Environ: []string{"PATH=" + os.Getenv("PATH"), "TZ=UTC", "LANG=dumb", "HIDDEN=old", "SECRET=secret"}}
	defer sh.Close()
	for name, tt := range map[string]struct {
		text, want, wantErr string
	}{
		"nothing": {},
		"exported": {text: "export B=\"for $kernelver\" A='two\nlines'\nC=hidden\ncd /tmp\nexport LANG",
			want: "A=two\nlines B=for 6.1"},
		"of the environment": {text: "LANG=new PATH=$PATH", want: "LANG=new"},
		"let through":        {text: "export HIDDEN A=$SECRET; SECRET=new", want: "A=secret HIDDEN=old"},
		"status":             {text: "export A=1\nfalse", want: "A=1"},
		"noise":              {text: "head -c 9000000 /dev/zero\nhead -c 9000000 /dev/zero >&2\nexport A=1", want: "A=1"},
		"IFS":                {text: "IFS=_; export A_B=1", want: "A_B=1"},
		"functions":          {text: "compgen() { :; }; f() { :; }; export -f f; export A=1", want: "A=1"},
		"exits":              {text: "exit 3", wantErr: "ended bash itself (exit status 3)"},
		"loops":              {text: "while :; do :; done", wantErr: "did not end within 1s"},
		"too much":           {text: "A=$(head -c 9000000 /dev/zero | tr '\\0' x); export A", wantErr: "sets more than 8 MiB"},
		"syntax":             {text: "if", wantErr: "syntax error"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "env")
			if err := os.WriteFile(file, []byte(tt.text), 0o644); err != nil {
				t.Fatal(err)
			}
			sh.Timeout = 0
			if name == "loops" {
				sh.Timeout = time.Second
			}
			got, err := sh.ReadExports(file, "6.1")
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error is %v, want one with %q", err, tt.wantErr)
				}
			} else if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	for _, file := range []string{"/dev/zero", "/", "/nonexistent"} {
		if got, err := sh.ReadExports(file, "6.1"); err == nil {
			t.Errorf("%s: got %q", file, got)
		}
	}
}

func TestEnviron(t *testing.T) {
	got := Environ([]string{"CC=x", "PATH=/bin", "KBUILD_X=1", "KBUILD_SIGN_PIN=x", "BASH_FUNC_f%%=() { :; }"}, "A=b")
	if diff := cmp.Diff([]string{"PATH=/bin", "KBUILD_X=1", "A=b"}, got); diff != "" {
		t.Error(diff)
	}
	got = Environ([]string{"sub_make_done=1", "KBUILD_X=1", "ARCH=x", "MAKEFLAGS=-k", "HOME=/"})
	if diff := cmp.Diff([]string{"HOME=/"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestConfined(t *testing.T) {
	env := []string{"PATH=/bin", "LC_TIME=C", "KBUILD_X=1", "KBUILD_SIGN_PIN=x", "http_proxy=p", "NO_PROXY=n", "XPATH=x", "PATHX=x", "TOKEN=x", "MAKE=x"}
	if diff := cmp.Diff([]string{"PATH=/bin", "LC_TIME=C", "KBUILD_X=1", "A=b"}, Confined(env, false, "A=b")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"PATH=/bin", "LC_TIME=C", "KBUILD_X=1", "http_proxy=p", "NO_PROXY=n"}, Confined(env, true)); diff != "" {
		t.Error(diff)
	}
}
