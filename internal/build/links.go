// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/sandbox"
)

// lacks matches what programs say of a file that is not there.
var lacks = lazy.Regexp(`No such file or directory|No rule to make target|not found`)

// blameLink says in err, with which the build failed for want of a file, which link in the
// source leads to what the build does not see, if there is one.
func (j *job) blameLink(err error) {
	var f *failure.Failure
	if !errors.As(err, &f) || j.World == nil || !lacks().MatchString(f.Why) {
		return
	}
	link, to := j.hiddenLink()
	if link == "" {
		return
	}
	f.Hint = fmt.Sprintf("%s in the source is a link to %s, which builds do not see: copy that into the source", link, to)
	if slices.ContainsFunc(sandbox.Homes, func(dir string) bool { return files.Below(dir, to) }) {
		f.Hint += fmt.Sprintf(`, or, if everybody may read it there, set build_sandbox="%s=home" in framework.conf`, j.Name)
	}
}

// hiddenLink returns the first link in the source that leads to what the build does not
// see, and where that is.
func (j *job) hiddenLink() (link, to string) {
	filepath.WalkDir(j.Source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSymlink {
			return nil
		}
		if real, err := filepath.EvalSymlinks(path); err == nil && j.World.Hides(real) {
			link, _ = filepath.Rel(j.Source, path)
			to = real
			return fs.SkipAll
		}
		return nil
	})
	return link, to
}
