// SPDX-License-Identifier: GPL-2.0-or-later

package follow

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// TellWeak tells the distribution's script for weak modules of the modules called
// paths, of package id, which came to kernel k or went from it. It comes after them:
// the script links what is there, and takes out links that lead nowhere. It returns
// a warning if that fails: it is a failure of the links, and not of the work.
func TellWeak(ctx context.Context, m *machine.Machine, verb machine.WeakVerb, id tree.ID, k tree.Target, paths []string) (warning string) {
	args := m.WeakScript(verb, k.Release)
	if args == nil || len(paths) == 0 || !files.Exists(args[0]) || !standard(m) {
		return ""
	}
	m.Weak.Lock()
	defer m.Weak.Unlock()
	limit := cmp.Or(m.WeakTimeout, 10*time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %v", limit))
	defer cancel()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n") + "\n")
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	err := child.Run(ctx, cmd)
	if err == nil {
		return ""
	}
	hint := fmt.Sprintf("other kernels may lack them; to tell it again: dkms install --force %s -k %s", id, k.Release)
	if verb == machine.WeakRemove {
		hint = "links to them may be left: see find " + m.Kernels.Modules + "/*/weak-updates -xtype l"
	}
	why := err.Error()
	if line := out.lastLine(); line != "" {
		why += ": " + line
	}
	return fmt.Sprintf("%s failed: %s (%s)", strings.Join(args, " "), why, hint)
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
