// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"os"
	"path"
	"strings"
)

// ReadList returns the paths of modules in a file such as modules.dep or modules.builtin
// (modules.dep(5)), relative to its directory, by the names of the modules as the kernel
// has them. A file that cannot be read has none.
func ReadList(file string) map[string]string {
	list := map[string]string{}
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		module, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name, _, ok := SplitName(path.Base(module)); ok {
			list[Normal(name)] = module
		}
	}
	return list
}
