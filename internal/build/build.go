// Package build builds one package for one kernel, in the package's build
// folder, and keeps what came out of it in the tree.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
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
	// Jobs is N of make -jN; below 0, make -j without a limit.
	Jobs int
	// DependsOn holds the versions of the dependencies that are built
	// against, by package name, where they are to be recorded.
	DependsOn map[string]string
	// Sign appends a signature to a module; nil where modules go unsigned.
	Sign        func(ctx context.Context, module []byte) ([]byte, error)
	Compression kmod.Compression
	Compress    kmod.Options
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
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		// There is no failure here for anybody to look at.
		os.RemoveAll(j.Tree.BuildDir(j.ID))
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

func (j *Job) run(ctx context.Context) error {
	if err := j.checkSource(); err != nil {
		return err
	}
	dir := j.Tree.BuildDir(j.ID)
	if err := Stage(ctx, j.Source, dir); err != nil {
		return fmt.Errorf("cannot copy the source: %w", err)
	}
	overlay := filepath.Join(j.Settings.EtcDir, j.Name, "patches")
	if fi, err := os.Stat(overlay); err == nil && fi.IsDir() {
		if err := stageInto(ctx, overlay, dir, "patches"); err != nil {
			return fmt.Errorf("cannot copy patches: %w", err)
		}
	}
	logPath := filepath.Join(dir, "make.log")
	// A source may bring a make.log, even as a link that leads elsewhere.
	if err := os.RemoveAll(logPath); err != nil {
		return err
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_EXCL|os.O_RDWR|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()

	fmt.Fprintf(log, "make.log for %s for kernel %s (%s)\n%s\n\n", j.ID, j.Kernel.Release, j.Kernel.Arch, time.Now().Format(time.UnixDate))
	for _, patch := range j.Conf.Patches {
		if err := j.patch(ctx, log, patch); err != nil {
			return err
		}
	}
	if err := j.Script(ctx, log, dir, "PRE_BUILD", j.Conf.PreBuild); err != nil {
		return err
	}
	if err := j.command(ctx, log, "build", j.makeCommand()); err != nil {
		return err
	}

	targetDir := j.Tree.TargetDir(j.ID, j.target())
	_, err = os.Lstat(targetDir)
	first := errors.Is(err, os.ErrNotExist)
	tmp := filepath.Join(targetDir, tree.TempName("module"))
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	done := false
	defer func() {
		if done {
			return
		}
		os.RemoveAll(tmp)
		if first {
			// With no build there, neither is what POST_BUILD wrote beside it.
			os.RemoveAll(targetDir)
		}
		tree.RemoveEmpty(filepath.Dir(targetDir), j.Tree.PackageDir(j.ID))
	}()
	for _, m := range j.Conf.Modules {
		if err := j.collect(ctx, log, m, dir, tmp); err != nil {
			return err
		}
	}
	if err := j.keepSymvers(dir, tmp); err != nil {
		return err
	}
	if err := j.Script(ctx, log, dir, "POST_BUILD", j.Conf.PostBuild); err != nil {
		return err
	}
	for _, m := range j.Conf.Modules {
		if err := j.seal(ctx, filepath.Join(tmp, m.DestName+".ko")); err != nil {
			return err
		}
	}
	if err := j.keep(log, tmp, targetDir); err != nil {
		return fmt.Errorf("cannot keep the modules: %w", err)
	}
	done = true
	return os.RemoveAll(dir)
}

// keep makes the finished modules in tmp the build. The log and the record of
// dependencies come first: the rename of the modules' folder is the moment at
// which the build exists.
func (j *Job) keep(log *os.File, tmp, targetDir string) error {
	for name, version := range j.DependsOn {
		if err := writeFile(filepath.Join(targetDir, ".dep_"+name), strings.NewReader(version+"\n")); err != nil {
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
	return tree.ReplaceDir(tmp, filepath.Join(targetDir, "module"))
}

// keepSymvers keeps Module.symvers, which builds that depend on this one read.
func (j *Job) keepSymvers(dir, tmp string) error {
	f, err := openInside(dir, "Module.symvers")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot keep Module.symvers: %w", err)
	}
	defer f.Close()
	return writeFile(filepath.Join(tmp, "Module.symvers"), io.LimitReader(f, kmod.MaxSize))
}

// collect takes one module from the build folder dir to the folder tmp: checked
// and stripped. What comes after it, [Job.seal], needs this machine's keys.
func (j *Job) collect(ctx context.Context, log *os.File, m conf.Module, dir, tmp string) error {
	built := filepath.Join(m.BuiltLocation, m.BuiltName+".ko")
	fail := func(err error) error {
		return &failure.Failure{What: "build failed", Why: built + ": " + err.Error(), Log: log.Name(), Status: failure.StatusNoModule, Err: err,
			Hint: "check BUILT_MODULE_NAME and BUILT_MODULE_LOCATION in dkms.conf, and what make did in the log"}
	}
	f, err := openInside(dir, built)
	if errors.Is(err, os.ErrNotExist) {
		return fail(errors.New("make succeeded, but did not build it"))
	}
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return fail(err)
	} else if fi.Size() > kmod.MaxSize {
		return fail(fmt.Errorf("it has %d bytes, a module may have %d at most", fi.Size(), kmod.MaxSize))
	}
	file := filepath.Join(tmp, m.DestName+".ko")
	// From here on the build has no hand in the file any more.
	if err := writeFile(file, io.LimitReader(f, kmod.MaxSize)); err != nil {
		return err
	}
	module, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := kmod.Check(module, j.Kernel.Arch, j.Kernel.Release); err != nil {
		return fail(err)
	}
	if !m.Strip {
		return nil
	}
	strip := exec.Command(j.Kernel.Compiler().Strip, "-g", file)
	strip.Stdout, strip.Stderr = log, log
	fmt.Fprintf(log, "# command: %s\n", strings.Join(strip.Args, " "))
	if err := child.Run(ctx, strip); err != nil {
		return fail(fmt.Errorf("cannot strip it: %w", err))
	}
	return nil
}

// seal signs and compresses the module in file, NAME.ko, under the name that says
// how it is compressed.
func (j *Job) seal(ctx context.Context, file string) error {
	module, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if j.Sign != nil {
		if module, err = j.Sign(ctx, module); err != nil {
			return &failure.Failure{What: "signing failed", Why: fmt.Sprintf("%s: %v", filepath.Base(file), err), Status: failure.StatusMake, Err: err,
				Hint: "check mok_signing_key and mok_certificate in framework.conf, or set try_sign_modules=false"}
		}
	}
	out, err := os.OpenFile(file+j.Compression.Ext(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := kmod.Compress(out, module, j.Compression, j.Compress); err != nil {
		return err
	}
	if err := errors.Join(out.Chmod(0o644), out.Sync()); err != nil {
		return err
	}
	if out.Name() != file {
		return os.Remove(file)
	}
	return nil
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
