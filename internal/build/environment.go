// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/jobserver"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/tree"
)

// Environment is what the commands of a package find when they work for a kernel.
type Environment struct {
	tree.ID
	Kernel   *kernel.Kernel
	Settings conf.Settings
	Vars     []string // shell variables, NAME=VALUE
	// Exports is what commands that build find in the environment besides, from the
	// file that build_environment names, NAME=VALUE.
	Exports []string
	// Passed is what they find besides that and besides what is passed from the
	// caller, NAME=VALUE.
	Passed []string
}

// Script runs the script that directive names, with its arguments: the one in
// /etc/dkms/M if the administrator put one there, else the package's own, in dir,
// the package's source. The script may change the system.
func (e Environment) Script(ctx context.Context, dir, directive, value string) error {
	if value == "" {
		return nil
	}
	// The output has no place of its own: what matters of it goes into the error.
	fd, err := unix.MemfdCreate(directive, unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	log := os.NewFile(uintptr(fd), directive)
	defer log.Close()
	if limit := e.Settings.BuildTimeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, &failure.Failure{
			What: directive + " failed", Why: fmt.Sprintf("it took more than %v", limit), Status: scriptStatus(directive),
			Hint: "run the script by hand to see what it waits for, or set build_timeout in framework.conf"})
		defer cancel()
	}
	r := runner{Environment: e, log: log, among: true}
	err = r.script(ctx, script{directive: directive, value: value, dir: dir, seen: dir})
	var f *failure.Failure
	if errors.As(err, &f) && f.Hint == "" {
		f.Hint = "run the script by hand"
	}
	return err
}

// environ is what commands see besides env.
func (e Environment) environ(env []string) []string {
	env = append(env,
		"LC_MESSAGES=C", // what decisive looks for is English
		"kernelver="+e.Kernel.Release, "arch="+e.Kernel.Arch, "module="+e.Name, "module_version="+e.Version)
	compiler := e.Kernel.Compiler()
	if cc := compiler.CC; cc != "" {
		env = append(env, "CC="+cc, "KERNEL_CC="+cc)
	}
	// For a command that does not get the arguments for make.
	for _, a := range compiler.Args {
		if strings.HasPrefix(a, "LLVM=") {
			env = append(env, a)
		}
	}
	return append(env, e.Settings.BuildEnvironment...)
}

// same makes two builds of the same the same, whoever makes them, where, and
// when. It is the environment of commands that build, and of no others: an
// initramfs that POST_INSTALL makes has a time of its own.
var same = []string{
	"LC_ALL=C", "LANG=C", "TZ=UTC",
	// A time that programs do not take for a mistake: 2020-01-01.
	"SOURCE_DATE_EPOCH=1577836800", "KBUILD_BUILD_TIMESTAMP=Wed Jan  1 00:00:00 UTC 2020",
	"KBUILD_BUILD_USER=dkms", "KBUILD_BUILD_HOST=localhost",
	// The order in which scripts see what has none.
	"PYTHONHASHSEED=0", "PERL_HASH_SEED=0",
}

// buildEnviron is environ for commands that build in w, whose temporary files go to
// tmp. What build_environment says wins, but for the pass phrase of a key, which no
// build gets.
func (e Environment) buildEnviron(w *sandbox.World, tmp string) []string {
	allowed := e.Settings.Allowed(e.Name)
	env := e.environ(conf.Confined(os.Environ(), allowed.Network || allowed.All, e.Passed...))
	if w != nil {
		env = append(env, w.Environ(tmp)...)
	}
	env = slices.Concat(env, same, e.Settings.BuildEnvironment, e.Exports)
	return slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, conf.SignPIN+"=") })
}

// runner runs commands of a package, with their output in a log.
type runner struct {
	Environment
	log *os.File
	// path is where people find the log; empty if they cannot.
	path string
	dir  string // the build directory, which messages leave out of paths
	used Usage
	// among says that commands outside of any world run among the machine's processes:
	// a script may restart a daemon.
	among bool
	// passedOver is what to do about a script that is there and did not run: a command
	// after it may fail for that.
	passedOver string
}

// start runs cmd in a world, or outside of any if that is nil.
func (r *runner) start(ctx context.Context, w *sandbox.World, cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = r.log, r.log
	defer func() { r.used.add(cmd.ProcessState) }()
	switch {
	case w != nil:
		return w.Run(ctx, cmd)
	case r.among:
		return child.RunAmong(ctx, cmd)
	}
	return child.Run(ctx, cmd)
}

// command is a shell command.
type command struct {
	text   string
	dir    string
	env    []string
	world  *sandbox.World    // nil for none
	jobs   *jobserver.Server // of each make that it starts; nil for none
	what   string            // what has failed if it does
	status int               // the exit status for that
}

// evalScript runs the command in $1 with the shell variables that follow. It is
// the shell's job to expand the command: values in a conf are expanded once when
// it is read, and what they leave, such as \$kernelver, when the command runs.
const evalScript = `__command=$1
shift
for __variable; do printf -v "${__variable%%=*}" %s "${__variable#*=}"; done
set --
eval "$__command"
exit $?`

// shell runs a shell command.
func (r *runner) shell(ctx context.Context, c command) error {
	fmt.Fprintf(r.log, "# command: %s\n", c.text)
	start, _ := r.log.Seek(0, io.SeekEnd)
	cmd := exec.Command("bash", append([]string{"--norc", "--noprofile", "-c", evalScript, "dkms", c.text}, r.Vars...)...)
	cmd.Dir, cmd.Env = c.dir, c.env
	if c.jobs != nil {
		done, err := c.jobs.Share(cmd)
		if err != nil {
			return fmt.Errorf("cannot share the jobserver: %w", err)
		}
		defer done()
	}
	err := r.start(ctx, c.world, cmd)
	end, _ := r.log.Seek(0, io.SeekEnd)
	fmt.Fprintf(r.log, "\n# exit status: %s\n", exitStatus(err))
	var limit *sandbox.LimitError
	if errors.As(err, &limit) {
		return &failure.Failure{What: c.what, Why: limit.What, Hint: limit.Hint, Log: r.path, Status: c.status, Err: err}
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	said, whole, errLog := excerpt(r.log, start, end)
	if errLog != nil {
		return fmt.Errorf("cannot read the log: %w", errLog)
	}
	f := &failure.Failure{What: c.what, Log: r.path, Status: c.status, Err: err, Lasting: whole && lasting(err, said)}
	if f.Why, f.Hint = decisive(bytes.NewReader(said)); f.Why == "" {
		f.Why = exitStatus(err)
	}
	if r.dir != "" {
		f.Why = strings.ReplaceAll(f.Why, r.dir+"/", "")
	}
	if f.Hint == "" {
		f.Hint = r.passedOver
	}
	if f.Hint == "" {
		f.Hint = fmt.Sprintf("look into the log; a newer version of %s may support kernel %s", r.Name, r.Kernel.Release)
	}
	return f
}

// script is a script of a package: the directive that names it, the directive's
// value, and the directory that it is in and runs in, by its path here and by the
// one that the script sees. The administrator's script that takes its place runs in
// /etc/dkms/M.
type script struct {
	directive, value string
	dir, seen        string
	env              []string       // nil for that of commands outside of any world
	world            *sandbox.World // nil for none
}

// script runs s.
func (r *runner) script(ctx context.Context, s script) error {
	if s.value == "" {
		return nil
	}
	// Line breaks in the value are there for the reader of the conf.
	name, args, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(s.value, "\n", " ")), " ")
	what := s.directive + " failed"
	if !filepath.IsLocal(name) {
		f := &failure.Failure{What: what, Why: fmt.Sprintf("%q leads out of the source", name), Status: failure.StatusBadConf, Lasting: true,
			Hint: fmt.Sprintf("correct %s in dkms.conf; a script of your own has its place in %s", s.directive, filepath.Join(r.Settings.EtcDir, r.Name))}
		if s.directive == "POST_BUILD" {
			f.Hint += "; one that signs, sign_file in framework.conf names"
		}
		return f
	}
	file := filepath.Join(s.seen, name)
	if own := filepath.Join(r.Settings.EtcDir, r.Name); executable(filepath.Join(own, name)) {
		file, s.seen = filepath.Join(own, name), own
	} else if !executable(filepath.Join(s.dir, name)) {
		// Packages name scripts that only some systems need.
		fmt.Fprintf(r.log, "# %s: %s is not an executable file, passed over\n", s.directive, file)
		if files.Exists(filepath.Join(s.dir, name)) {
			r.passedOver = fmt.Sprintf("make %s in the source executable, with chmod +x: it is %s, and was passed over", name, s.directive)
		}
		return nil
	}
	if s.env == nil {
		s.env = r.environ(conf.Environ(os.Environ()))
	}
	return r.shell(ctx, command{text: quote(file) + " " + args, dir: s.seen, env: s.env, world: s.world, what: what, status: scriptStatus(s.directive)})
}

// scriptStatus returns the exit status for a failure of the script that directive names.
func scriptStatus(directive string) int {
	if directive == "PRE_INSTALL" {
		return failure.StatusPreInstall
	}
	return failure.StatusMake
}

func executable(file string) bool {
	fi, err := os.Stat(file)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

func exitStatus(err error) string {
	if err == nil {
		return "0"
	}
	return err.Error()
}

// quote makes s one word of a shell command.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-:@%,=~") == "" && s[0] != '~' {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
