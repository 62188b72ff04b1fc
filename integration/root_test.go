// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Root is a throw-away copy of the root file system.
type Root struct {
	Dir     string        // where it is mounted
	Env     []string      // the environment of every command
	Timeout time.Duration // of Run
	t       testing.TB
	made    made
	fd      *os.File
}

// NewRoot mounts a fresh copy of the cached root file system for the time of the test. Its kernels have few modules of
// their own, unless DKMS_TEST_ALL is set: depmod reads all of them, and would take more time than the builds.
func NewRoot(t testing.TB) *Root {
	t.Helper()
	if os.Getenv("DKMS_TEST_ALL") != "" {
		return NewWholeRoot(t)
	}
	lower, err := small()
	if err != nil {
		t.Fatal(err)
	}
	return newRoot(t, coreSet, lower...)
}

// NewWholeRoot is NewRoot, with all modules of the kernels.
func NewWholeRoot(t testing.TB) *Root { return newRoot(t, coreSet) }

// NewFullRoot is NewWholeRoot for tests that unpack any *-dkms package of the archive.
func NewFullRoot(t testing.TB) *Root {
	t.Helper()
	r := newRoot(t, fullSet)
	r.Timeout = 2 * time.Hour // for the largest packages on a small and busy machine
	return r
}

// small returns the layer that removes most modules of the kernels, and makes it if need be. There is none without a
// root file system.
var small = sync.OnceValues(func() ([]string, error) {
	m := coreSet()
	if m.err != nil || m.skip != "" {
		return nil, nil // newRoot says so
	}
	dir := filepath.Join(os.Getenv(scratchEnv), "small")
	upper, root := filepath.Join(dir, "upper"), filepath.Join(dir, "m")
	for _, d := range []string{"m", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := mountOverlay(root, filepath.Join(m.dir, "root")); err != nil {
		return nil, err
	}
	defer unix.Unmount(root, 0)
	// The modules that packages of the tests displace, and those that tests name, stay.
	cmd := exec.Command("chroot", root, "/bin/sh", "-ec", `cd /usr/lib/modules
		for k in *; do
			find $k/kernel -mindepth 1 -maxdepth 1 ! -name crypto ! -name drivers ! -name lib -exec rm -r {} +
			find $k/kernel/drivers -mindepth 1 -maxdepth 1 ! -name acpi ! -name leds ! -name md ! -name misc ! -name net -exec rm -r {} +
			find $k/kernel/drivers/net -mindepth 1 -maxdepth 1 -type d -exec rm -r {} +
			/usr/sbin/depmod $k
		done`)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return []string{upper}, nil
})

// mountOverlay mounts lower layers, the first on top, below the directory upper beside dir, on dir.
func mountOverlay(dir string, lower ...string) error {
	at := filepath.Dir(dir)
	// redirect_dir: a directory of the lower layer can be renamed, as on any other file system.
	return unix.Mount("overlay", dir, "overlay", 0, fmt.Sprintf("redirect_dir=on,lowerdir=%s,upperdir=%s,workdir=%s",
		strings.Join(lower, ":"), filepath.Join(at, "upper"), filepath.Join(at, "work")))
}

func newRoot(t testing.TB, set func() made, lower ...string) *Root {
	t.Helper()
	r := &Root{t: t, made: get(t, set), Timeout: 10 * time.Minute, Env: []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
	}}
	dir, err := os.MkdirTemp(os.Getenv(scratchEnv), "root.")
	r.check(err)
	r.Dir = filepath.Join(dir, "m")
	for _, d := range []string{"m", "upper", "work"} {
		r.check(os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	t.Cleanup(func() { os.RemoveAll(dir) })

	if err := mountOverlay(r.Dir, append(lower, filepath.Join(r.made.dir, "root"))...); err != nil {
		t.Fatalf("mount overlay: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(r.Dir, unix.MNT_DETACH) })
	r.mount("proc", "proc", "proc", 0, "")
	r.mount("sysfs", "sysfs", "sys", unix.MS_RDONLY, "")
	r.mount("tmpfs", "tmpfs", "dev", 0, "mode=755")
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		file := filepath.Join(r.Dir, "dev", name)
		r.check(unix.Mknod(file, unix.S_IFCHR, int(unix.Mkdev(1, minor))))
		r.check(os.Chmod(file, 0o666))
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		r.check(os.Symlink(target, filepath.Join(r.Dir, "dev", name)))
	}
	r.check(os.Mkdir(filepath.Join(r.Dir, "dev/shm"), 0o777|os.ModeSticky))

	r.fd, err = os.Open(r.Dir)
	r.check(err)
	t.Cleanup(func() { r.fd.Close() })
	// A chroot counts as an image that is being made.
	r.Write("/etc/dkms/framework.conf.d/machine.conf", "image_build=false\n", 0o644)
	t.Cleanup(r.keepBuilds)
	return r
}

func (r *Root) mount(source, fstype, target string, flags uintptr, data string) {
	r.t.Helper()
	if err := unix.Mount(source, filepath.Join(r.Dir, target), fstype, flags, data); err != nil {
		r.t.Fatalf("mount %s: %v", fstype, err)
	}
}

func (r *Root) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// Command returns a command in the root, in its own process group, with a clean environment. The root's env looks it
// up, as exec.LookPath would look outside.
func (r *Root) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/usr/bin/env")
	cmd.Args = append([]string{"env"}, args...)
	cmd.Env = slices.Clone(r.Env)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: r.Dir, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Status         int // 128 + the signal's number if it was killed
	Time           time.Duration
}

func (r Result) String() string {
	return fmt.Sprintf("exit status %d after %v\n%s%s", r.Status, r.Time.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// Run runs a command in the root, for r.Timeout at most.
func (r *Root) Run(args ...string) Result {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), r.Timeout)
	defer cancel()
	cmd := r.Command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	code, err := status(cmd.Run())
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		r.t.Fatalf("%q: %v\n%s%s", args, err, &stdout, &stderr)
	}
	return Result{stdout.String(), stderr.String(), code, time.Since(start)}
}

// MustRun is Run, and any status but 0 ends the test. It returns stdout.
func (r *Root) MustRun(args ...string) string {
	r.t.Helper()
	res := r.Run(args...)
	if res.Status != 0 {
		r.t.Fatalf("%q: %v", args, res)
	}
	return res.Stdout
}

// Sh is MustRun of a shell script.
func (r *Root) Sh(script string) string {
	r.t.Helper()
	return r.MustRun("sh", "-ec", script)
}

// Start starts a command. It is killed with its group at the end of the test.
func (r *Root) Start(args ...string) *exec.Cmd {
	r.t.Helper()
	cmd := r.Command(r.t.Context(), args...)
	r.check(cmd.Start())
	r.t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	return cmd
}

// Processes returns the command lines of the processes in the root.
func (r *Root) Processes() []string {
	var list []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if root, err := os.Readlink(dir + "/root"); err == nil && root == r.Dir {
			line, _ := os.ReadFile(dir + "/cmdline")
			list = append(list, path.Base(dir)+" "+strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " "))
		}
	}
	return list
}

// open opens a path as a process in the root would: no symlink leads out.
func (r *Root) open(name string, flags int, mode os.FileMode) (*os.File, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(int(r.fd.Fd()), path.Join("/", name), how)
	for err == unix.EAGAIN || err == unix.EINTR { // EAGAIN: something was renamed while a ".." was followed
		fd, err = unix.Openat2(int(r.fd.Fd()), path.Join("/", name), how)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), "/proc/self/fd/"+strconv.Itoa(fd)), nil
}

// Open makes Root an fs.FS, for fs.Glob.
func (r *Root) Open(name string) (fs.File, error) {
	return r.open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
}

// Glob returns the paths that match, in order.
func (r *Root) Glob(pattern string) []string {
	r.t.Helper()
	list, err := fs.Glob(r, strings.TrimPrefix(pattern, "/"))
	r.check(err)
	for i := range list {
		list[i] = "/" + list[i]
	}
	return list
}

// Exists reports whether the path exists, even as a symlink that leads nowhere.
func (r *Root) Exists(name string) bool {
	f, err := r.open(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// Read returns a file's content.
func (r *Root) Read(name string) string {
	r.t.Helper()
	f, err := r.open(name, unix.O_RDONLY, 0)
	r.check(err)
	defer f.Close()
	b, err := io.ReadAll(f)
	r.check(err)
	return string(b)
}

// Write writes a file, and makes the directories above it that are missing.
func (r *Root) Write(name, content string, mode os.FileMode) {
	r.t.Helper()
	r.mkdirAll(path.Dir(path.Join("/", name)))
	f, err := r.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, mode)
	r.check(err)
	_, err = f.WriteString(content)
	r.check(errors.Join(err, f.Chmod(mode), f.Close()))
}

func (r *Root) mkdirAll(dir string) {
	r.t.Helper()
	if r.Exists(dir) {
		return
	}
	r.mkdirAll(path.Dir(dir))
	parent, err := r.open(path.Dir(dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	r.check(err)
	defer parent.Close()
	r.check(unix.Mkdirat(int(parent.Fd()), path.Base(dir), 0o755))
}

// Kernels lists the installed kernels' releases.
func (r *Root) Kernels() []string {
	var list []string
	for _, dir := range r.Glob("/usr/lib/modules/*/vmlinuz") {
		list = append(list, path.Base(path.Dir(dir)))
	}
	return list
}

// layIn copies the files of a cached package into the root, as unpacking it would.
func (r *Root) layIn(pkg string) string {
	r.t.Helper()
	return r.layInFrom(r.made, pkg)
}

// layInFrom is layIn of another release's package.
func (r *Root) layInFrom(release made, pkg string) string {
	r.t.Helper()
	dir := filepath.Join(release.dir, "src", pkg)
	// With this machine's tar, as the root does not see the cache. In the root /lib and the like are symlinks.
	tar := exec.Command("sh", "-c", `tar -C "$1" -c . | tar -C "$2" --keep-directory-symlink -xp`, "sh", dir, r.Dir)
	if out, err := tar.CombinedOutput(); err != nil {
		r.t.Fatalf("unpack %s: %v\n%s", pkg, err, out)
	}
	return dir
}

// Unpack copies a *-dkms package's files into the root, as dpkg does before it runs the postinst, and returns the
// package's name and version, as bash reads them in its conf.
func (r *Root) Unpack(pkg string) (m, v string) {
	r.t.Helper()
	confs, err := filepath.Glob(filepath.Join(r.layIn(pkg), "usr/src/*/dkms.conf"))
	r.check(err)
	if len(confs) != 1 {
		r.t.Fatalf("%s has %d dkms.conf files", pkg, len(confs))
	}
	src := path.Base(path.Dir(confs[0]))
	m = strings.TrimSpace(r.Sh(`cd /usr/src/` + src + ` && bash -c '. ./dkms.conf >/dev/null 2>&1; echo "$PACKAGE_NAME"'`))
	v, ok := strings.CutPrefix(src, m+"-")
	if !ok {
		r.t.Fatalf("%s: directory %s is not of module %s", pkg, src, m)
	}
	return m, v
}

var makeLock sync.Mutex // held while make runs: all write the same binary

// InstallProgram installs the program that is tested, as the Makefile does.
func (r *Root) InstallProgram() {
	r.t.Helper()
	makeLock.Lock()
	defer makeLock.Unlock()
	makeIn(r.t, "..", "install", "DESTDIR="+r.Dir)
}

// InstallPeer installs all of Debian's dkms: the command, its kernel-install plugin and its kernel hooks.
func (r *Root) InstallPeer() { r.t.Helper(); r.layIn("dkms") }

// Peer runs Debian's dkms, whether or not it is installed.
func (r *Root) Peer(args ...string) Result {
	r.t.Helper()
	const file = "/opt/peer/dkms"
	if !r.Exists(file) {
		script, err := os.ReadFile(filepath.Join(r.made.dir, "src/dkms/usr/sbin/dkms"))
		r.check(err)
		r.Write(file, string(script), 0o755)
	}
	return r.Run(append([]string{file}, args...)...)
}

// UseRepository makes mkroot's /opt/repo the only source of apt in the root. It needs no network. Services are not
// started.
func (r *Root) UseRepository() {
	r.t.Helper()
	r.Env = append(r.Env, "DEBIAN_FRONTEND=noninteractive")
	r.Write("/etc/apt/sources.list", "deb [trusted=yes] file:/opt/repo ./\n", 0o644)
	r.Write("/etc/apt/apt.conf.d/99test", `APT::Get::Assume-Yes "true";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Dpkg::Use-Pty "false";
DPkg::Options:: "--force-unsafe-io";
`, 0o644)
	r.Write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
	r.MustRun("apt-get", "update")
}

// AddToRepository makes a package from a directory of the root, laid out as by dpkg-deb -R, and adds it to the
// repository of UseRepository.
func (r *Root) AddToRepository(dir string) {
	r.t.Helper()
	r.Sh("mkdir -p /opt/more && dpkg-deb --root-owner-group -b " + dir + " /opt/more && cd /opt/more && dpkg-scanpackages -m . >Packages")
	r.Write("/etc/apt/sources.list.d/more.list", "deb [trusted=yes] file:/opt/more ./\n", 0o644)
	r.MustRun("apt-get", "update")
}

// Apt runs apt-get, which must succeed and leave no package half installed, and returns its output.
func (r *Root) Apt(args ...string) string {
	r.t.Helper()
	res := r.Run(append([]string{"apt-get"}, args...)...)
	if res.Status != 0 {
		r.t.Fatalf("apt-get %q: %v", args, res)
	}
	if audit := r.MustRun("dpkg", "--audit"); audit != "" {
		r.t.Fatalf("apt-get %q leaves: %s", args, audit)
	}
	return res.Stdout + res.Stderr
}

// InstallDeb installs the program that is tested with apt, as the package that the Makefile makes.
func (r *Root) InstallDeb() {
	r.t.Helper()
	r.Apt("install", r.copyIn(makePackage(r.t, "deb"), "/root/dkms-kernel-install.deb"))
}

// copyIn copies a file of this machine to a path in the root, and returns that path.
func (r *Root) copyIn(file, to string) string {
	r.t.Helper()
	text, err := os.ReadFile(file)
	r.check(err)
	r.Write(to, string(text), 0o644)
	return to
}

// Entry is a file in a Snapshot: its type and mode, and the target of a symlink.
type Entry struct{ Mode, Target string }

// own reports whether only our program makes files of this name in the tree.
func own(name string) bool {
	return name == ".lock" || name == ".fingerprint.json" || strings.HasPrefix(name, ".placed-")
}

// Snapshot lists the files in the DKMS tree and below /lib/modules, except depmod's indexes.
func (r *Root) Snapshot() map[string]Entry {
	r.t.Helper()
	snap := map[string]Entry{}
	for _, top := range []string{"/var/lib/dkms", "/usr/lib/modules"} {
		err := filepath.WalkDir(filepath.Join(r.Dir, top), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(file, r.Dir)
			if index, _ := path.Match("/usr/lib/modules/*/modules.*", name); index || own(path.Base(name)) {
				return nil
			}
			mode := info.Mode()
			if path.Base(name) == "make.log" {
				mode &^= 0o007 // ours are not for everybody
			}
			e := Entry{Mode: mode.String()}
			if d.Type() == fs.ModeSymlink {
				e.Target, err = os.Readlink(file)
			}
			snap[name] = e
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.t.Fatal(err)
		}
	}
	return snap
}

// Packages lists the cached *-dkms packages.
func (r *Root) Packages() []string {
	r.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(r.made.dir, "src/*-dkms"))
	r.check(err)
	for i := range dirs {
		dirs[i] = path.Base(dirs[i])
	}
	return dirs
}

// commandOutput runs a command on this machine and returns what it prints.
func commandOutput(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return string(out)
}
