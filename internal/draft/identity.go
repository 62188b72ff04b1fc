package draft

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// folderName is NAME-VERSION. Names have dashes and digits more often than
// versions have dashes, so it is the last dash before a digit that counts.
var folderName = regexp.MustCompile(`^(.+)-([0-9][^-]*(?:-[^0-9][^-]*)*)$`)

// Name returns a package's name from what its folder is called: NAME-VERSION, or
// just NAME.
func Name(folder string) (string, error) {
	name := folder
	if m := folderName.FindStringSubmatch(folder); m != nil {
		name = m[1]
	}
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("the folder's name is none for a package: %w", err)
	}
	return name, nil
}

// Version returns a package's version and where it stands: in the name of the
// folder, NAME-VERSION; as MODULE_VERSION in the modules' sources; or in a file
// VERSION.
func Version(root *os.Root, folder, name string, modules []Module) (version, from string, err error) {
	if rest, ok := strings.CutPrefix(folder, name+"-"); ok && CheckName(rest) == nil && rest[0] >= '0' && rest[0] <= '9' {
		return rest, "the folder's name", nil
	}
	t := newTree(root, nil)
	found := map[string]string{}
	read := 0
	for _, m := range modules {
		for _, source := range m.sources {
			if read++; read > 500 {
				break
			}
			text, err := t.file(path.Clean(source))
			if err != nil {
				continue // it may be generated
			}
			if v := moduleVersion(text); CheckName(v) == nil && found[v] == "" {
				found[v] = source
			}
		}
	}
	switch versions := slices.Sorted(maps.Keys(found)); len(versions) {
	case 1:
		return versions[0], "MODULE_VERSION in " + found[versions[0]], nil
	case 0:
	default:
		return "", "", fmt.Errorf("the modules have more than one version: %s in %s, %s in %s",
			versions[0], found[versions[0]], versions[1], found[versions[1]])
	}
	if text, err := t.file("VERSION"); err == nil {
		line, _, _ := strings.Cut(text, "\n")
		if v := strings.TrimPrefix(strings.TrimSpace(line), "v"); CheckName(v) == nil {
			return v, "the file VERSION", nil
		}
	}
	return "", "", errors.New("neither is the folder called NAME-VERSION, nor have the modules' sources one MODULE_VERSION, nor is there a file VERSION")
}

var (
	versionMacro = regexp.MustCompile(`(?m)^\s*MODULE_VERSION\s*\(\s*(?:"([^"\n]*)"|([A-Za-z_]\w*))\s*\)`)
	define       = regexp.MustCompile(`(?m)^\s*#\s*define\s+([A-Za-z_]\w*)\s+"([^"\n]*)"\s*(?:/[/*].*)?$`)
)

// moduleVersion returns the argument of MODULE_VERSION in a C file, where it is
// a string or a macro that the same file defines as one.
func moduleVersion(text string) string {
	m := versionMacro.FindStringSubmatch(text)
	if m == nil || m[2] == "" {
		if m == nil {
			return ""
		}
		return m[1]
	}
	for _, d := range define.FindAllStringSubmatch(text, -1) {
		if d[1] == m[2] {
			return d[2]
		}
	}
	return ""
}
