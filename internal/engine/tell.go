// SPDX-License-Identifier: GPL-2.0-or-later

package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

// tellTimeout is how long on_failure may take, if [machine.Options] does not say.
const tellTimeout = time.Minute

// tell leaves word of what has failed for people who do not see this run: a line for each
// in the message of the day, which a run that mends it takes away, and the command
// on_failure. The caller does not hold the lock of the tree: the command may need it.
func (e *Engine) tell(ctx context.Context, results []execute.Result) {
	if e.m.ImageBuild() {
		// Whoever makes an image sees the run, and its messages are not the image's.
	} else if err := e.changeMessage(results); err != nil && !errors.Is(err, fs.ErrPermission) {
		e.m.Note("warning: cannot change the message of the day: " + err.Error())
	}
	fresh := slices.DeleteFunc(slices.Clone(results), func(r execute.Result) bool {
		return r.Outcome != execute.Failed || r.Failure.Again
	})
	command := e.m.Settings.OnFailure
	if e.m.Attended || len(fresh) == 0 || command == "" || ctx.Err() != nil {
		return
	}
	var in bytes.Buffer
	err := report.FailuresJSON(&in, fresh)
	if err == nil {
		limit := cmp.Or(e.m.TellTimeout, tellTimeout)
		ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took more than %v", limit))
		defer cancel()
		cmd := exec.Command("bash", "-c", command)
		cmd.Stdin = &in // what it prints is nobody's
		err = child.Run(ctx, cmd)
	}
	if err != nil {
		e.m.Note("warning: on_failure: " + err.Error())
	}
}

// changeMessage takes the lines of what results have mended out of the message of the day,
// and, if nobody sees this run, puts in those of what has failed.
func (e *Engine) changeMessage(results []execute.Result) error {
	file := e.m.Path("/run/motd.d/dkms-kernel-install")
	was, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lines := slices.DeleteFunc(slices.Collect(strings.Lines(string(was))), e.gone)
	for _, r := range results {
		about := printable(fmt.Sprintf("dkms: %s for %s: ", r.ID, r.Kernel.Release))
		here := func(line string) bool { return strings.HasPrefix(line, about) }
		switch {
		case r.Outcome != execute.Failed:
			lines = slices.DeleteFunc(lines, here)
		case !e.m.Attended && r.Name != "" && !slices.ContainsFunc(lines, here):
			lines = append(lines, about+printable(fmt.Sprintf("%s; see: dkms-kernel-install why %s %s", r.Failure.What, r.Name, r.Kernel.Release))+"\n")
		}
	}
	now := strings.Join(lines, "")
	switch {
	case now == string(was):
		return nil
	case now == "":
		return files.Remove(file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return files.Write(file, strings.NewReader(now), 0o644, files.Options{})
}

// gone reports whether the package or the kernel that a line of the message of the day is
// about is gone.
func (e *Engine) gone(line string) bool {
	words := strings.Fields(line) // dkms: NAME/VERSION for KERNEL: ...
	if len(words) < 4 {
		return true
	}
	name, version, _ := strings.Cut(words[1], "/")
	k := e.m.Target(strings.TrimSuffix(words[3], ":"))
	return !files.Exists(e.m.Tree.SourceDir(tree.ID{Name: name, Version: version})) || !e.m.Kernel(k).Exists()
}

// printable returns s in one line that steers no terminal.
func printable(s string) string {
	var out bytes.Buffer
	fmt.Fprint(report.Clean(&out), failure.Line(s))
	return out.String()
}
