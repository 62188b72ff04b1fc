// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

var (
	// packageName is narrower than what dkms takes: a name or version of these characters
	// means the same everywhere that it is written.
	packageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}$`)
	// nameVersion is NAME-VERSION. Names have dashes and digits more often than versions
	// have dashes, so it is the last dash before a digit that counts.
	nameVersion  = regexp.MustCompile(`^(.+)-([0-9][^-]*(?:-[^0-9][^-]*)*)$`)
	versionMacro = regexp.MustCompile(`(?m)^\s*MODULE_VERSION\s*\(\s*(?:"([^"\n]*)"|([A-Za-z_]\w*))\s*\)`)
)

// CheckName returns an error if s will not do as the name or the version of a package.
func CheckName(s string) error {
	if !packageName.MatchString(s) {
		return fmt.Errorf("%.40q has more than letters, digits and ._+~- in it, or does not begin with a letter or digit", s)
	}
	return nil
}

// Name returns a package's name from that of its directory: NAME-VERSION, or just NAME.
func Name(dir string) (string, error) {
	if m := nameVersion.FindStringSubmatch(dir); m != nil {
		dir = m[1]
	}
	if err := CheckName(dir); err != nil {
		return "", fmt.Errorf("the directory's name is none for a package: %w", err)
	}
	return dir, nil
}

// Version returns a package's version, from the name of its directory, NAME-VERSION,
// from MODULE_VERSION in the modules' sources, or from a file VERSION.
func Version(root *os.Root, dir, name string, modules []Module) (version string, err error) {
	if rest, ok := strings.CutPrefix(dir, name+"-"); ok && CheckName(rest) == nil && rest[0] <= '9' {
		return rest, nil
	}
	var sources []string
	for _, m := range modules {
		sources = append(sources, m.sources...)
	}
	in := ""
	for _, source := range sources[:min(len(sources), maxSources)] {
		_, text, _ := read(root, ".", source) // it may be generated
		switch v := moduleVersion(text); {
		case CheckName(v) != nil || v == version:
		case version != "":
			return "", fmt.Errorf("the modules have more than one version: %s in %s, %s in %s", version, in, v, source)
		default:
			version, in = v, source
		}
	}
	if version != "" {
		return version, nil
	}
	_, text, _ := read(root, ".", "VERSION")
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
	if m != nil && m[2] != "" {
		m = regexp.MustCompile(`(?m)^\s*#\s*define\s+` + m[2] + `\s+"([^"\n]*)"\s*(?:/[/*].*)?$`).FindStringSubmatch(text)
	}
	if m == nil {
		return ""
	}
	return m[1]
}
