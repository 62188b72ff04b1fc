// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/kmod/kmodtest"
	"dkms-kernel-install/internal/tree"
)

// BenchmarkMany measures what status, and an add of a kernel for which everything is
// current, cost on a machine with many packages, all installed for each of 20 kernels. It
// prints a table in Markdown, with the medians of the times, and the most memory. There are
// three times DKMS_BENCH_RUNS runs of each, at least five, and nine by default.
func BenchmarkMany(b *testing.B) {
	const kernels = 20
	runs, err := strconv.Atoi(os.Getenv("DKMS_BENCH_RUNS"))
	runs = max(5, 3*runs)
	if err != nil {
		runs = 9
	}
	m := newCrowd(b, b.TempDir(), kernels)
	fmt.Printf("| packages × kernels | `status` | processor time | memory | current `add` | processor time | memory |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, packages := range []int{50, 100, 200, 500} {
		m.grow(packages)
		fmt.Printf("| %d × %d |%s%s\n", packages, kernels,
			m.measure(fmt.Sprintf("status-%d", packages), runs, packages*kernels, "dkms", "status"),
			m.measure(fmt.Sprintf("add-%d", packages), runs, 0, "40-dkms.install", "add", m.kernels[0]))
	}
	const few, failing = 50, 3
	m = newCrowd(b, b.TempDir(), kernels)
	m.grow(few)
	m.fail(failing)
	fmt.Printf("| %d × %d, and %d that failed before | | | |%s\n", few, kernels, failing,
		m.measure("add-failed", runs, 4*failing, "40-dkms.install", "add", m.kernels[0]))
	m = newCrowd(b, b.TempDir(), kernels)
	m.grow(few)
	fmt.Printf("\n| packages × kernels | `why` | processor time | memory | `doctor` | processor time | memory |\n|---|--:|--:|--:|--:|--:|--:|\n")
	fmt.Printf("| %d × %d |%s%s\n", few, kernels, m.measure("why", runs, 1, "dkms-kernel-install", "why"),
		m.measure("doctor", runs, -1, "dkms-kernel-install", "doctor"))
	b.ReportMetric(0, "ns/op")
}

// measure returns the cells of a table with what a command costs, which prints that many
// lines; any number if it is negative.
func (m *crowd) measure(name string, runs, lines int, args ...string) string {
	m.b.Helper()
	var costs []cost
	for range runs {
		out, cost := m.run(args...)
		if n := strings.Count(out, "\n"); lines >= 0 && n != lines || strings.Contains(out, "Differences") {
			m.b.Fatalf("%q prints %d lines, not %d:\n%.2000s", args, n, lines, out)
		}
		if cost.children > 0 {
			m.b.Fatalf("%q started another program", args)
		}
		costs = append(costs, cost)
	}
	took := median(costs, func(c cost) time.Duration { return c.took })
	busy := median(costs, func(c cost) time.Duration { return c.busy })
	memory := slices.MaxFunc(costs, func(a, b cost) int { return cmp.Compare(a.memory, b.memory) }).memory
	m.b.ReportMetric(took.Seconds()*1e3, name+"-ms")
	return fmt.Sprintf(" %.1f ms | %.1f ms | %d MiB |", took.Seconds()*1e3, busy.Seconds()*1e3, memory>>20)
}

// crowd is a root directory like that of the scripts, with toy kernels.
type crowd struct {
	b        *testing.B
	root     string
	arch     string
	kernels  []string
	packages int // number of those installed, for each kernel
	indexes  map[string]string
}

func newCrowd(b *testing.B, root string, kernels int) *crowd {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		b.Fatal(err)
	}
	m := &crowd{b: b, root: root, arch: unix.ByteSliceToString(u.Machine[:]), indexes: map[string]string{}}
	m.write("etc/os-release", "ID=debian\n")
	m.write("etc/dkms/framework.conf", "image_build=false\n")
	for i := range kernels {
		k := fmt.Sprintf("6.%d.0-toy", i)
		m.kernels = append(m.kernels, k)
		dir := "lib/modules/" + k
		m.write("boot/vmlinuz-"+k, "")
		m.write(dir+"/modules.dep", "")
		m.write(dir+"/build/Makefile", "modules:\n")
		m.write(dir+"/build/include/config/auto.conf", strings.Repeat("CONFIG_SOMETHING=y\n", 3000))
		for n := range 20 {
			m.write(fmt.Sprintf("%s/build/include/linux/%d.h", dir, n), "#pragma once\n")
		}
		// About as many as a distribution's kernel has.
		for n := range 4000 {
			m.write(fmt.Sprintf("%s/kernel/drivers/%d/m%d.ko.gz", dir, n/20, n), "")
		}
	}
	return m
}

func (m *crowd) write(name, content string) {
	file := filepath.Join(m.root, name)
	err := os.WriteFile(file, []byte(content), 0o644)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(file), 0o755); err == nil {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
	}
	if err != nil {
		m.b.Fatal(err)
	}
}

// grow installs packages until there are that many. It writes their builds, modules and
// links itself. The program adds its records of them when it first sees them.
func (m *crowd) grow(packages int) {
	m.b.Helper()
	t := tree.Tree{Dir: filepath.Join(m.root, "var/lib/dkms")}
	random := rand.NewChaCha8([32]byte{})
	text := make([]byte, 3<<10)
	type module struct {
		tree.ID
		tree.Target
		file string
	}
	var fresh []module
	for ; m.packages < packages; m.packages++ {
		id := tree.ID{Name: fmt.Sprintf("package%03d", m.packages), Version: "1.0"}
		src := "usr/src/" + id.Name + "-" + id.Version
		m.write(src+"/dkms.conf", fmt.Sprintf("PACKAGE_NAME=%s\nPACKAGE_VERSION=%s\nBUILT_MODULE_NAME=%[1]s\nDEST_MODULE_LOCATION=/updates/dkms\nAUTOINSTALL=yes\n", id.Name, id.Version))
		m.write(src+"/Kbuild", "obj-m := "+id.Name+".o\n")
		for n := range 8 {
			m.write(fmt.Sprintf("%s/src/%d.c", src, n), "MODULE_VERSION(\"1.0\");\n")
		}
		if err := t.Register(id, filepath.Join(m.root, src)); err != nil {
			m.b.Fatal(err)
		}
		for _, release := range m.kernels {
			k := tree.Target{Release: release, Arch: m.arch}
			elf, err := kmodtest.For(m.arch, "name="+id.Name, "version=1.0", "vermagic="+release+" SMP mod_unload ")
			if err != nil {
				m.b.Fatal(err)
			}
			random.Read(text) // never fails
			elf.Text = text
			var packed bytes.Buffer
			if err := kmod.Compress(&packed, elf.Build(), codec.Gzip, 0); err != nil {
				m.b.Fatal(err)
			}
			file := id.Name + ".ko.gz"
			build, err := filepath.Rel(m.root, t.TargetDir(id, k))
			if err != nil {
				m.b.Fatal(err)
			}
			m.write(build+"/log/make.log", "made\n")
			m.write(build+"/module/"+file, packed.String())
			fresh = append(fresh, module{id, k, file})
		}
	}
	// Later than the builds, as package place makes the copies: it need not read them.
	for _, f := range fresh {
		built := filepath.Join(t.ModuleDir(f.ID, f.Target), f.file)
		content, err := os.ReadFile(built)
		if err != nil {
			m.b.Fatal(err)
		}
		fi, err := os.Stat(built)
		if err != nil {
			m.b.Fatal(err)
		}
		placed := "lib/modules/" + f.Release + "/updates/dkms/" + f.file
		m.write(placed, string(content))
		m.indexes[f.Release] += "updates/dkms/" + f.file + ":\n"
		if err := errors.Join(os.Chtimes(filepath.Join(m.root, placed), fi.ModTime(), fi.ModTime()), t.SetInstalled(f.ID, f.Target)); err != nil {
			m.b.Fatal(err)
		}
	}
	for _, k := range m.kernels {
		m.write("lib/modules/"+k+"/modules.dep", m.indexes[k])
		if out, _ := m.run("40-dkms.install", "add", k); out != "" {
			m.b.Fatalf("add says:\n%.2000s", out)
		}
	}
}

// fail registers packages whose builds fail, and has them fail once.
func (m *crowd) fail(packages int) {
	m.b.Helper()
	t := tree.Tree{Dir: filepath.Join(m.root, "var/lib/dkms")}
	for n := range packages {
		id := tree.ID{Name: fmt.Sprintf("failing%d", n), Version: "1.0"}
		src := "usr/src/" + id.Name + "-" + id.Version
		m.write(src+"/dkms.conf", fmt.Sprintf("PACKAGE_NAME=%s\nPACKAGE_VERSION=1.0\nBUILT_MODULE_NAME=%[1]s\nDEST_MODULE_LOCATION=/updates/dkms\nAUTOINSTALL=yes\nMAKE='echo no; false'\n", id.Name))
		m.write(src+"/Kbuild", "obj-m := "+id.Name+".o\n")
		if err := t.Register(id, filepath.Join(m.root, src)); err != nil {
			m.b.Fatal(err)
		}
	}
	if out, _ := m.run("40-dkms.install", "add", m.kernels[0]); strings.Count(out, "FAILED") != packages {
		m.b.Fatalf("add says:\n%.2000s", out)
	}
}

// cost is what a run of the program took: time, processor time, memory and programs.
type cost struct {
	took, busy time.Duration
	memory     int64 // the most that was resident, in bytes
	children   int   // programs that it ran: 0, or 1 for any number
}

func median(costs []cost, of func(cost) time.Duration) time.Duration {
	var list []time.Duration
	for _, c := range costs {
		list = append(list, of(c))
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// costEnv is the environment variable with the name of a file to which a run of the
// program writes, when it ends, the most memory that it had, in KiB, and 1 if it ran other
// programs, or else 0.
const costEnv = "DKMS_BENCH_COST"

// noteCost writes the file that costEnv names.
func noteCost() {
	file := os.Getenv(costEnv)
	if file == "" {
		return
	}
	var children unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &children); err != nil {
		panic(err)
	}
	// Not the memory of getrusage: that includes the parent's before exec.
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	text := fmt.Sprintln(strings.Fields(peak)[0], min(children.Maxrss, 1))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		panic(err)
	}
}

// run runs one of the program's faces and returns its output and its cost.
func (m *crowd) run(args ...string) (out string, c cost) {
	m.b.Helper()
	file := filepath.Join(m.root, "cost")
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = args
	cmd.Env = append(os.Environ(), "TESTROOT="+m.root, costEnv+"="+file)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	c.took = time.Since(start)
	c.busy = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err != nil {
		m.b.Fatalf("%q: %v\n%s%s", args, err, &stdout, &stderr)
	}
	text, err := os.ReadFile(file)
	if err == nil {
		_, err = fmt.Sscan(string(text), &c.memory, &c.children)
	}
	if err != nil {
		m.b.Fatal(err)
	}
	c.memory <<= 10
	return stdout.String() + stderr.String(), c
}
