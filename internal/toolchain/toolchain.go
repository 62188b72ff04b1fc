// SPDX-License-Identifier: GPL-2.0-or-later

// Package toolchain has builds made where a machine is to keep neither a compiler nor headers
// of kernels. Its package manager downloads what is missing. That is unpacked aside and lies
// over the root for the time of the run: nothing is installed, and no script of a package runs.
package toolchain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/root"
	"dkms-kernel-install/internal/tree"
)

// manager is how a family of distributions gets packages.
type manager struct {
	family   []string // [distro.Distro.Is]
	compiler []string // packages
	headers  func(release string) string
	// download is a shell command that puts packages, its arguments, and what they need and the
	// machine lacks, into the working directory. It must not take the package manager's lock,
	// which a transaction that has called this program holds.
	download string
}

var managers = []manager{
	{
		family: []string{"debian", "ubuntu"}, compiler: []string{"gcc", "make", "patch", "binutils"},
		headers: func(release string) string { return "linux-headers-" + release },
		download: `list=$(apt-get -s -q --no-install-recommends install "$@")
			apt-get -q -o APT::Sandbox::User=root download $(echo "$list" | sed -n 's/^Inst \([^ ]*\).*/\1/p')`,
	},
	{
		family: []string{"fedora", "rhel", "centos"}, compiler: []string{"gcc", "make", "patch", "binutils"},
		headers:  func(release string) string { return "kernel-devel-uname-r = " + release },
		download: `dnf -q -y download --resolve "$@"`,
	},
}

// find returns the manager of m; nil if this package knows none.
func find(m *machine.Machine) *manager {
	i := slices.IndexFunc(managers, func(g manager) bool { return m.Distro.Is(g.family...) })
	if i < 0 {
		return nil
	}
	return &managers[i]
}

// Missing returns the packages that builds for kernels lack.
func Missing(m *machine.Machine, kernels []tree.Target) (packages []string) {
	g := find(m)
	if g == nil || len(kernels) == 0 {
		return nil
	}
	compiler := slices.ContainsFunc(kernels, func(k tree.Target) bool { return m.Kernel(k).Compiler().CC == "" })
	if _, err := exec.LookPath("make"); err != nil || compiler {
		packages = append(packages, g.compiler...)
	}
	for _, k := range kernels {
		if !m.Kernel(k).HasHeaders() {
			packages = append(packages, g.headers(k.Release))
		}
	}
	return packages
}

// Run runs this program once more, with args, on the machine with the packages in place, and
// returns its status. Errors are of type [*failure.Failure].
func Run(ctx context.Context, m *machine.Machine, packages, args []string) (status int, err error) {
	dir, err := os.MkdirTemp("", "dkms-toolchain.")
	if err != nil {
		return 1, failure.From(err, "cannot make a directory for the compiler", 1)
	}
	defer func() { _ = files.RemoveAll(dir) }()
	m.Note("for the time of the run: " + strings.Join(packages, ", ") + ", and what they need")
	if err := fetch(ctx, find(m), dir, packages); err != nil {
		return 1, &failure.Failure{What: "cannot get a compiler and headers for the time of the run", Why: err.Error(), Status: failure.StatusHeaders,
			Hint: "see that the package manager can download " + strings.Join(packages, " ") + "; or install them"}
	}
	r := root.Root{Dir: "/", Elsewhere: m.Elsewhere, Over: []string{filepath.Join(dir, "root")}, Keep: []string{m.Kernels.Modules, m.Tree.Dir}}
	return r.Run(args, nil)
}

// fetch downloads packages to dir, and unpacks them in its directory root.
func fetch(ctx context.Context, g *manager, dir string, packages []string) error {
	to, archives := filepath.Join(dir, "root"), filepath.Join(dir, "archives")
	if err := errors.Join(os.Mkdir(to, 0o755), os.Mkdir(archives, 0o755)); err != nil {
		return err
	}
	if err := run(ctx, archives, g.download, packages...); err != nil {
		return err
	}
	found, err := os.ReadDir(archives)
	if err != nil {
		return err
	}
	for _, e := range found {
		if err := Unpack(ctx, filepath.Join(archives, e.Name()), to); err != nil {
			return err
		}
	}
	return files.RemoveAll(archives)
}

// Unpack unpacks a package, whose name ends in .deb or .rpm, into the directory dir.
func Unpack(ctx context.Context, file, dir string) error {
	command := map[string]string{".deb": `dpkg-deb -x "$1" .`, ".rpm": `rpm2cpio "$1" | cpio -idm --quiet --no-absolute-filenames`}[filepath.Ext(file)]
	if command == "" {
		return fmt.Errorf("%s is neither a .deb nor a .rpm", filepath.Base(file))
	}
	if err := run(ctx, dir, command, file); err != nil {
		return fmt.Errorf("cannot unpack %s: %w", filepath.Base(file), err)
	}
	return nil
}

// run runs a shell command in the directory dir. The error has the last line that it prints.
func run(ctx context.Context, dir, command string, args ...string) error {
	cmd := exec.Command("sh", append([]string{"-ec", command, "sh"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := child.Run(ctx, cmd); err != nil {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		return fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return nil
}
