// SPDX-License-Identifier: GPL-2.0-or-later

package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/codec"
)

// files writes files below a new directory, the install tree, and returns that.
func files(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestList(t *testing.T) {
	dir := files(t, map[string]string{"6.10/x": "", "6.9/x": "", "6.9-rt/x": "", "file": ""})
	got, err := Dirs{Modules: dir}.List()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"6.9", "6.9-rt", "6.10"}, got); diff != "" {
		t.Error(diff)
	}
	if got, err := (Dirs{Modules: filepath.Join(dir, "none")}).List(); got != nil || err != nil {
		t.Errorf("a missing directory has %q, %v", got, err)
	}
}

func TestConfig(t *testing.T) {
	dir := files(t, map[string]string{
		"6.9/build/Makefile": "", "6.8/build/include/x.h": "",
		"6.9/build/include/config/auto.conf": "# comment\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_MODULE_SIG_HASH=\"sha512\"\nCONFIG_N=12\n",
	})
	k := Dirs{Modules: dir}.Kernel("6.9", "x86_64")
	for option, want := range map[string]bool{"CONFIG_A": true, "CONFIG_B": true, "CONFIG_N": false, "CONFIG_C": false} {
		if got, err := k.Enabled(option); got != want || err != nil {
			t.Errorf("%s: %v, %v", option, got, err)
		}
	}
	if k.SignHash() != "sha512" || !k.HasHeaders() || !k.Exists() {
		t.Errorf("hash %q, headers %v, exists %v", k.SignHash(), k.HasHeaders(), k.Exists())
	}
	if got := (Dirs{Modules: dir}).Kernel("6.8", "x86_64").LacksHeaders(); got != filepath.Join(dir, "6.8/build/Makefile") {
		t.Errorf("of headers without a makefile, this is missing: %q", got)
	}
	gone := Dirs{Modules: dir}.Kernel("0.0-none", "x86_64")
	if _, err := gone.Enabled("CONFIG_A"); err == nil || gone.HasHeaders() || gone.Exists() || gone.SignHash() != "" {
		t.Errorf("a kernel that does not exist has something: %v", err)
	}
}

func TestCompression(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  codec.Compression
	}{
		{"nothing", nil, codec.None},
		{"plain", map[string]string{"6.9/kernel/a/x.ko": ""}, codec.None},
		{"xz", map[string]string{"6.9/kernel/a/readme": "", "6.9/kernel/a/x.ko.xz": ""}, codec.XZ},
		{"zst", map[string]string{"6.9/kernel/a/b/x.ko.zst": ""}, codec.Zstd},
		{"gz", map[string]string{"6.9/kernel/x.ko.gz": ""}, codec.Gzip},
		{"files beat the configuration", map[string]string{"6.9/kernel/x.ko": "", "6.9/build/include/config/auto.conf": "CONFIG_MODULE_COMPRESS_XZ=y\n"}, codec.None},
		{"configuration", map[string]string{"6.9/build/include/config/auto.conf": "CONFIG_MODULE_COMPRESS_ZSTD=y\n"}, codec.Zstd},
		{"not those of others", map[string]string{"6.9/updates/x.ko.gz": "", "6.9/kernel/x.ko.xz": ""}, codec.XZ},
	} {
		if got := (Dirs{Modules: files(t, tt.files)}).Kernel("6.9", "x86_64").Compression(); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestCompiler(t *testing.T) {
	bin := files(t, map[string]string{"gcc-12": "", "clang-17": ""})
	t.Setenv("PATH", bin)
	for _, tt := range []struct {
		name, config string
		want         Compiler
	}{
		{"none", "", Compiler{Strip: "strip"}},
		{"gcc", `CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0) 12.2.0"`, Compiler{CC: "gcc-12", Strip: "strip"}},
		{"gcc without quotes", "CONFIG_CC_VERSION_TEXT=gcc-12 (Debian 12.2.0) 12.2.0", Compiler{CC: "gcc-12", Strip: "strip"}},
		{"one word without quotes", "CONFIG_CC_VERSION_TEXT=gcc-12", Compiler{CC: "gcc-12", Strip: "strip"}},
		{"clang without quotes", "CONFIG_CC_IS_CLANG=y\nCONFIG_CC_VERSION_TEXT=clang version 17.0.6", Compiler{CC: "clang-17", Strip: "llvm-strip-17", Args: []string{"LLVM=-17", "CC=clang-17"}}},
		{"gcc that is not here", `CONFIG_CC_VERSION_TEXT="x86_64-linux-gnu-gcc-14 (Debian) 14.2"`, Compiler{Strip: "strip"}},
		{"clang", "CONFIG_CC_IS_CLANG=y\nCONFIG_LD_IS_LLD=y\n" + `CONFIG_CC_VERSION_TEXT="Debian clang version 17.0.6"`,
			Compiler{CC: "clang-17", Strip: "llvm-strip-17", Args: []string{"LLVM=-17", "CC=clang-17", "LD=ld.lld-17"}}},
		{"clang that is not here", "CONFIG_CC_IS_CLANG=y\n" + `CONFIG_CC_VERSION_TEXT="clang version 19.1"`,
			Compiler{CC: "clang", Strip: "llvm-strip", Args: []string{"LLVM=1", "CC=clang"}}},
	} {
		dir := files(t, map[string]string{"6.9/build/include/config/auto.conf": tt.config + "\n"})
		if diff := cmp.Diff(tt.want, (Dirs{Modules: dir}).Kernel("6.9", "x86_64").Compiler()); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// On most systems /lib is a link: then a relative link to the headers leads elsewhere than
// its path says.
func TestLacksHeaders(t *testing.T) {
	dir := t.TempDir()
	headers := dir + "/usr/src/headers"
	if err := errors.Join(os.MkdirAll(dir+"/usr/lib/modules/6.1", 0o755), os.MkdirAll(headers+"/include", 0o755), os.WriteFile(headers+"/Makefile", nil, 0o644),
		os.Symlink("usr/lib", dir+"/lib"), os.Symlink("../../../src/headers", dir+"/usr/lib/modules/6.1/build")); err != nil {
		t.Fatal(err)
	}
	k := Dirs{Modules: dir + "/lib/modules"}.Kernel("6.1", "x86_64")
	if lacks := k.LacksHeaders(); lacks != "" {
		t.Errorf("it lacks %s", lacks)
	}
	if err := os.RemoveAll(headers); err != nil {
		t.Fatal(err)
	}
	if lacks, want := k.LacksHeaders(), headers+", where "+dir+"/lib/modules/6.1/build leads,"; lacks != want {
		t.Errorf("it lacks %s; want %s", lacks, want)
	}
}
