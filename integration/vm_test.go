// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// BootAndLoad boots a kernel in a virtual machine, loads the module files there one after the other, and returns
// what vminit printed:
//
//	load NAME.ko.xz: ok            or the error
//	module NAME SIZE USERS …       the lines of /proc/modules
//	tainted NUMBER
//	dmesg …                        the last kernel messages
func BootAndLoad(t testing.TB, kernelImage string, moduleFiles ...string) string {
	t.Helper()
	files := map[string]string{}
	for i, file := range moduleFiles {
		files[fmt.Sprintf("modules/%03d-%s", i, filepath.Base(file))] = file
	}
	return boot(t, kernelImage, files)
}

// boot boots a kernel in a virtual machine. Process 1 is vminit, with these arguments and files, which are by their
// names there. boot returns what it printed.
func boot(t testing.TB, kernelImage string, files map[string]string, args ...string) string {
	t.Helper()
	get(t, vmSet)
	init, err := vmInit()
	if err != nil {
		t.Fatal(err)
	}
	initramfs := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(initramfs, cpio(t, init, files), 0o644); err != nil {
		t.Fatal(err)
	}
	// Emulated, without KVM: it is the same on every machine, and virtual machines rarely have KVM.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nodefaults", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-kernel", kernelImage, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 -- "+strings.Join(args, " "))
	out, err := qemu.CombinedOutput()
	if err != nil {
		t.Fatalf("virtual machine: %v\n%s", err, out)
	}
	return vmLines(t, string(out))
}

// vmLines returns what vminit printed, of what a virtual machine did.
func vmLines(t testing.TB, out string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(out) {
		if _, said, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "vminit: "); ok {
			lines = append(lines, said)
		}
	}
	if len(lines) == 0 || lines[len(lines)-1] != "end" {
		t.Fatalf("virtual machine:\n%s", out)
	}
	return strings.Join(lines[:len(lines)-1], "\n") + "\n"
}

var vmSet = sync.OnceValue(func() made { return mkroot("--vm") })

// vmInit builds vminit, once.
var vmInit = sync.OnceValues(func() ([]byte, error) {
	file := filepath.Join(os.Getenv(scratchEnv), "vminit")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "./vminit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build vminit: %w\n%s", err, out)
	}
	return os.ReadFile(file)
})

// cpio returns an initramfs in the "newc" format that kernels read.
func cpio(t testing.TB, init []byte, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	inode := 0
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	add := func(name string, mode uint32, major, minor int, data []byte) {
		inode++
		// magic, then inode mode uid gid links mtime size device(2) rdev(2) name-size check
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad()
		b.Write(data)
		pad()
	}
	const dir, char, file = 0o040755, 0o020600, 0o100755
	add("dev", dir, 0, 0, nil)
	add("dev/console", char, 5, 1, nil) // without it, process 1 has no stdout
	add("proc", dir, 0, 0, nil)
	add("modules", dir, 0, 0, nil)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data, err := os.ReadFile(files[name])
		if err != nil {
			t.Fatal(err)
		}
		add(name, file, 0, 0, data)
	}
	add("init", file, 0, 0, init)
	add("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

// TestControlGroups runs a test of the sandbox where there are control groups of version 2, which few machines that run
// tests let them make.
func TestControlGroups(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	kernels := r.Kernels()
	program := filepath.Join(t.TempDir(), "test")
	build := exec.Command("go", "test", "-c", "-tags=vm", "-trimpath", "-o", program, "../internal/sandbox")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out := boot(t, filepath.Join(r.Dir, "usr/lib/modules", kernels[len(kernels)-1], "vmlinuz"), map[string]string{"test": program},
		"-test.v", "-test.run=^TestGroup$")
	if strings.Contains(out, "SKIP") || !strings.Contains(out, "test --- PASS: TestGroup ") {
		t.Error(out)
	}
}

// TestVM checks what Debian's kernel does with its own module, compressed in each way. It decompresses only xz, the format
// of its configuration, and only with CRC32 checks.
func TestVM(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	kernels := r.Kernels()
	k := kernels[len(kernels)-1]
	if !strings.Contains(k, "cloud") {
		t.Fatalf("no cloud kernel: %q", kernels)
	}
	r.Sh(`cd /root && xz -dc /lib/modules/` + k + `/kernel/drivers/net/dummy.ko.xz > dummy.ko
		gzip -k dummy.ko && zstd -q dummy.ko && xz -k --check=crc64 dummy.ko && mv dummy.ko.xz crc64.ko.xz
		xz -k --check=crc32 --lzma2=dict=1MiB dummy.ko`)
	in := func(name string) string { return filepath.Join(r.Dir, "root", name) }
	out := BootAndLoad(t, filepath.Join(r.Dir, "usr/lib/modules", k, "vmlinuz"),
		in("dummy.ko.gz"), in("dummy.ko.zst"), in("crc64.ko.xz"), in("dummy.ko.xz"), in("dummy.ko"))
	for _, want := range []string{
		"load dummy.ko.gz: invalid argument\n",
		"load dummy.ko.zst: invalid argument\n",
		"load crc64.ko.xz: invalid argument\n",
		"load dummy.ko.xz: ok\n",
		"load dummy.ko: file exists\n",
		"module dummy ",
		"tainted 0\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
