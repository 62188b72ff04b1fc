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
	"slices"
	"strings"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/lazy"
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

// RemoveIndex removes the kernel's directory dir if nothing is left in it but empty
// directories and what depmod makes, which no package owns.
func RemoveIndex(dir string) {
	errOther := errors.New("another file")
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !index().MatchString(d.Name()) {
			err = errOther
		}
		paths = append(paths, path)
		return err
	})
	if err != nil {
		return
	}
	// A directory goes only if it is empty: a package may be bringing the kernel again.
	for _, path := range slices.Backward(paths) {
		_ = os.Remove(path)
	}
}

// index matches what depmod makes. Lists of the kernel's own modules come with it.
var index = lazy.Regexp(`^modules\.(?:(?:alias|dep|symbols|builtin\.alias)(?:\.bin)?|builtin\.bin|devname|softdep|weakdep)$`)
