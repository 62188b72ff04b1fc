// SPDX-License-Identifier: GPL-2.0-or-later

package follow

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
)

// tellWeak tells the distribution's script for weak modules which modules of the
// kernel went and came. It is told once for all packages, since a call may make an
// initramfs, or work on all kernels; and after the changes, since it links what is
// there, and takes out links that lead nowhere. If that fails, there is a warning: it
// is a failure of the links, and not of the work.
func (s *indexing) tellWeak(ctx context.Context, m *machine.Machine, p Policy) {
	var removed, placed, again []string
	for _, c := range s.changes {
		if c.NoWeakModules {
			continue
		}
		removed, placed = append(removed, c.Removed...), append(placed, c.Placed...)
		if len(c.Placed) > 0 {
			again = append(again, fmt.Sprintf("dkms install --force %s -k %s", c.Package, s.Kernel.Release))
		}
	}
	tell := func(verb machine.WeakVerb, paths []string, hint string) {
		if err := runWeak(ctx, m, m.WeakScript(verb, s.Kernel.Release), paths, p.Initramfs != Leave); err != nil {
			m.Note(fmt.Sprintf("warning: %s: %v (%s)", s.Kernel.Release, err, hint))
		}
	}
	tell(machine.WeakRemove, removed, "links to them may be left: see find "+m.Kernels.Modules+"/*/weak-updates -xtype l")
	tell(machine.WeakAdd, placed, "other kernels may lack them; to tell it again: "+strings.Join(again, " && "))
}

// runWeak runs the script for weak modules with the modules called paths, unless there
// are none, or no script. SUSE's makes an initramfs, unless it may leave word for a later
// script of RPM's to make it; if we make it ourselves, that word is withdrawn.
func runWeak(ctx context.Context, m *machine.Machine, args, paths []string, ownInitramfs bool) error {
	if args == nil || len(paths) == 0 || !files.Exists(args[0]) || !standard(m) {
		return nil
	}
	limit := cmp.Or(m.WeakTimeout, 10*time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %v", limit))
	defer cancel()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n") + "\n")
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	var before []string
	if ownInitramfs {
		before = initramfsWords(m)
		cmd.Env = append(os.Environ(), "INITRD_IN_POSTTRANS=1")
	}
	err := child.Run(ctx, cmd)
	for _, word := range initramfsWords(m) {
		if ownInitramfs && !slices.Contains(before, word) {
			err = cmp.Or(err, os.Remove(word))
		}
	}
	if err == nil {
		return nil
	}
	why := err.Error()
	if line := out.lastLine(); line != "" {
		why += ": " + line
	}
	return fmt.Errorf("%s failed: %s", strings.Join(args, " "), why)
}

// initramfsWords returns the files by which SUSE's script asks for an initramfs.
func initramfsWords(m *machine.Machine) []string {
	list, _ := filepath.Glob(m.Path("/run/regenerate-initrd/*"))
	return list
}

// standard reports whether modules go where the scripts look for them.
func standard(m *machine.Machine) bool {
	a, errA := os.Stat(m.Kernels.Modules)
	b, errB := os.Stat(m.StandardModules())
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-4096):]
	return len(p), nil
}

// lastLine returns the last line that is not empty, shortened.
func (t *tail) lastLine() string {
	lines := bytes.Split(bytes.TrimSpace(t.b), []byte("\n"))
	last := strings.ToValidUTF8(string(lines[len(lines)-1]), "?")
	if len(last) > 200 {
		last = strings.ToValidUTF8(last[:200], "") + "…"
	}
	return last
}
