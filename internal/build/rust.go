// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/sandbox"
)

// blameRust says in err, with which the build failed, what is missing that any module in
// Rust needs, if the package has one.
func (j *job) blameRust(ctx context.Context, err error) {
	var f *failure.Failure
	var limit *sandbox.LimitError
	if !errors.As(err, &f) || f.Status != failure.StatusMake || errors.As(err, &limit) {
		return
	}
	for _, m := range j.Conf.Modules {
		base := filepath.Join(j.Source, m.BuiltLocation, m.BuiltName)
		if !files.Exists(base+".rs") || files.Exists(base+".c") {
			continue
		}
		if j.Kernel.ConfigFile() != "" && j.Kernel.Option("CONFIG_RUST") != "y" {
			f.Hint = fmt.Sprintf("%s is written in Rust, and kernel %s is built without it (CONFIG_RUST): it needs a kernel that has it", m.BuiltName, j.Kernel.Release)
		} else if lacks := j.lacksForRust(ctx); len(lacks) > 0 {
			f.Hint = fmt.Sprintf("%s is written in Rust: %s", m.BuiltName, strings.Join(lacks, "; "))
		}
		return
	}
}

// lacksForRust returns what to do about what is missing that modules in Rust need.
func (j *job) lacksForRust(ctx context.Context) (list []string) {
	want := j.Kernel.Option("CONFIG_RUSTC_VERSION_TEXT") // such as "rustc 1.85.0 (4d91de4e4 2025-02-17)"
	install := "install rustc, from a package such as rustc or rust"
	if m := rustVersion().FindStringSubmatch(want); m != nil {
		install = fmt.Sprintf("install %s, which the kernel was built with, from a package such as rustc-%s, rustc or rust", want, m[1])
	}
	here, err := rustc(ctx)
	switch {
	case strings.Contains(j.makeCommand(), "RUSTC="):
		// It is another one.
	case err != nil:
		list = append(list, install)
	case want != "" && here != want:
		list = append(list, fmt.Sprintf("rustc here is %s: %s", strings.TrimPrefix(here, "rustc "), install))
	}
	if crate := filepath.Join(j.Kernel.SourceDir, "rust/libkernel.rmeta"); !files.Exists(crate) {
		list = append(list, fmt.Sprintf("install the kernel's crates: %s is missing; Ubuntu has them in linux-lib-rust-%s", crate, j.Kernel.Release))
	}
	return list
}

var rustVersion = lazy.Regexp(`^rustc (\d+\.\d+)`)

// rustc returns what the compiler of Rust in PATH says that it is.
func rustc(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.Command("rustc", "--version")
	cmd.Stdout = &out
	err := child.Run(ctx, cmd)
	return strings.TrimSpace(out.String()), err
}
