package integration

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// benchPackages are eight packages that build for the kernel of the benchmark.
var benchPackages = []string{
	"acpi-call-dkms", "bbswitch-dkms", "evdi-dkms", "jool-dkms",
	"lime-forensics-dkms", "v4l2loopback-dkms", "vhba-dkms", "xtables-addons-dkms",
}

// BenchmarkPeer runs the same commands of Debian's dkms and of ours, in turn, in copies of the same root, and
// prints medians and their ratio. DKMS_BENCH_RUNS is the number of runs of the long ones.
func BenchmarkPeer(b *testing.B) {
	runs, err := strconv.Atoi(os.Getenv("DKMS_BENCH_RUNS"))
	if err != nil {
		runs = 3
	}
	prepare := func(install func(*Root)) *Root {
		r := NewRoot(b)
		install(r)
		r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
		for _, pkg := range benchPackages {
			m, v := r.Unpack(pkg)
			r.MustRun("dkms", "add", m+"/"+v)
		}
		r.MustRun("sync")
		return r
	}
	theirs, ours := prepare((*Root).InstallPeer), prepare((*Root).InstallProgram)
	k := slices.IndexFunc(ours.Kernels(), func(k string) bool { return !strings.Contains(k, "cloud") })
	kernel := ours.Kernels()[k]
	// Each side's plugin, as kernel-install runs it; what other plugins do afterwards is the same for both.
	add := []string{"env", "KERNEL_INSTALL_VERBOSE=0", "/usr/lib/kernel/install.d/40-dkms.install", "add", kernel,
		"/boot/debian/" + kernel, "/usr/lib/modules/" + kernel + "/vmlinuz"}

	var memory []int64
	fmt.Printf("%-42s %10s %10s %7s   %s\n", "median of", "Debian's", "ours", "ratio", "processor time of each")
	row := func(what string, runs int, before func(*Root), args ...string) {
		var t, o []time.Duration
		var cpu [2]time.Duration
		for range runs {
			for i, side := range []struct {
				r     *Root
				times *[]time.Duration
			}{{theirs, &t}, {ours, &o}} {
				before(side.r)
				took, busy, peak := measure(side.r, args...)
				*side.times = append(*side.times, took)
				cpu[i] += busy / time.Duration(runs)
				if side.r == ours {
					memory = append(memory, peak)
				}
			}
		}
		slices.Sort(t)
		slices.Sort(o)
		ratio := float64(o[runs/2]) / float64(t[runs/2])
		fmt.Printf("%-42s %10v %10v %7.3f   %v, %v\n", fmt.Sprintf("%s (%d runs)", what, runs),
			round(t[runs/2]), round(o[runs/2]), ratio, round(cpu[0]), round(cpu[1]))
		b.ReportMetric(ratio, strings.ReplaceAll(what, " ", "-")+"/ratio")
	}
	clean := func(r *Root) {
		for _, what := range strings.Fields(r.Sh("dkms status | sed 's/[:,].*//' | sort -u")) {
			r.MustRun("dkms", "unbuild", what, "--all")
		}
	}
	nothing := func(*Root) {}
	row("add of one kernel, eight packages", runs, clean, add...)
	row("add when everything is current", 5*runs, nothing, add...)
	row("status", 5*runs, nothing, "dkms", "status")
	fmt.Printf("our process at its largest: %d MiB\n", slices.Max(memory)>>20)
	b.ReportMetric(0, "ns/op")
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}

// measure runs a command and returns its time, the processor time of all that it started, and the largest resident
// size of its first process, in bytes: what it starts, a compiler say, does not count.
func measure(r *Root, args ...string) (took, busy time.Duration, peak int64) {
	r.t.Helper()
	cmd := r.Command(context.Background(), args...)
	start := time.Now()
	r.check(cmd.Start())
	done := make(chan error)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			r.check(err)
			return time.Since(start), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), peak
		case <-time.After(20 * time.Millisecond):
		}
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		for line := range strings.Lines(string(status)) {
			if size, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kib, _ := strconv.ParseInt(strings.Fields(size)[0], 10, 64)
				peak = max(peak, kib<<10)
			}
		}
	}
}
