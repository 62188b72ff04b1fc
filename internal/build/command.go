package build

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/jobserver"
	"dkms-kernel-install/internal/sandbox"
)

// evalScript runs the command in $1 with the shell variables that follow. It is
// the shell's job to expand the command: values in a conf are expanded once when
// it is read, and what they leave, such as \$kernelver, when the command runs.
const evalScript = `__command=$1
shift
for __variable; do printf -v "${__variable%%=*}" %s "${__variable#*=}"; done
set --
eval "$__command"
exit $?`

// makeCommand returns the command that builds the modules.
func (j *Job) makeCommand() string {
	command := j.Conf.Make
	if command == "" {
		command = "make -C " + quote(j.Kernel.SourceDir) + " M=" + quote(j.Tree.BuildDir(j.ID))
	}
	if !Bare(command) {
		return command
	}
	make := "make"
	switch {
	case j.Jobs > 0:
		make += " -j" + strconv.Itoa(j.Jobs)
	case j.Jobs < 0:
		make += " -j"
	}
	make += " KERNELRELEASE=" + quote(j.Kernel.Release)
	for _, a := range j.Kernel.Compiler().Args {
		make += " " + a
	}
	return make + strings.TrimPrefix(command, "make")
}

// Script runs the script that directive names, with its arguments: the one in
// /etc/dkms/M if the administrator put one there, else the package's own below
// dir, in folder dir. Its output goes to log. It may change the system.
func (j *Job) Script(ctx context.Context, log *os.File, dir, directive, value string) error {
	return j.script(ctx, log, nil, dir, dir, directive, value)
}

// script is Script in a world, where dir is found as seen.
func (j *Job) script(ctx context.Context, log *os.File, w *sandbox.World, dir, seen, directive, value string) error {
	if value == "" {
		return nil
	}
	// Line breaks in the value are there for the reader of the conf.
	value = strings.TrimSpace(strings.ReplaceAll(value, "\n", " "))
	name, args, _ := strings.Cut(value, " ")
	what := directive + " failed"
	if !filepath.IsLocal(name) {
		return &failure.Failure{What: what, Why: fmt.Sprintf("%q leads out of the source", name), Status: failure.StatusBadConf, Lasting: true,
			Hint: "correct " + directive + " in dkms.conf"}
	}
	script := filepath.Join(seen, name)
	if override := filepath.Join(j.Settings.EtcDir, j.Name, name); executable(override) {
		script = override
	} else if !executable(filepath.Join(dir, name)) {
		// Packages name scripts that only some systems need.
		fmt.Fprintf(log, "# %s: %s is not an executable file, passed over\n", directive, script)
		return nil
	}
	status := failure.StatusMake
	if directive == "PRE_INSTALL" {
		status = failure.StatusPreInstall
	}
	env := j.environ(w)
	if strings.HasSuffix(directive, "_BUILD") {
		env = j.buildEnviron(w)
	}
	return j.shell(ctx, log, w, env, seen, what, quote(script)+" "+args, nil, status)
}

func executable(file string) bool {
	fi, err := os.Stat(file)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

func (j *Job) patch(ctx context.Context, log *os.File, name string) error {
	fail := func(why string, status int) *failure.Failure {
		return &failure.Failure{What: "patch failed", Why: why, Log: j.logPath(), Status: status, Lasting: true,
			Hint: "correct PATCH in dkms.conf, or the file in patches/"}
	}
	if !filepath.IsLocal(name) || strings.Contains(name, "..") {
		return fail(fmt.Sprintf("%q leads out of the patches folder", name), failure.StatusPatchUnsafe)
	}
	f, err := openInside(j.staging.build, filepath.Join("patches", name))
	if errors.Is(err, os.ErrNotExist) {
		return fail(fmt.Sprintf("patches/%s is missing", name), failure.StatusPatchUnsafe)
	}
	if err != nil {
		f := fail(fmt.Sprintf("patches/%s: %v", name, err), failure.StatusPatchUnsafe)
		f.Lasting = false
		return f
	}
	defer f.Close()
	// Without a question, and without its usual answer: what is in the source
	// already would be taken out of it again.
	cmd := exec.Command("patch", "-p1", "--batch", "--forward")
	cmd.Dir, cmd.Stdin = j.Tree.BuildDir(j.ID), f
	fmt.Fprintf(log, "# patch: %s\n", name)
	if err := j.start(ctx, log, j.world(), cmd); errors.Is(err, exec.ErrNotFound) {
		return &failure.Failure{What: "patch failed", Why: "the program patch is not installed", Status: failure.StatusPatch, Err: err, Hint: "install patch"}
	} else if err != nil {
		f := fail(fmt.Sprintf("patches/%s does not apply (%v)", name, err), failure.StatusPatch)
		// With 2, patch says that it had trouble of another kind.
		var exit *exec.ExitError
		f.Lasting = errors.As(err, &exit) && exit.ExitCode() == 1 && ctx.Err() == nil
		return f
	}
	return nil
}

// world is what the build's commands find; nil where there is nothing special.
func (j *Job) world() *sandbox.World {
	if j.World == nil {
		return nil
	}
	w := *j.World
	target := j.Tree.TargetDir(j.ID, j.target())
	w.Tmp, w.Usage = j.staging.tmp, j.staging.top
	out := j.staging.out
	if !w.Features.Mounts {
		out = target
	}
	w.Writable = append([]sandbox.Bind{{From: j.staging.build, To: j.Tree.BuildDir(j.ID)}, {From: out, To: target}}, w.Writable...)
	return &w
}

// start runs cmd in a world, or outside of any where that is nil, with its output
// in log.
func (j *Job) start(ctx context.Context, log *os.File, w *sandbox.World, cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = log, log
	defer func() { j.Used.add(cmd.ProcessState) }()
	if w == nil {
		return child.Run(ctx, cmd)
	}
	return w.Run(ctx, cmd)
}

// shell runs a shell command in dir, with the environment env and with its output
// in log. Where server is not nil, each make that it starts gets jobs from there.
func (j *Job) shell(ctx context.Context, log *os.File, w *sandbox.World, env []string, dir, what, command string, server *jobserver.Server, status int) error {
	fmt.Fprintf(log, "# command: %s\n", command)
	start, _ := log.Seek(0, io.SeekEnd)
	where := ""
	if log.Name() != "" { // what has no name nobody can look into
		where = j.logPath()
	}
	cmd := exec.Command("bash", append([]string{"--norc", "--noprofile", "-c", evalScript, "dkms", command}, j.Vars...)...)
	cmd.Dir = dir
	cmd.Env = env
	if server != nil {
		done, err := server.Share(cmd)
		if err != nil {
			return fmt.Errorf("cannot share the jobserver: %w", err)
		}
		defer done()
	}
	err := j.start(ctx, log, w, cmd)
	fmt.Fprintf(log, "\n# exit status: %s\n", exitStatus(err))
	var limit *sandbox.LimitError
	if errors.As(err, &limit) {
		return &failure.Failure{What: what, Why: limit.What, Hint: limit.Hint, Log: where, Status: status, Err: err}
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	f := &failure.Failure{What: what, Log: where, Status: status, Err: err}
	f.Lasting = lasting(err, io.NewSectionReader(log, start, 1<<62))
	if f.Why = decisive(io.NewSectionReader(log, start, 1<<62)); f.Why == "" {
		f.Why = exitStatus(err)
	}
	f.Why = strings.ReplaceAll(f.Why, j.Tree.BuildDir(j.ID)+"/", "")
	f.Hint = hint(f.Why)
	if f.Hint == "" {
		f.Hint = fmt.Sprintf("look into the log; a newer version of %s may support kernel %s", j.Name, j.Kernel.Release)
	}
	return f
}

// environ is what commands of the package see.
func (j *Job) environ(w *sandbox.World) []string {
	env := conf.Environ(os.Environ(),
		"LC_MESSAGES=C", // what decisive looks for is English
		"kernelver="+j.Kernel.Release, "arch="+j.Kernel.Arch, "module="+j.Name, "module_version="+j.Version)
	if cc := j.Kernel.Compiler().CC; cc != "" {
		env = append(env, "CC="+cc, "KERNEL_CC="+cc)
	}
	// For a command that gets no arguments of ours.
	for _, a := range j.Kernel.Compiler().Args {
		if strings.HasPrefix(a, "LLVM=") {
			env = append(env, a)
		}
	}
	if w != nil {
		tmp := j.staging.tmp
		if w.Features.Mounts {
			tmp = "/tmp"
		}
		env = append(env, "HOME="+tmp, "TMPDIR="+tmp)
	}
	return append(env, j.buildEnvironment()...)
}

func (j *Job) buildEnvironment() (env []string) {
	for _, v := range j.Settings.BuildEnvironment {
		env = append(env, conf.ForKernel(v, j.Kernel.Release))
	}
	return env
}

// same makes two builds of the same the same, whoever makes them, where, and
// when. It is the environment of commands that build, and of no others: an
// initramfs that POST_INSTALL makes has a time of its own.
var same = []string{
	"LC_ALL=C", "LANG=C", "TZ=UTC",
	// A time that programs take for one, and not for a mistake: 2020-01-01.
	"SOURCE_DATE_EPOCH=1577836800", "KBUILD_BUILD_TIMESTAMP=Wed Jan  1 00:00:00 UTC 2020",
	"KBUILD_BUILD_USER=dkms", "KBUILD_BUILD_HOST=localhost",
	// The order in which scripts see what has none.
	"PYTHONHASHSEED=0", "PERL_HASH_SEED=0",
}

// buildEnviron is what commands that build see. What build_environment says wins.
func (j *Job) buildEnviron(w *sandbox.World) []string {
	return slices.Concat(j.environ(w), same, j.buildEnvironment())
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

// causes are what a line looks like that explains a failed build, the most
// telling first.
var causes = []*regexp.Regexp{
	regexp.MustCompile(`: (fatal )?error: `),
	regexp.MustCompile(`^ERROR: modpost: `),
	regexp.MustCompile(`(?i)\b(undefined reference|undefined symbol)`),
	regexp.MustCompile(`No space left on device|Killed|out of memory|Cannot allocate memory`),
	regexp.MustCompile(`: (command )?not found$|: Permission denied$|: No such file or directory$`),
	regexp.MustCompile(`(?i)^(configure: )?error\b`),
	regexp.MustCompile(`(?i)\berror:`),
	regexp.MustCompile(`^make(\[\d+\])?: \*\*\* .*No rule to make target`),
	regexp.MustCompile(`\*\*\*`),
}

// passing matches what a line of a log looks like that tells of something which may
// be otherwise the next time, whatever it is that failed in the end.
var passing = regexp.MustCompile(`No space left on device|[Kk]illed|out of memory|memory exhausted|Cannot allocate memory|` +
	`Resource temporarily unavailable|Too many open files|[Dd]isk quota|Input/output error|Read-only file system|` +
	`Permission denied|Operation not permitted|Text file busy|Stale file handle|[Tt]imed out|Temporary failure|` +
	`Could not resolve|Connection refused|Network is unreachable|internal compiler error|Segmentation fault|Bus error|Terminated|Interrupt|` +
	`: (?:command )?not found$|^make(?:\[\d+\])?: .*: No such file or directory$`)

// lasting says whether a command that ended with err, and said what is in log,
// will do so again while nothing changes: it ended by itself, and nothing in the log
// is about the machine. In doubt it is not, and is tried again.
func lasting(err error, log io.Reader) bool {
	var exit *exec.ExitError
	// A shell has 126 and 127 for what cannot be run, and more for signals.
	if !errors.As(err, &exit) || exit.ExitCode() <= 0 || exit.ExitCode() >= 126 {
		return false
	}
	r := bufio.NewReader(log)
	for {
		line, _, err := r.ReadLine()
		if err != nil {
			return err == io.EOF
		}
		if passing.Match(bytes.TrimSpace(line)) {
			return false
		}
	}
}

// decisive returns the line of a log that tells why it ends in a failure: the
// first of the most telling kind, else the last line of all.
func decisive(log io.Reader) string {
	best, rank, last := "", len(causes), ""
	r := bufio.NewReader(log)
	for {
		// A line longer than the buffer is looked at in parts.
		part, _, err := r.ReadLine()
		if err != nil {
			break
		}
		line := strings.ToValidUTF8(string(bytes.TrimSpace(part)), "?")
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		last = line
		for i, re := range causes[:rank] {
			if re.MatchString(line) {
				best, rank = line, i
				break
			}
		}
	}
	if best == "" {
		best = last
	}
	if len(best) > 300 {
		best = strings.ToValidUTF8(best[:300], "") + "…"
	}
	return best
}

var notFound = regexp.MustCompile(`(?:^|[\s/])([\w.+-]+): (?:command )?not found$`)

// hint says what to do about the cause that a log line shows, if it is known.
func hint(line string) string {
	switch m := notFound.FindStringSubmatch(line); {
	case m != nil:
		return "install the program " + m[1]
	case strings.Contains(line, "No space left on device"):
		return "make room on the file system, then run it again"
	case strings.Contains(line, "out of memory"), strings.Contains(line, "Cannot allocate memory"), strings.Contains(line, "Killed"):
		return "the build ran out of memory: run it again with fewer jobs (parallel_jobs in framework.conf)"
	}
	return ""
}
