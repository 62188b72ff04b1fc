// Package build builds one package for one kernel, in the package's build
// folder, and keeps what came out of it in the tree.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/artifact"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/jobserver"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/tree"
	"dkms-kernel-install/internal/walk"
)

// Rules counts the changes to what this program does to a module between its
// source and the tree; a build by other rules is not current.
const Rules = 1

// Job is one build.
type Job struct {
	tree.ID
	Source   string // folder of the package's source
	Conf     conf.Conf
	Vars     []string // shell variables for commands, NAME=VALUE
	Kernel   *kernel.Kernel
	Settings conf.Settings
	Tree     tree.Tree
	// Jobs is N of make -jN, where that is added; 0 for no -j, below 0 for one
	// without a limit. Jobserver is where each make of the command that builds
	// the modules gets the right to run more than one job; nil for nowhere.
	Jobs      int
	Jobserver *jobserver.Server
	// Used is what the commands of a build that has ended used.
	Used Usage
	// DependsOn holds the versions of the dependencies that are built
	// against, by package name, where they are to be recorded.
	DependsOn map[string]string
	// Sign appends a signature to a module; nil where modules go unsigned.
	Sign        func(ctx context.Context, module []byte) ([]byte, error)
	Compression kmod.Compression
	Compress    kmod.Options
	// World is what the commands of the build find of the machine, but for the
	// folders of the build; nil where they run as everything else does.
	World *sandbox.World
	// Timeout is how long all commands together may take; 0 is no limit.
	Timeout time.Duration

	// Several says that the package is built for other kernels in the same run:
	// the log of each that fails has a name of its own.
	Several bool

	// Cache, where not nil, keeps what builds made; this one under Key, which
	// names all that it is made from. An empty Key is of a build that
	// nobody can name. Anew makes the build though the cache has it.
	Cache *artifact.Cache
	Key   string
	Anew  bool
	// Changed says, once the build is made, whether what it is made from is
	// no longer what Key names.
	Changed func() bool
	// Cached is set by Run: the build is from the cache. CacheErr is why the
	// cache could not be used, where it could have been.
	Cached   bool
	CacheErr error

	staging staging
}

func (j *Job) target() tree.Target {
	return tree.Target{Release: j.Kernel.Release, Arch: j.Kernel.Arch}
}

// Run builds. Until the very end the build that was there before, if any, stays
// what it was; then the new one takes its place in one step. A failed build
// leaves its folder and log for a person to look at. Errors are of type
// *[failure.Failure].
func (j *Job) Run(ctx context.Context) error {
	err := j.run(ctx)
	walk.RemoveAll(j.staging.top)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		// There is no failure here for anybody to look at.
		return failure.From(context.Cause(ctx), "build interrupted", failure.StatusMake)
	}
	return failure.From(err, "build failed", failure.StatusMake)
}

// checkSource refuses a source that is a dkms.conf and nothing else, as archives
// of builds alone leave it: make would fail, and its log would not say why.
func (j *Job) checkSource() error {
	entries, err := os.ReadDir(j.Source)
	if err != nil {
		return fmt.Errorf("cannot read the source: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "dkms.conf" && !strings.HasPrefix(e.Name(), ".") {
			return nil
		}
	}
	return &failure.Failure{What: "build failed", Why: "there is no source in " + j.Source + ", but a dkms.conf",
		Hint: "install the package that brings the source of " + j.ID.String(), Status: failure.StatusBadConf}
}

func (j *Job) run(ctx context.Context) (err error) {
	if err := j.checkSource(); err != nil {
		return err
	}
	log := j.restore()
	if log == nil {
		if log, err = j.stage(ctx); err != nil {
			return err
		}
		j.logHead(log)
	}
	defer log.Close()
	defer func() {
		if err != nil && ctx.Err() == nil && !j.Cached {
			var limit *sandbox.LimitError
			j.abandon(ctx, errors.As(err, &limit) && limit.Disk)
		}
	}()

	targetDir := j.Tree.TargetDir(j.ID, j.target())
	_, err = os.Lstat(targetDir)
	first := errors.Is(err, os.ErrNotExist)
	tmp := filepath.Join(targetDir, tree.TempName("module"))
	done := false
	defer func() {
		if done {
			return
		}
		walk.RemoveAll(tmp)
		if first {
			// With no build there, neither is what POST_BUILD wrote beside it.
			walk.RemoveAll(targetDir)
		}
		tree.RemoveEmpty(filepath.Dir(targetDir), j.Tree.PackageDir(j.ID))
	}()
	if !j.Cached {
		if err := j.make(ctx, log, targetDir); err != nil {
			return err
		}
	}
	if err := walk.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	for _, m := range j.Conf.Modules {
		if err := j.seal(ctx, m, tmp); err != nil {
			return err
		}
	}
	if err := j.keepSymvers(tmp); err != nil {
		return err
	}
	if err := j.keep(ctx, log, tmp, targetDir); err != nil {
		return fmt.Errorf("cannot keep the modules: %w", err)
	}
	done = true
	// Only now: a cache must not take the room that the build needs.
	j.remember(log, targetDir)
	return j.forget()
}

// make makes the build.
func (j *Job) make(ctx context.Context, log *os.File, targetDir string) error {
	if !j.private() {
		// Where commands write to it themselves.
		if err := errors.Join(os.MkdirAll(targetDir, 0o755), j.share(targetDir)); err != nil {
			return err
		}
	}
	err := j.commands(ctx, log)
	if j.user() != nil && !j.private() {
		err = errors.Join(err, disown(context.WithoutCancel(ctx), targetDir, true))
	}
	return err
}

// private says whether commands write to folders of this build alone.
func (j *Job) private() bool { return j.World != nil && j.World.Features.Mounts }

// commands runs what the package says, and leaves its modules, stripped, in the
// folder raw of the staging, and what it wrote beside its build in out.
func (j *Job) commands(ctx context.Context, log *os.File) error {
	if j.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.Timeout, &sandbox.LimitError{
			What: fmt.Sprintf("it took longer than %v", j.Timeout), Hint: "look at the end of the log; build_timeout in framework.conf is the limit"})
		defer cancel()
	}
	for _, patch := range j.Conf.Patches {
		if err := j.patch(ctx, log, patch); err != nil {
			return err
		}
	}
	if err := j.script(ctx, log, j.world(), j.staging.build, j.Tree.BuildDir(j.ID), "PRE_BUILD", j.Conf.PreBuild); err != nil {
		return err
	}
	if err := j.shell(ctx, log, j.world(), j.buildEnviron(j.world()), j.Tree.BuildDir(j.ID), "build failed", j.makeCommand(), j.Jobserver, failure.StatusMake); err != nil {
		return err
	}
	if err := j.script(ctx, log, j.world(), j.staging.build, j.Tree.BuildDir(j.ID), "POST_BUILD", j.Conf.PostBuild); err != nil {
		return err
	}
	left := int64(maxModules)
	for _, m := range j.Conf.Modules {
		if err := j.collect(m, &left); err != nil {
			return err
		}
	}
	return j.strip(ctx, log)
}

// keep makes the finished modules in tmp the build. What POST_BUILD left, the log
// and, where there was no build, the record of dependencies come first: the rename
// of the modules' folder is the moment at which the build exists.
func (j *Job) keep(ctx context.Context, log *os.File, tmp, targetDir string) error {
	if err := j.keepOut(ctx, targetDir); err != nil {
		return err
	}
	module := filepath.Join(targetDir, "module")
	_, err := os.Lstat(module)
	again := err == nil
	if !again {
		if err := j.keepDepends(targetDir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(targetDir, "log"), 0o755); err != nil {
		return err
	}
	if _, err := log.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(targetDir, "log", "make.log"), log); err != nil {
		return err
	}
	if err := tree.SyncDir(tmp); err != nil {
		return err
	}
	if err := tree.ReplaceDir(tmp, module); err != nil || !again {
		return err
	}
	// Not before: of a run that is killed here the old record costs a build too
	// many, with the old modules the new one would hide that they are old.
	return j.keepDepends(targetDir)
}

// keepDepends records which versions of its dependencies the build is made against.
func (j *Job) keepDepends(targetDir string) error {
	for name, version := range j.DependsOn {
		if err := writeFile(filepath.Join(targetDir, ".dep_"+name), strings.NewReader(version+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// keepOut copies what the commands left beside the build, which other packages may
// look for: files and folders that are not the tree's own.
func (j *Job) keepOut(ctx context.Context, targetDir string) error {
	entries, err := os.ReadDir(j.staging.out)
	if err != nil {
		return err
	}
	// Nobody watches how much we write, and files may have holes.
	size := int64(0)
	err = filepath.WalkDir(j.staging.out, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			fi, err := d.Info()
			if err != nil {
				return err
			}
			size += fi.Size()
		}
		return err
	})
	if err == nil && (size > kmod.MaxSize || size < 0) {
		err = fmt.Errorf("the build left %d bytes beside it, %d are allowed", size, kmod.MaxSize)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if name == "module" || name == "log" || name[0] == '.' || !e.IsDir() && e.Type()&^fs.ModeSymlink != 0 {
			continue
		}
		// In place of what an earlier build left, never into it: that may be a link to
		// the modules.
		tmp := tree.TempName(name)
		if err := walk.RemoveAll(filepath.Join(targetDir, tmp)); err != nil {
			return err
		}
		if err := stageInto(ctx, filepath.Join(j.staging.out, name), targetDir, tmp, nil); err != nil {
			return errors.Join(err, walk.RemoveAll(filepath.Join(targetDir, tmp)))
		}
		if err := tree.ReplaceDir(filepath.Join(targetDir, tmp), filepath.Join(targetDir, name)); err != nil {
			return err
		}
	}
	return nil
}

// keepSymvers keeps Module.symvers, which builds that depend on this one read.
func (j *Job) keepSymvers(tmp string) error {
	f, err := openInside(j.staging.build, "Module.symvers")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot keep Module.symvers: %w", err)
	}
	defer f.Close()
	return writeFile(filepath.Join(tmp, "Module.symvers"), io.LimitReader(f, kmod.MaxSize))
}

// maxModules is how many bytes the modules of a build may have together before they
// are stripped: nobody watches how much we write, and files may have holes.
const maxModules = 4 * kmod.MaxSize

// collect takes one module from the build folder to the folder raw, in which the
// build has no hand any more, and what it takes up from left.
func (j *Job) collect(m conf.Module, left *int64) error {
	in, size, err := j.openModule(j.staging.build, filepath.Join(m.BuiltLocation, m.BuiltName+".ko"))
	if errors.Is(err, os.ErrNotExist) {
		err = errors.New("make succeeded, but did not build it")
	}
	if err != nil {
		return j.badModule(m, err)
	}
	defer in.Close()
	if *left -= size; *left < 0 {
		return j.badModule(m, fmt.Errorf("with it the modules have more than %d bytes together", int64(maxModules)))
	}
	file := filepath.Join(j.staging.raw, m.DestName+".ko")
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	// With all of its debug information it may be large: it is never in memory.
	_, err = io.CopyN(out, in, size)
	return errors.Join(err, out.Close(), j.own(file))
}

// openModule opens the file called name below dir, if it is a module for the kernel,
// and returns its size in bytes, too.
func (j *Job) openModule(dir, name string) (*os.File, int64, error) {
	f, err := openInside(dir, name)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = kmod.Check(f, fi.Size(), j.Kernel.Arch, j.Kernel.Release)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// strip strips the modules in raw that are to be.
func (j *Job) strip(ctx context.Context, log *os.File) error {
	w, dir := j.World, j.staging.raw
	if w != nil {
		world := *w
		world.Tmp, world.Usage = dir, j.staging.top
		if w = &world; w.Features.Mounts {
			dir = "/tmp"
		}
	}
	cmd := exec.Command(j.Kernel.Compiler().Strip, "-g", "--")
	for _, m := range j.Conf.Modules {
		if m.Strip {
			cmd.Args = append(cmd.Args, filepath.Join(dir, m.DestName+".ko"))
		}
	}
	if len(cmd.Args) == 3 {
		return nil
	}
	if err := j.own(j.staging.raw); err != nil {
		return err
	}
	fmt.Fprintf(log, "# command: %s\n", strings.Join(cmd.Args, " "))
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	err := j.start(ctx, log, w, cmd)
	if err == nil {
		return nil
	}
	return &failure.Failure{What: "build failed", Why: fmt.Sprintf("cannot strip the modules: %v", err), Log: j.logPath(), Status: failure.StatusNoModule, Err: err,
		Hint: "check what is in the log; STRIP[#]=no in dkms.conf leaves a module as it is"}
}

// badModule is why a module that a build made will not do.
func (j *Job) badModule(m conf.Module, err error) error {
	var file *fs.PathError // one that cannot be read now
	return &failure.Failure{Lasting: !errors.As(err, &file),
		What: "build failed", Why: filepath.Join(m.BuiltLocation, m.BuiltName+".ko") + ": " + err.Error(),
		Log: j.logPath(), Status: failure.StatusNoModule, Err: err,
		Hint: "check BUILT_MODULE_NAME and BUILT_MODULE_LOCATION in dkms.conf, and what make did in the log"}
}

// signatureRoom is more, in bytes, than the signature of a module takes up.
const signatureRoom = 4 << 10

// sealing is held for each module of more than largeModule bytes while it is in
// memory, where it shall be alone.
var sealing sync.Mutex

const largeModule = 64 << 20

// seal checks, signs and compresses a module of raw to the folder tmp, under the
// name that says how it is compressed.
func (j *Job) seal(ctx context.Context, m conf.Module, tmp string) error {
	f, size, err := j.openModule(j.staging.raw, m.DestName+".ko")
	if err != nil {
		return j.badModule(m, err)
	}
	defer f.Close()
	if size > largeModule {
		sealing.Lock()
		defer sealing.Unlock()
	}
	// With room for what signing appends.
	module := make([]byte, size, size+signatureRoom)
	if _, err := io.ReadFull(f, module); err != nil {
		return j.badModule(m, err)
	}
	if j.Sign != nil {
		if module, err = j.Sign(ctx, module); err != nil {
			return &failure.Failure{What: "signing failed", Why: fmt.Sprintf("%s.ko: %v", m.DestName, err), Status: failure.StatusMake, Err: err,
				Hint: "check mok_signing_key and mok_certificate in framework.conf, or set try_sign_modules=false"}
		}
	}
	out, err := os.OpenFile(filepath.Join(tmp, m.DestName+".ko"+j.Compression.Ext()), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := kmod.Compress(out, module, j.Compression, j.Compress); err != nil {
		return err
	}
	return errors.Join(out.Chmod(0o644), out.Sync())
}

// openInside opens the regular file called name, a relative path, below dir. No
// symbolic link on the way may lead out of dir: the build made everything there.
func openInside(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// Not blocking: a FIFO would keep us waiting for a writer.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("it is no regular file but %s", kind(fi))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func kind(fi os.FileInfo) string {
	switch mode := fi.Mode(); {
	case mode.IsDir():
		return "a folder"
	case mode&os.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&os.ModeSocket != 0:
		return "a socket"
	default:
		return "a device"
	}
}

// writeFile makes file with the content of r and mode 0644, durable.
func writeFile(file string, r io.Reader) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}
