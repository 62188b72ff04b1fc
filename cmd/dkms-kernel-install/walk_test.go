// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// commands are the steps of a walk that run the program, and others are those
// that somebody else does to the machine. {WORD} stands for one of choices, the same in all
// of a step; {name}, {version} and {directory} are those of {package}.
var commands = []string{
	"dkms add {package}",
	"dkms add toy/2.0",
	"dkms add usr/side",
	"dkms build {package} -k {kernel}{force}",
	"dkms build {package} -k 6.1 -k 6.2{force}",
	"dkms install {package} -k {kernel}{force}",
	"dkms install {package} -k {kernel}{force}",
	"dkms install {package} -k 6.1 -k 6.3{force}",
	"dkms uninstall {package} -k {kernel}",
	"dkms uninstall {package} --all",
	"dkms unbuild {package} -k {kernel}",
	"dkms unbuild {package} --all",
	"dkms remove {package} -k {kernel}",
	"dkms remove {package} --all",
	"dkms autoinstall -k {kernel}{force}",
	"dkms match --templatekernel {template} -k {kernel}",
	"dkms mktarball {package} -k {kernel} --archive $WORK/odd/{archive}",
	"dkms mktarball {package} --all --archive $WORK/odd/{archive}",
	"dkms mktarball {package} --source-only",
	"dkms ldtarball odd/{archive}{force}",
	"dkms install odd/{archive} -k {kernel}",
	"dkms kernel_postinst -k {kernel}",
	"dkms kernel_preinst -k {kernel}",
	"dkms kernel_prerm -k {kernel}",
	"40-dkms.install add {kernel} odd/entry",
	"40-dkms.install add {kernel} odd/entry",
	"40-dkms.install remove {kernel} odd/entry",
	"dkms-kernel-install add {kernel}{force}",
	"dkms-kernel-install add-all{force}",
	"dkms-kernel-install sync",
	"dkms-kernel-install sync --kernel {kernel} --only-missing",
	"dkms-kernel-install remove {kernel}",
	"dkms-kernel-install postinst {name} {version}",
	"odd/{name}.prerm upgrade 3.0 1.0",
}

var others = []string{
	// The kernel's directory. Who changes it runs depmod: the program does if it changes
	// something itself, and after a kill.
	"rm -f lib/modules/{kernel}/kernel/extra/{module}.ko*; depmod -a {kernel}",
	"rm -rf lib/modules/{kernel}/kernel/extra; depmod -a {kernel}",
	"for f in lib/modules/{kernel}/kernel/*/{module}.ko*; do test ! -f $f || truncate -s {size} $f; done",
	"for f in lib/modules/{kernel}/kernel/*/{module}.ko*; do test ! -f $f || cp odd/own/{module}.ko $f; done",
	// Only where there is none: one that is beside ours stays until ours is placed again,
	// which a kill may spare.
	"find lib/modules/{kernel} -name {module}.ko* | grep -q . || { mkdir -p lib/modules/{kernel}/{place}; cp odd/own/{module}.ko lib/modules/{kernel}/{place}/{module}.ko; }; depmod -a {kernel}",
	// The tree.
	"rm -rf var/lib/dkms/{package}/{kernel}",
	"rm -rf var/lib/dkms/{package}/{kernel}/*/module",
	"rm -f var/lib/dkms/{package}/{kernel}/*/module/{module}.ko*",
	"rm -f var/lib/dkms/{package}/{kernel}/*/.fingerprint.json",
	"for f in var/lib/dkms/{package}/{kernel}/*/module/*.ko*; do test ! -f $f || truncate -s {size} $f; done",
	"rm -f var/lib/dkms/{name}/kernel-{kernel}-*",
	"rm -f var/lib/dkms/{package}/source",
	"rm -rf var/cache",
	// Sources.
	"test -e odd/{directory} || mv usr/src/{directory} odd",
	"test -e usr/src/{directory} || mv odd/{directory} usr/src",
	"echo 'int of = {size};' >>usr/src/{directory}/{name}.c",
	"echo '#error broken' >>usr/src/{directory}/{name}.c",
	"sed -i /#error/d usr/src/{directory}/*.c",
	"echo 'PACKAGE_NAME=$nobody' >>usr/src/{directory}/dkms.conf",
	"sed -i /nobody/d usr/src/{directory}/dkms.conf",
	"sed -i s,/kernel/extra,/updates, usr/src/{directory}/dkms.conf",
	"echo 'AUTOINSTALL={yes}' >>usr/src/{directory}/dkms.conf",
	// Headers and kernels.
	"test -e odd/build-{kernel} || mv lib/modules/{kernel}/build odd/build-{kernel}",
	"for k in 6.1 6.2 6.3; do mv -T odd/build-$k lib/modules/$k/build; done",
	"test -e odd/{kernel} || mv lib/modules/{kernel} odd",
	"for k in 6.1 6.2 6.3; do test -e lib/modules/$k || mv odd/$k lib/modules; done",
	// As another version of the headers' package does. A header that is changed in its
	// place is seen when something is built for the kernel, sooner or later.
	"cp -r lib/modules/{kernel}/build odd/new && echo '// {size}' >>odd/new/include/used.h && rm -r lib/modules/{kernel}/build && mv odd/new lib/modules/{kernel}/build; rm -rf odd/new",
}

var choices = map[string][]string{
	"package":  {"toy/1.0", "toy/1.0", "toy/2.0", "toy/2.0", "top/1.0", "top/1.0", "over/1.0", "over/1.0", "side/1.0"},
	"module":   {"toy", "old", "new", "top", "over", "side"},
	"kernel":   {"6.1", "6.2", "6.3"},
	"template": {"6.1", "6.2", "6.3"},
	"force":    {"", "", " --force"},
	"archive":  {"one.tar.gz", "two.tar.gz"},
	"place":    {"kernel/drivers", "updates", "extra"},
	"size":     {"0", "9", "100"},
	"yes":      {"yes", ""},
}

// settle undoes what others did that keeps the program from its work, and has it done.
const settle = `
for k in 6.1 6.2 6.3; do
	if test -e odd/$k; then
		test -e lib/modules/$k/build && rm -rf lib/modules/$k
		mkdir -p lib/modules && cp -an odd/$k lib/modules && rm -rf odd/$k
	fi
	test -e odd/build-$k && rm -rf lib/modules/$k/build && mkdir -p lib/modules/$k && mv -T odd/build-$k lib/modules/$k/build
done
for d in toy-1.0 toy-2.0 top-1.0 over-1.0 side-1.0; do
	test -e odd/$d && rm -rf usr/src/$d && mv odd/$d usr/src
done
sed -i /#error/d usr/src/*/*.c
sed -i /nobody/d usr/src/*/dkms.conf
for k in 6.1 6.2 6.3; do dkms autoinstall -k $k; done
dkms-kernel-install sync
true`

// step is one step of a walk.
type step struct {
	line string // for a shell
	verb bool   // it is one command of the program
}

// kills returns how many times in a row the step is to be killed.
func (s step) kills(random *rand.Rand) int {
	if s.verb {
		return 1 + random.IntN(2)
	}
	return 0
}

// newWalk returns the steps of a random walk.
func newWalk(random *rand.Rand) (steps []step) {
	for range 5 + random.IntN(12) {
		from := others
		verb := random.IntN(10) < 6
		if verb {
			from = commands
		}
		line := from[random.IntN(len(from))]
		for _, word := range slices.Sorted(maps.Keys(choices)) {
			choice := choices[word][random.IntN(len(choices[word]))]
			line = strings.ReplaceAll(line, "{"+word+"}", choice)
			if name, version, ok := strings.Cut(choice, "/"); ok && word == "package" {
				line = strings.NewReplacer("{name}", name, "{version}", version, "{directory}", name+"-"+version).Replace(line)
			}
		}
		steps = append(steps, step{line, verb})
	}
	return append(steps, step{"dkms-kernel-install sync", true})
}

// cmdWalks is
//
//	walks N
//
// N times it takes the machine through a random walk: steps that are commands of the
// program, and steps that somebody else does to the machine, such as to remove modules,
// sources and kernels. Then it does so again, but kills each command, once or twice,
// before it makes, renames or removes a file, at random, and then runs it to the end. After
// each, both machines must be the same; and in the end, when all that is missing is back
// and the program was told to do what is to be done. With DKMS_TEST_ALL, there are 500
// walks, other ones each time. DKMS_WALK_SEED has the seed of a single one to repeat; builds beside each other
// may still differ in the order of their changes.
func cmdWalks(ts *testscript.TestScript, neg bool, args []string) {
	w, n, seed := newWalker(ts, neg, args, "DKMS_WALK_SEED", 1)
	defer os.RemoveAll(w.saved)
	for range n {
		w.log = fmt.Sprintf("DKMS_WALK_SEED=%d\n", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		w.once(random)
		seed++
	}
	if w.verbose {
		ts.Logf("%s", w.log)
	}
}

// walker takes a machine through walks.
type walker struct {
	ts      *testscript.TestScript
	work    string
	env     []string
	log     string // the steps of this walk
	verbose bool   // with their output
	saved   string // the machine as it was at first
}

// newWalker returns a walker, and how many times to do what a command of a script does at
// random, with seeds from one on: the number that is its only argument, with -short no more
// than few, and with DKMS_TEST_ALL 500 with other seeds each time. If the environment variable
// called name is set, its value is the seed of a single one. The caller removes what is saved.
func newWalker(ts *testscript.TestScript, neg bool, args []string, name string, few int) (w *walker, n int, seed uint64) {
	if len(args) == 1 {
		n, _ = strconv.Atoi(args[0])
	}
	if neg || n == 0 {
		ts.Fatalf("wants a number")
	}
	seed = 1
	repeat := os.Getenv(name)
	switch {
	case repeat != "":
		var err error
		seed, err = strconv.ParseUint(repeat, 10, 64)
		ts.Check(err)
		n = 1
	case os.Getenv("DKMS_TEST_ALL") != "":
		n, seed = 500, uint64(time.Now().UnixNano())
	case testing.Short():
		n = min(n, few)
	}
	ts.Check(ts.Exec("env"))
	work := ts.Getenv("WORK")
	w = &walker{ts: ts, work: work, verbose: repeat != "", saved: work + ".saved"}
	w.env = strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n")
	copyMachine(ts, work, w.saved)
	return w, n, seed
}

func (w *walker) fail(format string, args ...any) {
	w.ts.Fatalf("%s\n%s", w.log, fmt.Sprintf(format, args...))
}

// once does a random walk from the machine that is saved, with and without kills.
func (w *walker) once(random *rand.Rand) {
	steps := newWalk(random)
	counts := make([]int, len(steps))
	states := make([]map[string]string, len(steps))
	copyMachine(w.ts, w.saved, w.work)
	for i, s := range steps {
		if s.verb {
			counts[i] = w.cut(0, s.line)
			states[i] = w.state()
		} else {
			w.run(s.line)
		}
	}
	want := w.settle()

	w.log += "----\n"
	copyMachine(w.ts, w.saved, w.work)
	for i, s := range steps {
		for range s.kills(random) {
			// In the end, modules are placed.
			from := random.IntN(2) * max(counts[i]-50, 0)
			w.cut(1+from+random.IntN(counts[i]-from+1), s.line)
			for start := time.Now(); len(running(w.work)) > 0; time.Sleep(time.Millisecond) {
				if time.Since(start) > 10*time.Second {
					w.fail("still there: %q", running(w.work))
				}
			}
		}
		w.run(s.line)
		if s.verb {
			w.compare(states[i], w.state())
		}
	}
	w.compare(want, w.settle())
}

func (w *walker) compare(want, is map[string]string) {
	if diff := cmp.Diff(want, is); diff != "" {
		w.fail("is different (+):\n%s", diff)
	}
}

// run runs a shell command, which may fail, and returns its output.
func (w *walker) run(line string) string {
	out, _ := w.output(line)
	return out
}

// output is run that also returns the error.
func (w *walker) output(line string) (string, error) {
	cmd := exec.Command("bash", "-c", line)
	cmd.Dir, cmd.Env = w.work, w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.CombinedOutput()
	w.log += fmt.Sprintf("> %s\n", line)
	if err != nil {
		w.log += fmt.Sprintf("[%v]\n", err)
	}
	if w.verbose {
		w.log += string(out)
	}
	if strings.Contains(string(out), "panic") || strings.Contains(string(out), "goroutine") {
		w.fail("%s", out)
	}
	return string(out), err
}

// cut runs a command that is killed before its nth change, with all that it started; never
// if n is 0. It returns the number of changes if there are fewer.
func (w *walker) cut(n int, line string) (count int) {
	w.run(fmt.Sprintf("cutshort %d %s", n, line))
	text, err := os.ReadFile(filepath.Join(w.work, "cut.count"))
	w.ts.Check(err)
	count, err = strconv.Atoi(string(text))
	w.ts.Check(err)
	return count
}

// state returns what is there, as far as it is the same each time.
func (w *walker) state() map[string]string {
	is := state(w.ts, w.work)
	maps.DeleteFunc(is, func(file, _ string) bool {
		// The archives have logs. What M/V/build has explains a failure, until the next run
		// finds that there is a build all the same.
		return strings.HasSuffix(file, ".log") || strings.HasSuffix(file, ".tar.gz") ||
			strings.HasPrefix(file, "var/lib/dkms/") && (strings.HasSuffix(file, "/build") || strings.Contains(file, "/build/"))
	})
	return is
}

// settle has the program do what is to be done, and returns what then is there. Once more
// must change nothing.
func (w *walker) settle() map[string]string {
	w.run(settle)
	is := w.state()
	w.run("dkms-kernel-install sync")
	w.compare(is, w.state())
	for file := range is {
		if slices.ContainsFunc([]string{".dkms-kernel-install-", ".unsettled-", ".owed-"}, func(s string) bool { return strings.HasPrefix(filepath.Base(file), s) }) {
			w.fail("%s is there", file)
		}
	}
	is["status"] = w.run("dkms status")
	return is
}

// nameCalls are the system calls that change what is in a directory.
var nameCalls = []uint32{unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_RENAMEAT2, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_UNLINKAT}

// cutShort is the program
//
//	cutshort N COMMAND...
//
// It runs a command, and kills it and everything in its process group before it makes,
// renames or removes a file for the Nth time. If it does so less often, it writes the
// number to $TESTROOT/cut.count.
func cutShort() {
	n, _ := strconv.Atoi(os.Args[1])
	root := os.Getenv("TESTROOT")
	count, err := watch(os.Args[2:], root, nameCalls, func(i int) unix.Errno {
		if i == n {
			syscall.Kill(0, syscall.SIGKILL)
			select {}
		}
		return 0
	})
	if errWrite := os.WriteFile(filepath.Join(root, "cut.count"), []byte(strconv.Itoa(count)), 0o644); errWrite != nil {
		err = errWrite
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cutshort:", err)
		os.Exit(1)
	}
}
