// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/testskip"
)

var update = flag.Bool("update", false, "write the table that TestManagers makes")

const (
	movingFile   = "../docs/moving.md"
	tableBegins  = "<!-- TestManagers makes this table: DKMS_TEST_ALL=1 go test -run TestManagers ./integration -update -->\n\n"
	tableEnds    = "\n<!-- end -->\n"
	holds        = "holds"
	firstKernel  = "6.90.1-toy"
	secondKernel = "6.90.2-toy"
)

// manager is a package manager, with the program's own package installed by it.
type manager interface {
	// format is what nfpm calls its packages.
	format() string
	// setUp installs the manager and our package in a root.
	setUp(w *world)
	// scripts returns the scripts of a module's package, and of those of a kernel and its headers, as packages of the
	// manager's world have them, by nfpm's names for scripts.
	scripts(p toy) map[string]string
	// install and remove are commands. Install also upgrades and downgrades, by files in one transaction.
	install(files ...string) []string
	remove(names ...string) []string
	// recover is a shell command for what a user does after a transaction that was cut short, to have this file's package.
	recover(file string) string
}

// world is a root in which a package manager runs.
type world struct {
	*Root
	manager manager
	dir     string // for what packages are made of, outside of the root
	wrong   []string
}

// toy is a package for a package manager: of a module, or a kernel, or its headers.
type toy struct{ name, version, kernel string }

func module(version string) toy { return toy{name: "up-dkms", version: version} }
func image(k string) toy        { return toy{name: "linux-image-" + k, version: "1", kernel: k} }
func headers(k string) toy      { return toy{name: "linux-headers-" + k, version: "1", kernel: k} }

// The versions of the module's package.
const (
	good        = "1.0"
	better      = "2.0"
	broken      = "3.0"
	mended      = "4.0"
	excluded    = "5.0" // for other kernels
	interrupted = "6.0" // the builds of these wait while the file wait is there
	killed      = "7.0"
	wait        = "/usr/share/wait"
)

// managerCases are what package managers are put through. Each begins and ends with one kernel, with its headers, and no
// module.
var managerCases = []struct {
	name  string
	cheap bool // is a part of make test
	run   func(*world)
}{
	{name: "install", run: func(w *world) {
		w.install(module(good))
		w.loads(firstKernel, good, "installed")
	}},
	{name: "upgrade", run: func(w *world) {
		w.install(module(good))
		w.install(module(better))
		w.loads(firstKernel, better, "installed")
		w.nothing("/var/lib/dkms/up/*" + good + "*")
	}},
	{name: "upgrade to a version that does not build, and then to one that does", cheap: true, run: func(w *world) {
		w.install(module(good))
		w.install(module(broken))
		w.loads(firstKernel, good, "kept from before an upgrade")
		w.install(module(mended))
		w.loads(firstKernel, mended, "installed")
		w.nothing("/var/lib/dkms/up/.kept-*")
	}},
	{name: "downgrade to the version that is kept", run: func(w *world) {
		w.install(module(good))
		w.install(module(broken))
		w.install(module(good))
		w.loads(firstKernel, good, "installed")
		w.nothing("/var/lib/dkms/up/*" + broken + "*")
		w.nothing("/var/lib/dkms/up/.kept-*")
	}},
	{name: "upgrade to a version that is not for this kernel: the old one goes", run: func(w *world) {
		w.install(module(good))
		out := w.install(module(excluded))
		if !strings.Contains(out, "is not meant for this kernel") {
			w.says("no line says so", "%s", out)
		}
		w.nothing("/usr/lib/modules/*/*/up.ko*")
		w.nothing("/usr/lib/modules/*/*/*/up.ko*")
		w.nothing("/var/lib/dkms/up/.kept-*")
	}},
	{name: "purge leaves nothing", run: func(w *world) {
		w.install(module(good))
		w.removeAll()
	}},
	{name: "purge after an upgrade that does not build leaves nothing", run: func(w *world) {
		w.install(module(good))
		w.install(module(broken))
		w.removeAll()
	}},
	{name: "kernel, headers and module in one transaction", run: func(w *world) {
		w.order([]toy{image(secondKernel), headers(secondKernel), module(good)})
	}},
	{name: "kernel, headers and module in every order", run: func(w *world) {
		k, h, m := image(secondKernel), headers(secondKernel), module(good)
		for _, o := range [][]toy{{k, h, m}, {k, m, h}, {h, k, m}, {h, m, k}, {m, k, h}, {m, h, k}} {
			w.order(o[:1], o[1:2], o[2:])
		}
	}},
	{name: "two of them in one transaction, the third before or after", run: func(w *world) {
		k, h, m := image(secondKernel), headers(secondKernel), module(good)
		for _, o := range [][]toy{{k, h, m}, {k, m, h}, {h, m, k}} {
			w.order(o[:2], o[2:])
			w.order(o[2:], o[:2])
		}
	}},
	{name: "removal of a kernel leaves nothing of it", run: func(w *world) {
		w.install(module(good))
		w.install(image(secondKernel), headers(secondKernel))
		w.run(w.manager.remove(image(secondKernel).name, headers(secondKernel).name)...)
		w.nothing("/usr/lib/modules/" + secondKernel)
		w.nothing("/var/lib/dkms/up/*/" + secondKernel)
		w.loads(firstKernel, good, "installed")
	}},
	{name: "headers that come and go without their kernel leave nothing", run: func(w *world) {
		w.install(module(good))
		w.install(headers(secondKernel))
		w.run(w.manager.remove(headers(secondKernel).name)...)
		w.nothing("/usr/lib/modules/" + secondKernel)
		w.nothing("/var/lib/dkms/up/*/" + secondKernel)
	}},
	{name: "Ctrl-C while the new version is built", run: func(w *world) {
		w.cutShort(interrupted, syscall.SIGINT, w.builds)
		w.mend(interrupted)
	}},
	{name: "SIGKILL while the new version is built", run: func(w *world) {
		w.cutShort(killed, syscall.SIGKILL, w.builds)
		w.mend(killed)
	}},
	{name: "SIGKILL when the old version has just gone, and the new one does not build", run: func(w *world) {
		w.cutShort(broken, syscall.SIGKILL, func() bool { return len(w.Glob("/var/lib/dkms/up/.kept-*")) > 0 })
		w.mend(mended)
	}},
}

// TestManagers has apt, dnf and pacman install, upgrade and remove packages, and compares what comes of it with the table
// in docs/moving.md.
func TestManagers(t *testing.T) {
	testskip.Without(t, "rpm")
	text, err := os.ReadFile(movingFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begins := strings.Cut(string(text), tableBegins)
	old, tail, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		t.Fatalf("%s has no lines\n%s%s", movingFile, tableBegins, tableEnds)
	}
	managers := []manager{&apt{}, &dnf{}, &pacman{}}
	results := make([][]string, len(managers))
	t.Run("managers", func(t *testing.T) {
		for i, m := range managers {
			t.Run(m.format(), func(t *testing.T) {
				t.Parallel()
				results[i] = putThrough(t, m)
			})
		}
	})
	if t.Failed() {
		return
	}
	table := "| | apt | dnf | pacman |\n| --- | --- | --- | --- |\n"
	for n, c := range managerCases {
		row := rowOf(old, c.name)
		for i, result := range results {
			if result != nil && runs(c.cheap) { // what does not run stays as it was
				row[i] = result[n]
			}
		}
		table += "| " + c.name + " | " + strings.Join(row, " | ") + " |\n"
	}
	if *update {
		if err := os.WriteFile(movingFile, []byte(head+tableBegins+table+tableEnds+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(table, old); diff != "" {
		t.Errorf("docs/moving.md (+) is not what comes of it (-); if it should be, run with -update\n%s", diff)
	}
}

// runs reports whether a case is a part of this run.
func runs(cheap bool) bool { return cheap || os.Getenv("DKMS_TEST_ALL") != "" }

// rowOf returns what a table has for each manager in the row of this name.
func rowOf(table, name string) []string {
	for line := range strings.Lines(table) {
		if cells := strings.Split(strings.Trim(line, "| \n"), " | "); len(cells) == 4 && cells[0] == name {
			return cells[1:]
		}
	}
	return make([]string, 3)
}

// newWorld makes a root in which m has installed our package and the first kernel.
func newWorld(t *testing.T, m manager) *world {
	t.Helper()
	w := &world{Root: NewRoot(t), manager: m, dir: t.TempDir()}
	// The kernels are the packages' own. What else makes boot entries would take much time, and is not in question.
	w.Sh(`rm -rf /usr/lib/modules/* /etc/kernel/post*.d/dracut
		mkdir -p /etc/kernel/install.d
		for plugin in 50-dracut 51-dracut-rescue; do ln -s /dev/null /etc/kernel/install.d/$plugin.install; done`)
	w.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=false\n", 0o644)
	m.setUp(w)
	if w.install(image(firstKernel), headers(firstKernel)); len(w.wrong) > 0 {
		t.Fatal(w.wrong)
	}
	return w
}

// putThrough runs the cases with a manager and returns, for each, what comes of it.
func putThrough(t *testing.T, m manager) []string {
	w := newWorld(t, m)
	var results []string
	for _, c := range managerCases {
		if !runs(c.cheap) {
			results = append(results, "")
			continue
		}
		w.wrong = nil
		start := time.Now()
		c.run(w)
		result := holds
		if len(w.wrong) > 0 {
			result = strings.Join(w.wrong, "; ")
		}
		t.Logf("%s: %s, after %.1f s", c.name, result, time.Since(start).Seconds())
		results = append(results, result)
		w.clear()
	}
	return results
}

// TestPacmanReplacesDkms has pacman put our package in the place of one called dkms, whose settings an administrator has
// changed, and back.
func TestPacmanReplacesDkms(t *testing.T) {
	t.Parallel()
	w := &world{Root: NewRoot(t), manager: &pacman{}, dir: t.TempDir()}
	w.setUpPacman()
	const conf = "/etc/dkms/framework.conf"
	theirs := func(name, contents, more string) string {
		config, file := filepath.Join(w.dir, name+".yaml"), "/opt/"+name+".pkg.tar.zst"
		w.check(os.WriteFile(config, []byte("name: "+name+"\narch: all\nversion: 3.4.3\nmaintainer: x <x@localhost>\ndescription: x\n"+more+contents), 0o644))
		w.nfpm(config, file)
		return file
	}
	file := filepath.Join(w.dir, "framework.conf")
	w.check(os.WriteFile(file, []byte("# theirs\n"), 0o644))
	dkms := theirs("dkms", "contents: [{src: "+file+", dst: "+conf+", type: config}, {src: "+file+", dst: /usr/bin/dkms}]\n", "")
	w.MustRun("pacman", "-U", "--noconfirm", dkms, theirs("toy-dkms", "", "depends: [dkms]\n"),
		theirs("world", "", "provides: [bash, binutils, gcc, kmod, make, patch]\n"))
	const settings = "# theirs\n# of the administrator\n"
	w.Write(conf, settings, 0o644)
	w.Write("/var/lib/dkms/mok.key", "key\n", 0o600)
	same := func(when, pkg string) {
		t.Helper()
		if got := w.Read(conf); got != settings {
			t.Errorf("%s, the settings are %s", when, got)
		}
		if got := w.Read("/var/lib/dkms/mok.key"); got != "key\n" {
			t.Errorf("%s, the key is %s", when, got)
		}
		if got := w.Sh("pacman -Qq | tr '\\n' ' '"); got != pkg+" toy-dkms world " {
			t.Errorf("%s, installed: %s", when, got)
		}
	}
	// The question whether the other package is to go is one that --noconfirm says no to.
	w.MustRun("pacman", "-U", "--noconfirm", "--ask=4", w.copyIn(makePackage(t, "arch"), "/opt/ours.pkg.tar.zst"))
	same("with our package", "dkms-kernel-install")
	if !w.Exists("/usr/lib/systemd/system/multi-user.target.wants/dkms.service") || w.MustRun("id", "-un", "dkms-build") != "dkms-build\n" {
		t.Error("the unit is not enabled, or builds have no user")
	}
	w.MustRun("pacman", "-U", "--noconfirm", "--ask=4", dkms)
	same("back", "dkms")
	w.nothing("/usr/lib/systemd/system/multi-user.target.wants/dkms.service")
	if len(w.wrong) > 0 {
		t.Error(w.wrong)
	}
}

// TestPacmanKernelInstall has pacman install a module for a kernel with a boot entry that kernel-install made, with an
// initramfs by a plugin for mkinitcpio: without a hook of pacman's for that, and with one.
func TestPacmanKernelInstall(t *testing.T) {
	t.Parallel()
	testskip.Without(t, "rpm")
	w := newWorld(t, &pacman{})
	w.Write("/etc/kernel/install.conf", "layout=bls\ninitrd_generator=mkinitcpio\nBOOT_ROOT=/boot\n", 0o644)
	w.Write("/usr/bin/mkinitcpio", "#!/bin/sh\nfind /lib/modules/$2/ -name '*.ko*' | cpio -o -H newc >$4\n", 0o755)
	w.Write("/usr/lib/kernel/install.d/50-mkinitcpio.install", `#!/bin/sh
[ "$1-$KERNEL_INSTALL_INITRD_GENERATOR" != add-mkinitcpio ] || mkinitcpio -k "$2" -g "$KERNEL_INSTALL_STAGING_AREA/initrd"
`, 0o755)
	w.MustRun("kernel-install", "add", firstKernel, "/usr/lib/modules/"+firstKernel+"/vmlinuz")
	initrd := "/boot/debian/" + firstKernel + "/initrd"
	if list := w.Sh("cpio -t <" + initrd); strings.Contains(list, "up.ko") || !strings.Contains(list, "dummy.ko") {
		t.Fatalf("before, it has %s", list)
	}
	out := w.install(module(good))
	if list := w.Sh("cpio -t <" + initrd); !strings.Contains(list, "up.ko") {
		t.Errorf("the initramfs lacks the module: %s%s", list, out)
	}
	// With mkinitcpio's hook it has two, and the hook makes only the other one.
	w.clear()
	w.MustRun("kernel-install", "add", firstKernel, "/usr/lib/modules/"+firstKernel+"/vmlinuz")
	w.Write("/usr/share/libalpm/hooks/90-mkinitcpio-install.hook", `[Trigger]
Type = Path
Operation = Install
Target = usr/src/*/dkms.conf

[Action]
When = PostTransaction
Exec = /usr/bin/true
`, 0o644)
	out = w.install(module(good))
	if list := w.Sh("cpio -t <" + initrd); !strings.Contains(list, "up.ko") {
		t.Errorf("with mkinitcpio's hook, the initramfs lacks the module: %s%s", list, out)
	}
}

// says notes, for the table, what does not hold.
func (w *world) says(what, format string, args ...any) {
	w.t.Helper()
	w.t.Logf(what+": "+format, args...)
	if !slices.Contains(w.wrong, what) {
		w.wrong = append(w.wrong, what)
	}
}

// run runs a command of the manager, and returns its output.
func (w *world) run(args ...string) string {
	w.t.Helper()
	res := w.Run(args...)
	if res.Status != 0 {
		w.says(fmt.Sprintf("%s ends with %d", path.Base(args[0]), res.Status), "%q: %v", args, res)
	}
	if testing.Verbose() {
		w.t.Logf("%q: %v", args, res)
	}
	return res.Stdout + res.Stderr
}

// install installs packages in one transaction.
func (w *world) install(list ...toy) string {
	w.t.Helper()
	return w.run(w.manager.install(w.pack(list...)...)...)
}

// clear removes all packages but those of the first kernel, and what they left.
func (w *world) clear() {
	names := []string{module(good).name, image(secondKernel).name, headers(secondKernel).name}
	for _, name := range names {
		w.Run(w.manager.remove(name)...)
	}
	w.Sh("rm -rf /var/lib/dkms/up /usr/src/up-* /usr/lib/modules/" + secondKernel + "; find /usr/lib/modules -name 'up.ko*' -delete; depmod " + firstKernel)
}

// removeAll removes the module's package, and looks for what stays.
func (w *world) removeAll() {
	w.t.Helper()
	w.run(w.manager.remove(module(good).name)...)
	w.nothing("/var/lib/dkms/up")
	w.nothing("/usr/src/up-*")
	w.nothing("/usr/lib/modules/*/updates")
	w.nothing("/usr/lib/modules/*/extra")
}

// nothing looks for files that should not be there.
func (w *world) nothing(pattern string) {
	w.t.Helper()
	if list := w.Glob(pattern); len(list) > 0 {
		w.says(pattern+" stays", "%q", list)
	}
}

// loads looks whether modprobe finds the module of this version, of which status says this.
func (w *world) loads(k, version, state string) {
	w.t.Helper()
	status := w.Run("dkms", "status", "-m", "up")
	if got := w.version(k); got != version {
		w.says(fmt.Sprintf("what loads is %q, and not %s", got, version), "%s: %v", k, status)
	}
	if !strings.Contains(status.Stdout, "up/"+version+", "+k+", x86_64: "+state+"\n") {
		w.says(version+" is not "+state, "%s: %v", k, status)
	}
}

// version returns the version of the module that modprobe loads; "" if there is none.
func (w *world) version(k string) string {
	res := w.Run("modprobe", "-S", k, "--show-depends", "up")
	file := strings.Fields(strings.TrimPrefix(res.Stdout, "insmod"))
	if res.Status != 0 || len(file) == 0 {
		return ""
	}
	return strings.TrimSpace(w.Run("modinfo", "-F", "version", file[0]).Stdout)
}

// order installs packages in transactions, looks for the module for the second kernel, and removes all.
func (w *world) order(transactions ...[]toy) {
	w.t.Helper()
	var names []string
	for _, list := range transactions {
		w.install(list...)
		for _, p := range list {
			names = append(names, map[string]string{image(secondKernel).name: "kernel", headers(secondKernel).name: "headers", module(good).name: "module"}[p.name])
		}
	}
	if got := w.version(secondKernel); got != good {
		w.says("no module after "+strings.Join(names, ", "), "%v", w.Run("dkms", "status"))
	}
	w.clear()
}

// cutShort sends a signal to the manager, and all that it has started, at a moment of an upgrade to this version, and
// looks for the old version's module when all of them have ended, or for the new one's: rpm goes on, and its triggers
// build what a script did not.
func (w *world) cutShort(version string, signal syscall.Signal, moment func() bool) {
	w.t.Helper()
	w.install(module(good))
	files := w.pack(module(version))
	w.Write(wait, "", 0o644)
	cmd := w.Start(w.manager.install(files...)...)
	w.until(moment)
	w.check(syscall.Kill(-cmd.Process.Pid, signal))
	w.until(func() bool { return !w.builds() })
	w.MustRun("rm", wait)
	cmd.Wait()
	w.until(func() bool { return !w.builds() && len(w.Processes()) == 0 })
	if got := w.version(firstKernel); got != good && got != version {
		w.says(fmt.Sprintf("what loads then is %q, and not %s", got, good), "%v", w.Run("dkms", "status"))
	}
}

// mend does what a user does after a transaction that was cut short, in order to have this version.
func (w *world) mend(version string) {
	w.t.Helper()
	files := w.pack(module(version))
	w.t.Logf("%v", w.Run("sh", "-c", w.manager.recover(files[0])))
	w.loads(firstKernel, version, "installed")
}

// until waits for a moment.
func (w *world) until(moment func() bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !moment(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("it does not come: %v, processes: %q", w.Run("dkms", "status"), w.Processes())
		}
	}
}

// waiting is what a slow build runs while it waits, which no other test runs.
func (w *world) waiting() string {
	return "sleep 1" + fmt.Sprintf("%06d", os.Getpid()) + w.manager.format()
}

// builds reports whether a slow build waits.
func (w *world) builds() bool {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	return slices.ContainsFunc(list, func(file string) bool {
		line, _ := os.ReadFile(file)
		return strings.HasPrefix(string(line), w.waiting()+"\x00")
	})
}

// pack makes packages that are not made yet, and returns their paths in the root.
func (w *world) pack(list ...toy) (files []string) {
	w.t.Helper()
	for _, p := range list {
		file := "/opt/toys/" + p.name + "-" + p.version + map[string]string{"deb": ".deb", "rpm": ".rpm", "archlinux": ".pkg.tar.zst"}[w.manager.format()]
		files = append(files, file)
		if w.Exists(file) {
			continue
		}
		w.mkdirAll(path.Dir(file))
		dir := filepath.Join(w.dir, p.name+"-"+p.version)
		w.lay(p, filepath.Join(dir, "root"))
		config := fmt.Sprintf("name: %s\narch: all\nplatform: linux\nversion: %q\nversion_schema: none\nmaintainer: x <x@localhost>\ndescription: a toy\ncontents:\n", p.name, p.version)
		tops, err := os.ReadDir(filepath.Join(dir, "root"))
		w.check(err)
		for _, top := range tops {
			config += fmt.Sprintf("- {src: %s, dst: /%s, type: tree}\n", filepath.Join(dir, "root", top.Name()), top.Name())
		}
		kinds := map[string]string{"scripts": "", "rpm": ""}
		for name, script := range w.manager.scripts(p) {
			w.check(os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
			where := "scripts"
			if name == "posttrans" {
				where = "rpm"
			}
			kinds[where] += fmt.Sprintf("%s: %s, ", name, filepath.Join(dir, name))
		}
		config += fmt.Sprintf("scripts: {%s}\nrpm: {scripts: {%s}}\n", kinds["scripts"], kinds["rpm"])
		w.check(os.WriteFile(filepath.Join(dir, "nfpm.yaml"), []byte(config), 0o644))
		w.nfpm(filepath.Join(dir, "nfpm.yaml"), file)
	}
	return files
}

// nfpm makes a package in the root.
func (w *world) nfpm(config, file string) {
	w.t.Helper()
	cmd := exec.Command("go", "tool", "-modfile=tools/go.mod", "nfpm", "package", "--config", config,
		"--packager", w.manager.format(), "--target", filepath.Join(w.Dir, file))
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", config, err, out)
	}
}

// lay writes the files of a package below dir.
func (w *world) lay(p toy, dir string) {
	w.t.Helper()
	switch {
	case p.kernel == "":
		w.laySource(p.version, filepath.Join(dir, "usr/src/up-"+p.version))
	case strings.HasPrefix(p.name, "linux-image-"):
		w.layImage(p.kernel, dir)
	default:
		w.layHeaders(p.kernel, dir)
	}
}

// laySource writes a module's source.
func (w *world) laySource(version, dir string) {
	w.t.Helper()
	source := "#include <linux/module.h>\nMODULE_LICENSE(\"GPL\");\nMODULE_DESCRIPTION(\"toy\");\nMODULE_VERSION(\"" + version + "\");\n"
	conf := "PACKAGE_NAME=up\nPACKAGE_VERSION=" + version + "\nBUILT_MODULE_NAME[0]=up\nDEST_MODULE_LOCATION[0]=/extra\nAUTOINSTALL=yes\n"
	files := map[string]string{"Makefile": "obj-m := up.o\n"}
	switch version {
	case broken:
		source += "#error no\n"
	case excluded:
		conf += "BUILD_EXCLUSIVE_KERNEL=^5\n"
	case interrupted, killed:
		// The name is one of the command line alone.
		conf += `MAKE[0]="if [ -e ` + wait + ` ]; then bash -c 'exec -a \"` + w.waiting() + `\" sleep 1000'; fi; make -C $kernel_source_dir M=$dkms_tree/up/` + version + `/build"` + "\n"
	}
	files["up.c"], files["dkms.conf"] = source, conf
	w.check(os.MkdirAll(dir, 0o755))
	for name, text := range files {
		w.check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

// host runs a shell script outside of the root. $real is the release of a kernel of the cached root, $from that root.
func (w *world) host(script string, env ...string) {
	w.t.Helper()
	real, err := filepath.Glob(filepath.Join(w.made.dir, "root/usr/lib/modules/*cloud*"))
	w.check(err)
	cmd := exec.Command("sh", "-ec", script)
	cmd.Env = append(append(os.Environ(), "real="+filepath.Base(real[0]), "from="+filepath.Join(w.made.dir, "root")), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// layImage writes a kernel with one module of its own. Its image is none, but nothing here starts it.
func (w *world) layImage(k, dir string) {
	w.t.Helper()
	w.host(`mkdir -p "$to/kernel/drivers/net" && cd "$from/usr/lib/modules/$real"
		cp modules.order modules.builtin modules.builtin.modinfo "$to"
		cp kernel/drivers/net/dummy.ko* "$to/kernel/drivers/net"
		echo kernel >"$to/vmlinuz"`, "to="+filepath.Join(dir, "usr/lib/modules", k))
	modules := filepath.Join(dir, "usr/lib/modules", k)
	switch w.manager.format() {
	case "deb":
		w.check(os.MkdirAll(filepath.Join(dir, "boot"), 0o755))
		w.check(os.Rename(filepath.Join(modules, "vmlinuz"), filepath.Join(dir, "boot/vmlinuz-"+k)))
	case "rpm":
		w.check(os.Symlink("/usr/src/kernels/"+k, filepath.Join(modules, "build")))
	case "archlinux":
		w.check(os.WriteFile(filepath.Join(modules, "pkgbase"), []byte("linux-"+k+"\n"), 0o644))
	}
}

// layHeaders writes the headers of a kernel where the manager's world has them. A part of Debian's stays where it is.
func (w *world) layHeaders(k, dir string) {
	w.t.Helper()
	to := map[string]string{"deb": "usr/src/linux-headers-" + k, "rpm": "usr/src/kernels/" + k, "archlinux": "usr/lib/modules/" + k + "/build"}[w.manager.format()]
	w.host(`mkdir -p "$to/include/config" && cd "$from/usr/src/linux-headers-$real"
		cp -r Makefile .config .kernelvariables Module.symvers arch "$to"
		cp -r include/generated "$to/include"
		cp include/config/auto.conf* include/config/kernel.release "$to/include/config"
		grep -rlF "$real" "$to" | xargs sed -i "s/$real/$k/g"
		for name in scripts tools; do ln -s "$(readlink $name | sed s,^../..,/usr,)" "$to/$name"; done
		mkdir -p "$modules"
		ln -s "$(cd "$from" && echo usr/src/linux-headers-*-common | sed s,^,/,)" "$modules/source"`,
		"k="+k, "to="+filepath.Join(dir, to), "modules="+filepath.Join(dir, "usr/lib/modules", k))
	if w.manager.format() == "deb" {
		w.check(os.Symlink("/"+to, filepath.Join(dir, "usr/lib/modules", k, "build")))
	}
}

// apt is Debian's.
type apt struct{ image, headers map[string]string }

func (*apt) format() string { return "deb" }

func (m *apt) setUp(w *world) {
	w.UseRepository()
	w.Write("/etc/apt/apt.conf.d/98test", "APT::Get::allow-downgrades \"true\";\n", 0o644)
	w.InstallDeb()
	// The scripts of real packages.
	of := func(pkg string) map[string]string {
		list := map[string]string{}
		w.Sh("rm -rf /opt/control && dpkg-deb -e /opt/repo/" + pkg + ".*cloud*.deb /opt/control")
		for name, as := range map[string]string{"preinst": "preinstall", "postinst": "postinstall", "prerm": "preremove", "postrm": "postremove"} {
			if w.Exists("/opt/control/" + name) {
				list[as] = w.Read("/opt/control/" + name)
			}
		}
		return list
	}
	m.image, m.headers = of("linux-image-6"), of("linux-headers-6")
}

func (m *apt) scripts(p toy) map[string]string {
	if p.kernel == "" {
		// As dh_dkms writes them.
		return map[string]string{
			"postinstall": "#!/bin/sh\nset -e\ncase \"$1\" in\nconfigure) /usr/lib/dkms/common.postinst up " + p.version + " /usr/share/up-dkms \"\" $2 ;;\nesac\n",
			"preremove": "#!/bin/sh\nset -e\ncase \"$1\" in\nremove|upgrade|deconfigure)\n  if [ \"$(dkms status -m up -v " + p.version + ")\" ]; then\n" +
				"    dkms remove -m up -v " + p.version + " --all\n  fi\n  ;;\nesac\n",
		}
	}
	real := m.headers
	if strings.HasPrefix(p.name, "linux-image-") {
		real = m.image
	}
	list := map[string]string{}
	for name, text := range real {
		_, rest, _ := strings.Cut(text, "\nversion=")
		version, _, _ := strings.Cut(rest, "\n")
		list[name] = strings.ReplaceAll(text, version, p.kernel)
	}
	return list
}

func (*apt) install(files ...string) []string {
	return append([]string{"apt-get", "install"}, files...)
}
func (*apt) remove(names ...string) []string { return append([]string{"apt-get", "purge"}, names...) }
func (*apt) recover(file string) string {
	return "dpkg --configure -a; apt-get install " + file // the former refuses a package that was killed while unpacked
}

// dnf is Fedora's.
type dnf struct{}

func (*dnf) format() string { return "rpm" }

func (m *dnf) setUp(w *world) {
	w.UseRepository()
	w.Apt("install", "dnf", "rpm")
	w.sayDistro("ID=fedora\nVERSION_ID=42\n")
	w.Write("/etc/dnf/dnf.conf", "[main]\nassumeyes=True\ngpgcheck=0\ninstall_weak_deps=0\n", 0o644)
	// What it needs is there by other packages than its own.
	w.MustRun("rpm", "--install", "--nodeps", w.copyIn(makePackage(w.t, "rpm"), "/opt/ours.rpm"))
}

func (*dnf) scripts(p toy) map[string]string {
	switch {
	case p.kernel == "":
		const id = "-m up -v "
		return map[string]string{
			"postinstall": "dkms add " + id + p.version + " --rpm_safe_upgrade || :\ndkms build " + id + p.version + " || :\ndkms install " + id + p.version + " --force || :\n",
			"preremove":   "dkms remove " + id + p.version + " --all --rpm_safe_upgrade || :\n",
		}
	case strings.HasPrefix(p.name, "linux-image-"):
		return map[string]string{
			"posttrans": "/bin/kernel-install add " + p.kernel + " /lib/modules/" + p.kernel + "/vmlinuz || exit $?\n",
			"preremove": "/bin/kernel-install remove " + p.kernel + " || exit $?\n",
		}
	}
	return nil
}

func (*dnf) install(files ...string) []string {
	// It has a word of its own for going back to the oldest version.
	return append([]string{"sh", "-c", `verb=install
		case "$*-$(rpm -q --queryformat '%{VERSION}' up-dkms)" in *up-dkms-` + good + `.rpm-[2-9]*) verb=downgrade ;; esac
		exec dnf $verb "$@"`, "dnf"}, files...)
}

func (*dnf) remove(names ...string) []string { return append([]string{"dnf", "remove"}, names...) }
func (*dnf) recover(file string) string      { return "dnf reinstall " + file + " || dnf install " + file }

// pacman is Arch's.
type pacman struct{}

func (*pacman) format() string { return "archlinux" }

// setUpPacman installs pacman. As on Arch, sh is bash: install scripts need it.
func (w *world) setUpPacman() {
	w.t.Helper()
	w.Sh("ln -sf bash /usr/bin/sh")
	w.UseRepository()
	w.Apt("install", "pacman-package-manager")
	w.sayDistro("ID=arch\n")
	w.Write("/etc/pacman.conf", "[options]\nArchitecture = auto\nSigLevel = Never\nLocalFileSigLevel = Never\n", 0o644)
}

func (m *pacman) setUp(w *world) {
	w.setUpPacman()
	// As Arch's kmod has it.
	w.Write("/usr/share/libalpm/hooks/60-depmod.hook", `[Trigger]
Type = Path
Operation = Install
Operation = Upgrade
Operation = Remove
Target = usr/lib/modules/*/
Target = !usr/lib/modules/*/?*

[Action]
Description = Updating module dependencies...
When = PostTransaction
Exec = /usr/share/libalpm/scripts/depmod
NeedsTargets
`, 0o644)
	w.Write("/usr/share/libalpm/scripts/depmod", `#!/bin/bash -e
while read -r f; do
	f=${f#usr/lib/modules/} f=/usr/lib/modules/${f%%/*}
	if [ -d "$f/kernel" ]; then
		depmod "${f##*/}"
	else
		rm -f "$f"/modules.{alias,builtin.alias,builtin,dep,symbols}.bin "$f"/modules.{alias,dep,devname,softdep,symbols,weakdep}
		rmdir --ignore-fail-on-non-empty "$f" || :
	fi
done
`, 0o755)
	// What it needs is there by other packages than its own.
	w.MustRun("pacman", "-Udd", "--noconfirm", w.copyIn(makePackage(w.t, "arch"), "/opt/ours.pkg.tar.zst"))
}

func (*pacman) scripts(toy) map[string]string { return nil }
func (*pacman) install(files ...string) []string {
	return append([]string{"pacman", "-U", "--noconfirm"}, files...)
}
func (*pacman) remove(names ...string) []string {
	return append([]string{"pacman", "-Rn", "--noconfirm"}, names...)
}
func (*pacman) recover(file string) string {
	return "rm -f /var/lib/pacman/db.lck && pacman -U --noconfirm " + file
}
