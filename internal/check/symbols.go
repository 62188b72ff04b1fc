// SPDX-License-Identifier: GPL-2.0-or-later

package check

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
)

// Fit says whether a kernel has the symbols that a module wants, in the versions that it was
// built against.
type Fit struct {
	File, Release string
	Is            string // what is true
	Bad           bool   // the kernel would refuse the module
}

// Symbols compares the modules in files with the kernels whose headers are in the directories and
// packages called headers; see [New]. Nothing is built. Errors are of type [*failure.Failure].
func Symbols(ctx context.Context, m *machine.Machine, modules, headers []string) (fits []Fit, err error) {
	l, err := layout()
	if err != nil {
		return nil, err
	}
	defer l.Remove()
	if _, err := l.kernels(ctx, m, headers); err != nil {
		return nil, err
	}
	for _, file := range modules {
		module, err := kmod.ReadFile(file)
		var wants map[string]uint32
		if err == nil {
			wants, err = kmod.Versions(module)
		}
		if err != nil {
			return nil, failure.From(err, "cannot read the module "+file, failure.StatusUsage)
		}
		links, _ := filepath.Glob(filepath.Join(l.Modules(), "*/build"))
		for _, link := range links {
			dir, err := os.Readlink(link)
			if unpacked := filepath.Join(l.over(), dir); err == nil && files.Exists(unpacked) {
				dir = unpacked
			}
			fit := Fit{File: file, Release: filepath.Base(filepath.Dir(link))}
			fit.Is, fit.Bad = compare(wants, kernel.Dirs{Source: dir}.Kernel(fit.Release, m.Arch))
			fits = append(fits, fit)
		}
	}
	return fits, nil
}

// compare says whether kern has what a module wants.
func compare(wants map[string]uint32, kern *kernel.Kernel) (is string, bad bool) {
	has, err := kern.Symbols()
	switch {
	case err != nil:
		return "unknown: " + err.Error(), false
	case len(wants) == 0:
		return "unknown: the module has no versions of symbols (CONFIG_MODVERSIONS)", false
	case !slices.ContainsFunc(slices.Collect(maps.Values(has)), func(crc uint32) bool { return crc != 0 }):
		return "unknown: the kernel has no versions of symbols (CONFIG_MODVERSIONS)", false
	}
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		switch crc, ok := has[name]; {
		case !ok:
			differ = append(differ, name+" (not there)")
		case crc != wants[name]:
			differ = append(differ, name)
		}
	}
	if len(differ) == 0 {
		return fmt.Sprintf("fits: all %d symbols are those that it was built against", len(wants)), false
	}
	const most = 5
	list := strings.Join(differ[:min(most, len(differ))], ", ")
	if len(differ) > most {
		list += ", …"
	}
	return fmt.Sprintf("does not fit: %d of %d symbols differ: %s", len(differ), len(wants), list), true
}
