// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"errors"
	"os"
	"slices"
)

// ReadOnly returns a world in which a command can read the directory dir, an absolute
// path free of symbolic links, and change nothing. Root gets one or an error. Another
// user gets as much of it as the machine allows, for that user could run the command
// outside as well.
func ReadOnly(dir string) (*World, error) {
	f := Probe(nil)
	if os.Geteuid() == 0 && !f.Mounts && f.Landlock == 0 {
		return nil, errors.New("this machine cannot keep a program of root from changing it")
	}
	return &World{Features: f, Show: []string{dir}, Hide: slices.Concat(Secrets, Homes)}, nil
}
