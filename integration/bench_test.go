// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"context"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// benchPackages are fourteen packages that build for the kernels of the benchmark. There are rows for the first one
// and the first eight alone.
var benchPackages = []string{
	"v4l2loopback-dkms", "acpi-call-dkms", "bbswitch-dkms", "evdi-dkms", "jool-dkms",
	"lime-forensics-dkms", "vhba-dkms", "xtables-addons-dkms",
	"ddcci-dkms", "dkms-test-dkms", "langford-dkms", "librem-ec-acpi-dkms", "mimic-dkms", "mstflint-dkms",
}

// BenchmarkPeer runs the same commands with Debian's dkms and with our program, in turn, in copies of the same root,
// and prints a table of the medians in Markdown. The floor is the processor time of the compilers alone, for the same
// builds in a third copy, divided by the number of processors: no build can take less.
//
// DKMS_BENCH_RUNS is the number of runs. A run of a command that does not compile is ten in a row. With
// DKMS_BENCH_ALL, there is also one run with all packages of the archive that build.
func BenchmarkPeer(b *testing.B) {
	runs, err := strconv.Atoi(os.Getenv("DKMS_BENCH_RUNS"))
	if err != nil || runs < 1 {
		runs = 3
	}
	fmt.Print("\n| median of | Debian's dkms | ours | ratio | floor | ours / floor | processor time of each |\n|---|--:|--:|--:|--:|--:|--:|\n")
	sets := []struct {
		name     string
		packages []string
		root     func(testing.TB) *Root
		runs     int
	}{
		{"one package", benchPackages[:1], NewWholeRoot, runs},
		{"eight packages", benchPackages[:8], NewWholeRoot, runs},
		{"fourteen packages", benchPackages, NewWholeRoot, runs},
		{"all packages", nil, NewFullRoot, 1},
	}
	if os.Getenv("DKMS_BENCH_ALL") == "" {
		sets = sets[:3]
	}
	for _, s := range sets {
		b.Run(strings.ReplaceAll(s.name, " ", "-"), func(b *testing.B) {
			p := newPeers(b, s.root, s.packages)
			p.name, p.runs = s.name, s.runs
			one, two := p.kernels[:1], p.kernels
			p.row("`add`, everything current", looks, nil, func(*Root) {}, p.add(one), p.add(one))
			p.row("`status`", looks, nil, func(*Root) {}, "dkms status", "dkms status")
			p.row("`add` of one kernel, cold", compiles, one, p.cold, p.add(one), p.add(one))
			p.row("two kernels, cold (`sync`)", compiles, two, p.cold, p.add(two), "dkms-kernel-install sync --no-initramfs")
			if s.packages != nil {
				p.row("`add`, one package upgraded", compiles, one, p.upgrade, p.add(one), p.add(one))
			}
			p.row("kernel removed and added again", oursAlone, one, p.removed, "", p.add(one))
			fmt.Printf("| our process at its largest | | %d MiB | | | | |\n", p.memory>>20)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// peers are three copies of a root with the same packages, which are built for the kernels: with Debian's dkms, with
// our program, and with neither.
type peers struct {
	b                   *testing.B
	name                string
	runs                int
	theirs, ours, plain *Root
	kernels             []string
	builds              []string // M/V that build for the first kernel
	upgraded            string   // M/V that the upgrade replaces
	upgrades            int
	memory              int64
}

func newPeers(b *testing.B, root func(testing.TB) *Root, packages []string) *peers {
	p := &peers{b: b, theirs: root(b), ours: root(b), plain: root(b)}
	p.theirs.InstallPeer()
	p.ours.InstallProgram()
	p.kernels = p.ours.Kernels()
	// The cloud kernel, for which some do not build, comes last.
	slices.SortFunc(p.kernels, func(a, b string) int {
		return strings.Compare(strconv.FormatBool(strings.Contains(a, "cloud")), strconv.FormatBool(strings.Contains(b, "cloud")))
	})
	all := packages == nil
	if all {
		packages = p.ours.Packages()
	}
	for _, r := range []*Root{p.ours, p.theirs, p.plain} {
		r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
	}
	from := map[string]string{}
	for _, pkg := range packages {
		m, v := p.ours.Unpack(pkg)
		from[m+"/"+v] = pkg
		p.ours.MustRun("dkms", "add", m+"/"+v)
	}
	if res := p.ours.Run("dkms-kernel-install", "sync", "--no-initramfs"); res.Status != 0 && !all {
		b.Fatal(res)
	}
	status := p.ours.MustRun("dkms", "status")
	for id := range from {
		if !strings.Contains(status, id+", "+p.kernels[0]+", x86_64: installed\n") {
			p.ours.MustRun("dkms", "remove", id, "--all")
			continue
		}
		p.builds = append(p.builds, id)
		p.theirs.Unpack(from[id])
		p.plain.Unpack(from[id])
		p.theirs.MustRun("dkms", "add", id)
		if from[id] == packages[0] {
			p.upgraded = id
		}
	}
	slices.Sort(p.builds)
	p.plain.mkdirAll("/var/lib/dkms")
	p.collect()
	if res := p.theirs.Run("sh", "-c", p.add(p.kernels)); res.Status != 0 {
		b.Fatal(res)
	}
	return p
}

// add runs the plugin of one side as kernel-install does for each kernel. Other plugins would do the same for both
// sides.
func (p *peers) add(kernels []string) string {
	script := ""
	for _, k := range kernels {
		script += fmt.Sprintf("KERNEL_INSTALL_VERBOSE=0 /usr/lib/kernel/install.d/40-dkms.install add %[1]s /boot/debian/%[1]s /usr/lib/modules/%[1]s/vmlinuz\n", k)
	}
	return script
}

// cold removes every build, and the caches.
func (p *peers) cold(r *Root) {
	for _, what := range strings.Fields(r.Sh("dkms status | sed 's/[:,].*//' | sort -u")) {
		r.MustRun("dkms", "unbuild", what, "--all")
	}
	r.Sh("rm -rf /var/cache/dkms-kernel-install")
}

// removed removes a kernel's modules, as kernel-install does.
func (p *peers) removed(r *Root) {
	r.MustRun("/usr/lib/kernel/install.d/40-dkms.install", "remove", p.kernels[0], "/boot/debian/"+p.kernels[0])
}

// upgrade installs a new version of a package, and removes the old one.
func (p *peers) upgrade(r *Root) {
	m, v, _ := strings.Cut(p.upgraded, "/")
	if r == p.theirs { // the first of the two
		p.upgrades++
	}
	r.Sh(fmt.Sprintf(`m=%s v=%s n=%d
		dkms status $m | sed 's/[:,].*//' | sort -u | while read old; do dkms remove $old --all; done
		rm -rf /usr/src/$m-$v.*
		cp -a /usr/src/$m-$v /usr/src/$m-$v.$n
		cd /usr/src/$m-$v.$n
		sed -i "s/^PACKAGE_VERSION=.*/PACKAGE_VERSION=$v.$n/" dkms.conf
		for file in *.c; do echo "/* $n */" >>$file; done
		dkms add $m/$v.$n`, m, v, p.upgrades))
}

// kinds of rows.
const (
	compiles  = iota
	looks     // no compiler runs: it is so short that the start of the command would count
	oursAlone // only our program can do it
)

// row measures one command of each side.
func (p *peers) row(what string, kind int, kernels []string, before func(*Root), theirs, ours string) {
	runs, inRow := p.runs, time.Duration(1)
	// Without a shell, so that the memory is that of the program. It is one command at a time.
	args := append([]string{"env"}, strings.Fields(ours)...)
	if kind == looks {
		inRow = 10
		const loop = "for i in $(seq 10); do\n%s\ndone"
		theirs, args = fmt.Sprintf(loop, theirs), []string{"sh", "-ec", fmt.Sprintf(loop, ours)}
	}
	share := inRow * time.Duration(runs)
	var t, o, f []time.Duration
	var cpu [2]time.Duration
	for range runs {
		if kind != oursAlone {
			before(p.theirs)
			took, busy, _ := measure(p.theirs, "sh", "-ec", theirs)
			t, cpu[0] = append(t, took/inRow), cpu[0]+busy/share
		}
		before(p.ours)
		took, busy, memory := measure(p.ours, args...)
		o, cpu[1] = append(o, took/inRow), cpu[1]+busy/share
		p.memory = max(p.memory, memory)
		if kind == compiles {
			list := p.builds
			if strings.Contains(what, "upgraded") {
				list = []string{p.upgraded}
			}
			f = append(f, p.floor(list, kernels)/time.Duration(runtime.NumCPU()))
		}
	}
	column := func(list []time.Duration) string {
		if len(list) == 0 {
			return ""
		}
		return round(median(list)).String()
	}
	ratio := func(a, b []time.Duration) string {
		if len(b) == 0 {
			return ""
		}
		return fmt.Sprintf("%.3f", float64(median(a))/float64(median(b)))
	}
	times := round(cpu[1]).String()
	if len(t) > 0 {
		times = round(cpu[0]).String() + ", " + times
		p.b.ReportMetric(float64(median(o))/float64(median(t)), strings.ReplaceAll(strings.ReplaceAll(what, "`", ""), " ", "-")+"/ratio")
	}
	fmt.Printf("| %s: %s (%d runs) | %s | %s | %s | %s | %s | %s |\n", p.name, what, runs,
		column(t), column(o), ratio(o, t), column(f), ratio(o, f), times)
}

// collect writes into the plain root, for each of our builds, the commands of the build from its log.
func (p *peers) collect() {
	for _, id := range p.builds {
		m, v, _ := strings.Cut(id, "/")
		for _, k := range p.kernels {
			log := path.Join("/var/lib/dkms", id, k, "x86_64/log/make.log")
			if !p.ours.Exists(log) {
				continue // the package is not for this kernel
			}
			script := fmt.Sprintf("export kernelver=%s arch=x86_64 module=%s module_version=%s PACKAGE_NAME=%[2]s PACKAGE_VERSION=%[3]s\n"+
				"export kernel_source_dir=/lib/modules/%[1]s/build dkms_tree=/var/lib/dkms source_tree=/usr/src install_tree=/lib/modules\n"+
				"cd /var/lib/dkms/%[2]s/%[3]s/build\nset -e\n", k, m, v)
			patches := ""
			for line := range strings.Lines(p.ours.Read(log)) {
				if name, ok := strings.CutPrefix(line, "# patch: "); ok {
					patches += "patch -p1 --batch <patches/" + name
				}
				command, ok := strings.CutPrefix(line, "# command: ")
				if ok && !strings.HasPrefix(command, "strip -g -- ") {
					script += command
				}
			}
			p.plain.Write("/floor/"+id+"/"+k+".patch", "cd /var/lib/dkms/"+id+"/build\nset -e\n"+patches, 0o644)
			p.plain.Write("/floor/"+id+"/"+k, script, 0o644)
		}
	}
}

// floor returns the processor time of the commands that build the packages in list for the kernels.
func (p *peers) floor(list, kernels []string) (sum time.Duration) {
	for _, id := range list {
		for _, k := range kernels {
			script := "/floor/" + id + "/" + k
			if !p.plain.Exists(script) {
				continue
			}
			p.plain.Sh(fmt.Sprintf("b=/var/lib/dkms/%s/build; rm -rf $b; mkdir -p $b; cp -a /usr/src/%s/. $b; bash %s.patch",
				id, strings.Replace(id, "/", "-", 1), script))
			_, busy, _ := measure(p.plain, "bash", script)
			sum += busy
		}
	}
	return sum
}

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}

// measure runs a command and returns its time, the processor time of it and all that it started, and the largest
// resident size of its own process, in bytes, without what it started, such as a compiler.
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
