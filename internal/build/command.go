// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/sandbox"
)

// makeCommand returns the command that builds the modules.
func (d Description) makeCommand() string {
	command := d.Conf.Make
	if command == "" {
		command = "make -C " + quote(d.Kernel.SourceDir) + " M=" + quote(d.Tree.BuildDir(d.ID))
	}
	if !Bare(command) {
		return command
	}
	make := "make"
	switch {
	case d.Jobs > 0:
		make += " -j" + strconv.Itoa(d.Jobs)
	case d.Jobs < 0:
		make += " -j"
	}
	make += " KERNELRELEASE=" + quote(d.Kernel.Release)
	for _, a := range d.Kernel.Compiler().Args {
		make += " " + a
	}
	return make + strings.TrimPrefix(command, "make")
}

// world is what the build's commands find; nil if they run as everything else does.
func (j *job) world() *sandbox.World {
	if j.World == nil {
		return nil
	}
	w := *j.World
	target := j.Tree.TargetDir(j.ID, j.target())
	w.Tmp, w.Usage = j.staging.tmp, j.staging.top
	if !j.Kernel.Linked() {
		w.Layers = []sandbox.Bind{{From: j.staging.links, To: j.Kernel.Dir}}
	}
	out := j.staging.out
	if !w.Features.Mounts {
		out = target
	}
	w.Writable = append([]sandbox.Bind{{From: j.staging.build, To: j.Tree.BuildDir(j.ID)}, {From: out, To: target}}, w.Writable...)
	return &w
}

// make runs the command that builds the modules.
func (j *job) make(ctx context.Context) error {
	w := j.world()
	return j.run.shell(ctx, command{
		text: j.makeCommand(), dir: j.Tree.BuildDir(j.ID), env: j.buildEnviron(w, j.staging.tmp), world: w, jobs: j.Jobserver,
		what: "build failed", status: failure.StatusMake,
	})
}

// script runs PRE_BUILD or POST_BUILD.
func (j *job) script(ctx context.Context, directive, value string) error {
	w := j.world()
	return j.run.script(ctx, script{
		directive: directive, value: value, dir: j.staging.build, seen: j.Tree.BuildDir(j.ID),
		env: j.buildEnviron(w, j.staging.tmp), world: w,
	})
}

// patch applies the patch called name.
func (j *job) patch(ctx context.Context, name string) error {
	fail := func(why string, status int) *failure.Failure {
		return &failure.Failure{What: "patch failed", Why: why, Log: j.logPath(), Status: status, Lasting: true,
			Hint: "correct PATCH in dkms.conf, or the file in patches/"}
	}
	if !filepath.IsLocal(name) || strings.Contains(name, "..") {
		return fail(fmt.Sprintf("%q leads out of the patches directory", name), failure.StatusPatchUnsafe)
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
	w := j.world()
	cmd.Dir, cmd.Stdin, cmd.Env = j.Tree.BuildDir(j.ID), f, j.buildEnviron(w, j.staging.tmp)
	fmt.Fprintf(j.run.log, "# patch: %s\n", name)
	if err := j.run.start(ctx, w, cmd); errors.Is(err, exec.ErrNotFound) {
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
