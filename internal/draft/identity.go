// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
)

var (
	// nameVersion is NAME-VERSION. Names have dashes and digits more often than versions
	// have dashes, so it is the last dash before a digit that counts.
	nameVersion  = regexp.MustCompile(`^(.+)-([0-9][^-]*(?:-[^0-9][^-]*)*)$`)
	versionMacro = regexp.MustCompile(`(?m)^\s*MODULE_VERSION\s*\(\s*(?:"([^"\n]*)"|([A-Za-z_]\w*))\s*\)`)
	define       = regexp.MustCompile(`(?m)^\s*#\s*define\s+([A-Za-z_]\w*)\s+"([^"\n]*)"\s*(?:/[/*].*)?$`)
)

// Name returns a package's name from that of its directory: NAME-VERSION, or just NAME.
func Name(dir string) (string, error) {
	name := dir
	if m := nameVersion.FindStringSubmatch(dir); m != nil {
		name = m[1]
	}
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("the directory's name is none for a package: %w", err)
	}
	return name, nil
}

// Version returns a package's version, from the name of its directory, NAME-VERSION,
// from MODULE_VERSION in the modules' sources, or from a file VERSION.
func Version(root *os.Root, dir, name string, modules []Module) (version string, err error) {
	if rest, ok := strings.CutPrefix(dir, name+"-"); ok && CheckName(rest) == nil && rest[0] >= '0' && rest[0] <= '9' {
		return rest, nil
	}
	in := ""
	for _, m := range modules {
		for _, source := range m.sources {
			_, text, err := first(root, path.Dir(source), path.Base(source))
			v := moduleVersion(text)
			switch {
			case err != nil || CheckName(v) != nil || v == version: // it may be generated
			case version != "":
				return "", fmt.Errorf("the modules have more than one version: %s in %s, %s in %s", version, in, v, source)
			default:
				version, in = v, source
			}
		}
	}
	if version != "" {
		return version, nil
	}
	_, text, _ := first(root, ".", "VERSION")
	line, _, _ := strings.Cut(text, "\n")
	if version = strings.TrimPrefix(strings.TrimSpace(line), "v"); CheckName(version) == nil {
		return version, nil
	}
	return "", errors.New("neither is the directory called NAME-VERSION, nor have the modules' sources one MODULE_VERSION, nor is there a file VERSION")
}

// moduleVersion returns the argument of MODULE_VERSION in a C file, if it is a string or
// a macro that the same file defines as one.
func moduleVersion(text string) string {
	m := versionMacro.FindStringSubmatch(text)
	if m == nil || m[1] != "" {
		return append(m, "", "")[1]
	}
	for _, d := range define.FindAllStringSubmatch(text, -1) {
		if d[1] == m[2] {
			return d[2]
		}
	}
	return ""
}
