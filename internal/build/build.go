// SPDX-License-Identifier: GPL-2.0-or-later

// Package build builds one package for one kernel, in the package's build
// directory, and keeps in the tree what came out of it. It takes a description of
// the build and returns its result.
package build

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/jobserver"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/store"
	"dkms-kernel-install/internal/tree"
)

// Description says what is to be built, and with what.
type Description struct {
	Environment
	Source string // directory of the package's source
	Conf   conf.Conf
	Tree   tree.Tree
	// Jobs is N of make -jN, if that is added; 0 for no -j, below 0 for one
	// without a limit. Jobserver is where each make of the command that builds
	// the modules gets the right to run more than one job; nil for none.
	Jobs      int
	Jobserver *jobserver.Server
	// DependsOn holds the versions of the dependencies that are built against, by
	// package name, if they are to be recorded.
	DependsOn map[string]string
	// Sign appends a signature to a module that has none; nil if modules go unsigned.
	// If it fails, they do as well, unless MustSign is set: then the build fails.
	Sign        func(ctx context.Context, module []byte) ([]byte, error)
	MustSign    bool
	Compression codec.Compression
	Level       int // of the compression; see [codec.WriterOptions]
	// World is what the commands of the build can see and do, apart from the
	// directories of the build; nil if they run unconfined.
	World *sandbox.World
	// Timeout is how long all commands together may take; 0 is no limit.
	Timeout time.Duration
	// Several reports whether the package is built for other kernels in the same
	// run: the log of each that fails has a name of its own.
	Several bool

	// Store, if it is not nil, keeps the build under Key, which names everything
	// that it is made from. A build with an empty Key is not kept. Again makes the
	// build even if the store has it.
	Store store.Store
	Key   string
	Again bool
	// Resign signs the modules that are in the tree anew, if it can, instead of building.
	Resign bool
	// Changed reports, once the build is made, whether what it is made from may have
	// changed since Key was made; nil if it cannot.
	Changed func() bool
	// Record records what the build made is made from, whose modules are in the directory
	// at, and are put in place next; nil if it is not recorded.
	Record func(at string, made Result) error
	// Names reports whether Key names the content of the file at path, which is absolute
	// and without symbolic links, and not one of the build's own.
	Names func(path string) bool
}

// Result is what a build has made.
type Result struct {
	Modules []string // file names of the modules in the tree, such as foo.ko.xz, sorted
	Used    Usage    // what its commands used
	Stored  bool     // the modules are from the store, or Resigned: no command ran
	// Resigned reports whether the modules are those that were in the tree.
	Resigned bool
	// Unsigned is why modules have no signature by Sign; nil if they have.
	Unsigned error
	// Unrecorded is why Record failed; nil if it did not.
	Unrecorded error
	// StoreErr is why the store could not be used.
	StoreErr error
	// Unkept is why the store does not keep the build, if that is something that the
	// build did; else nil.
	Unkept error
}

// job is a build in progress.
type job struct {
	Description
	Result
	run     runner
	staging staging
}

func (d Description) target() tree.Target {
	return tree.Target{Release: d.Kernel.Release, Arch: d.Kernel.Arch}
}

// Run builds. An earlier build stays as it is until the very end, when the new one
// takes its place in one step. A failed build leaves its directory and its log for a
// person to look at. Errors are of type *[failure.Failure].
func Run(ctx context.Context, d Description) (Result, error) {
	j := &job{Description: d}
	j.run = runner{Environment: d.Environment, path: j.logPath(), dir: d.Tree.BuildDir(d.ID)}
	err := j.build(ctx)
	j.Used = j.run.used
	files.RemoveAll(j.staging.top)
	if err == nil {
		return j.Result, nil
	}
	if ctx.Err() != nil {
		// What was interrupted is no failure to look at.
		return j.Result, failure.From(context.Cause(ctx), "build interrupted", failure.StatusMake)
	}
	return j.Result, failure.From(err, "build failed", failure.StatusMake)
}

// checkSource refuses a source that is a dkms.conf and nothing else, as archives
// of builds alone leave it: make would fail, and its log would not say why.
func (d Description) checkSource() error {
	entries, err := os.ReadDir(d.Source)
	if err != nil {
		return fmt.Errorf("cannot read the source: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "dkms.conf" && !strings.HasPrefix(e.Name(), ".") {
			return nil
		}
	}
	return &failure.Failure{What: "build failed", Why: "there is no source in " + d.Source + ", but a dkms.conf",
		Hint: "install the package that brings the source of " + d.ID.String(), Status: failure.StatusBadConf}
}

func (j *job) build(ctx context.Context) (err error) {
	if err := j.checkSource(); err != nil {
		return err
	}
	if !j.resign() && !j.restore() {
		if err := j.stage(ctx); err != nil {
			return err
		}
		j.logHead(j.run.log)
	}
	defer j.run.log.Close()
	defer func() {
		if err != nil && ctx.Err() == nil && !j.Stored {
			var limit *sandbox.LimitError
			j.abandon(ctx, errors.As(err, &limit) && limit.Disk)
		}
	}()

	targetDir := j.Tree.TargetDir(j.ID, j.target())
	_, err = os.Lstat(targetDir)
	first := errors.Is(err, os.ErrNotExist)
	tmp := filepath.Join(targetDir, files.TempName("module"))
	if err := j.finish(ctx, targetDir, tmp); err != nil {
		j.blameSource(ctx, err)
		j.blameRelease(ctx, err)
		j.blameLink(err)
		j.blameRust(ctx, err)
		j.blameSymbols(err)
		files.RemoveAll(tmp)
		if first {
			// Without a build, what POST_BUILD wrote beside it has no use.
			files.RemoveAll(targetDir)
		}
		files.RemoveEmpty(filepath.Dir(targetDir), j.Tree.PackageDir(j.ID))
		return err
	}
	// Only now: a store must not take the room that the build needs.
	j.remember(ctx, targetDir)
	return j.forget()
}

// finish makes the build, unless it came from the store, signs and compresses its
// modules in tmp, and makes them the build in targetDir.
func (j *job) finish(ctx context.Context, targetDir, tmp string) error {
	if !j.Stored {
		if err := j.compile(ctx, targetDir); err != nil {
			return err
		}
	}
	if err := files.RemoveAll(tmp); err != nil {
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
	slices.Sort(j.Modules)
	if err := j.keepSymvers(tmp); err != nil {
		return err
	}
	if j.Record != nil {
		j.Unrecorded = j.Record(tmp, j.Result)
	}
	if err := j.keep(ctx, tmp, targetDir); err != nil {
		return fmt.Errorf("cannot keep the modules: %w", err)
	}
	return nil
}

// compile runs the commands of the build.
func (j *job) compile(ctx context.Context, targetDir string) error {
	if !j.private() {
		// Commands write to it themselves.
		if err := errors.Join(os.MkdirAll(targetDir, 0o755), j.share(targetDir)); err != nil {
			return err
		}
	}
	err := j.commands(ctx)
	if j.user() != nil && !j.private() {
		err = errors.Join(err, disown(context.WithoutCancel(ctx), targetDir, true))
	}
	return err
}

// private reports whether commands write to directories of this build alone.
func (d Description) private() bool { return d.World != nil && d.World.Features.Mounts }

// commands runs what the package says, and leaves its modules, stripped, in the
// directory raw of the staging, and what it wrote beside its build in out.
func (j *job) commands(ctx context.Context) error {
	if j.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.Timeout, &sandbox.LimitError{
			What: fmt.Sprintf("it took longer than %v", j.Timeout), Hint: "look at the end of the log; build_timeout in framework.conf is the limit"})
		defer cancel()
	}
	for _, patch := range j.Conf.Patches {
		if err := j.patch(ctx, patch); err != nil {
			return err
		}
	}
	if err := j.script(ctx, "PRE_BUILD", j.Conf.PreBuild); err != nil {
		return err
	}
	if err := j.make(ctx); err != nil {
		return err
	}
	if err := j.script(ctx, "POST_BUILD", j.Conf.PostBuild); err != nil {
		return err
	}
	left := int64(maxModules)
	for _, m := range j.Conf.Modules {
		if err := j.collect(m, &left); err != nil {
			return err
		}
	}
	return j.strip(ctx)
}

// keep makes the finished modules in tmp the build. What POST_BUILD left, the log
// and, for a first build, the record of dependencies come first: the build exists
// from the moment at which the modules' directory is renamed.
func (j *job) keep(ctx context.Context, tmp, targetDir string) error {
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
	if _, err := j.run.log.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := files.Write(filepath.Join(targetDir, "log", "make.log"), j.run.log, 0o640, files.Options{Durable: true}); err != nil {
		return err
	}
	if err := files.SyncDir(tmp); err != nil {
		return err
	}
	if err := files.ReplaceDir(tmp, module); err != nil || !again {
		return err
	}
	// Not before: if the run is killed here, the old record costs one more build,
	// but a new record beside the old modules would hide that they are old.
	return j.keepDepends(targetDir)
}

// keepDepends records which versions of its dependencies the build is made against.
func (j *job) keepDepends(targetDir string) error {
	for name, version := range j.DependsOn {
		if err := files.Write(filepath.Join(targetDir, ".dep_"+name), strings.NewReader(version+"\n"), 0o644, files.Options{Durable: true}); err != nil {
			return err
		}
	}
	return nil
}

// keepOut copies what the commands left beside the build, which other packages may
// look for: files and directories that are not the tree's own.
func (j *job) keepOut(ctx context.Context, targetDir string) error {
	entries, err := os.ReadDir(j.staging.out)
	if err != nil {
		return err
	}
	// What is copied here counts for no limit of the sandbox, and files may have holes.
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
		// It replaces what an earlier build left, and never goes into it: that may be
		// a link to the modules.
		tmp := files.TempName(name)
		if err := files.RemoveAll(filepath.Join(targetDir, tmp)); err != nil {
			return err
		}
		if err := stageInto(ctx, filepath.Join(j.staging.out, name), targetDir, tmp, nil); err != nil {
			return errors.Join(err, files.RemoveAll(filepath.Join(targetDir, tmp)))
		}
		if err := files.ReplaceDir(filepath.Join(targetDir, tmp), filepath.Join(targetDir, name)); err != nil {
			return err
		}
	}
	return nil
}

// keepSymvers keeps Module.symvers, which builds that depend on this one read.
func (j *job) keepSymvers(tmp string) error {
	f, err := openInside(j.staging.build, "Module.symvers")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot keep Module.symvers: %w", err)
	}
	defer f.Close()
	return files.Write(filepath.Join(tmp, "Module.symvers"), io.LimitReader(f, kmod.MaxSize), 0o644, files.Options{Durable: true})
}

// maxModules is how many bytes the modules of a build may have together before they
// are stripped. What is copied counts for no limit of the sandbox, and files may have
// holes.
const maxModules = 4 * kmod.MaxSize

// collect copies one module from the build directory to the directory raw, which the
// build cannot write to, and takes its size from left.
func (j *job) collect(m conf.Module, left *int64) error {
	in, size, err := j.openModule(j.staging.build, filepath.Join(m.BuiltLocation, m.BuiltName+".ko"), m)
	if errors.Is(err, os.ErrNotExist) {
		err = errors.New("make succeeded, but did not build it")
		if built := j.built(); len(built) > 0 {
			err = fmt.Errorf("%w; it built %s", err, failure.Line(strings.Join(built, ", ")))
		}
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
	// A module with its debug information may be too large to be held in memory.
	_, err = io.CopyN(out, in, size)
	return errors.Join(err, out.Close(), j.own(file))
}

// built returns some of the modules in the build directory, by their paths in it.
func (j *job) built() (modules []string) {
	errEnough := errors.New("enough")
	_ = filepath.WalkDir(j.staging.build, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".ko" {
			return nil
		}
		if len(modules) == maxBuilt {
			modules = append(modules, "…")
			return errEnough
		}
		modules = append(modules, strings.TrimPrefix(path, j.staging.build+"/"))
		return nil
	})
	return modules
}

// maxBuilt is how many modules a message names.
const maxBuilt = 5

// openModule opens the file called name below dir, if it is m for the kernel, and
// returns its size in bytes, too.
func (j *job) openModule(dir, name string, m conf.Module) (*os.File, int64, error) {
	f, err := openInside(dir, name)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = j.check(f, fi.Size(), m)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// check returns an error unless module, of size bytes, is m for the kernel.
func (j *job) check(module io.ReaderAt, size int64, m conf.Module) error {
	info, err := kmod.Check(module, size, j.Kernel.Arch, j.Kernel.Release)
	if err != nil {
		return err
	}
	return info.CheckName(m.BuiltName, m.DestName)
}

// strip removes the debug symbols of the modules in raw, unless STRIP is no.
func (j *job) strip(ctx context.Context) error {
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
	fmt.Fprintf(j.run.log, "# command: %s\n", strings.Join(cmd.Args, " "))
	cmd.Env = append(j.buildEnviron(w, dir), "TMPDIR="+dir)
	err := j.run.start(ctx, w, cmd)
	if err == nil {
		return nil
	}
	return &failure.Failure{What: "build failed", Why: fmt.Sprintf("cannot strip the modules: %v", err), Log: j.logPath(), Status: failure.StatusNoModule, Err: err,
		Hint: "check what is in the log; STRIP[#]=no in dkms.conf leaves a module as it is"}
}

// badModule returns the error for a module that cannot be used.
func (j *job) badModule(m conf.Module, err error) error {
	var file *fs.PathError // one that cannot be read now
	return &failure.Failure{Lasting: !errors.As(err, &file),
		What: "build failed", Why: filepath.Join(m.BuiltLocation, m.BuiltName+".ko") + ": " + err.Error(),
		Log: j.logPath(), Status: failure.StatusNoModule, Err: err,
		Hint: "check BUILT_MODULE_NAME and BUILT_MODULE_LOCATION in dkms.conf, and what make did in the log"}
}

// signatureRoom is more, in bytes, than any signature of a module.
const signatureRoom = 4 << 10

// sealing is held while a module of more than largeModule bytes is in memory: there is
// one at a time in this process.
var sealing sync.Mutex

const largeModule = 64 << 20

// seal checks a module in raw, signs it, and compresses it into the directory tmp. The
// name of the file says how it is compressed.
func (j *job) seal(ctx context.Context, m conf.Module, tmp string) error {
	f, size, err := j.openModule(j.staging.raw, m.DestName+".ko", m)
	if err != nil {
		return j.badModule(m, err)
	}
	defer f.Close()
	if size > largeModule {
		sealing.Lock()
		defer sealing.Unlock()
	}
	// The capacity leaves room for the signature.
	module := make([]byte, size, size+signatureRoom)
	if _, err = io.ReadFull(f, module); err == nil {
		// Once more, since these are the bytes that count: the file may have changed.
		err = j.check(bytes.NewReader(module), size, m)
	}
	if err != nil {
		return j.badModule(m, err)
	}
	if module, err = j.sign(ctx, m, module); err != nil {
		return err
	}
	name := m.DestName + ".ko" + j.Compression.Suffix()
	out, err := os.OpenFile(filepath.Join(tmp, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := kmod.Compress(out, module, j.Compression, j.Level); err != nil {
		return err
	}
	j.Modules = append(j.Modules, name)
	return errors.Join(out.Chmod(0o644), out.Sync())
}

// sign returns module m with a signature in place of the one that it has, or without any
// if it cannot be signed and need not be. It checks what it returns.
func (j *job) sign(ctx context.Context, m conf.Module, module []byte) ([]byte, error) {
	if j.Sign == nil {
		return module, nil
	}
	module = kmod.StripSignature(module)
	signed, err := j.Sign(ctx, module)
	if err == nil {
		err = j.check(bytes.NewReader(signed), int64(len(signed)), m)
	}
	if err == nil {
		return signed, nil
	}
	err = fmt.Errorf("%s.ko: %w", m.DestName, err)
	if j.MustSign || ctx.Err() != nil {
		return nil, &failure.Failure{What: "signing failed", Why: failure.Line(err.Error()), Status: failure.StatusMake, Err: err,
			Hint: "correct " + SignSettings + " in framework.conf, or set try_sign_modules=false if the modules need no signature"}
	}
	j.Unsigned = cmp.Or(j.Unsigned, err)
	return module, nil
}

// SignSettings are the settings that decide how modules are signed.
const SignSettings = "mok_signing_key, mok_certificate or sign_file"

// openInside opens the regular file called name, a relative path, below dir. It
// follows no symbolic link out of dir: the build made everything there.
func openInside(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// O_NONBLOCK, since opening a FIFO would wait for a writer.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("it is not a regular file but %s", kind(fi))
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
		return "a directory"
	case mode&os.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&os.ModeSocket != 0:
		return "a socket"
	default:
		return "a device"
	}
}
