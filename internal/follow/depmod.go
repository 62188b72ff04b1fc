// SPDX-License-Identifier: GPL-2.0-or-later

package follow

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/failure"
)

// Depmod runs depmod for the kernel in dir. A directory without modules.dep belongs
// to no kernel that is installed here and is passed over.
func Depmod(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "modules.dep")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	args := []string{"-a"}
	installTree, release := filepath.Split(dir)
	base, ok := strings.CutSuffix(filepath.Clean(installTree), "/lib/modules")
	if !ok {
		return nil // depmod has no way to look there
	}
	if base = strings.TrimSuffix(base, "/usr"); base != "" {
		args = append(args, "-b", base)
	}
	cmd := exec.Command("depmod", append(args, release)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := child.Run(ctx, cmd); err != nil {
		why := strings.TrimSpace(out.String())
		if why == "" {
			why = err.Error()
		}
		return &failure.Failure{What: "depmod failed", Why: why, Hint: "run: depmod -a " + release, Status: failure.StatusInstall, Err: err}
	}
	return nil
}
