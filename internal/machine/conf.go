// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/tree"
)

// ReadConf evaluates the conf of src as [conf.Shell.Read] does, in a world like that of
// builds, in which nothing can be written but a /tmp of its own. Each conf has another
// world: nothing of one is left when the next is read.
func (m *Machine) ReadConf(src conf.Source) (conf.Conf, error) {
	k := tree.Target{Release: src.Release, Arch: src.Arch}
	w, _ := m.World(src.Module, m.Kernel(k)) // builds say what it lacks
	allowed := m.Settings.Allowed(src.Module)
	env := conf.Confined(os.Environ(), allowed.Network || allowed.All, m.Passed...)
	r := confReader{m.Settings, src, m.ConfTimeout, env}
	if w == nil {
		return r.read(nil)
	}
	c, err := r.readIn(*w, false)
	if errors.Is(err, conf.ErrUnreadable) {
		c, err = r.readIn(*w, true)
	}
	var wrong *conf.Error
	if errors.As(err, &wrong) {
		wrong.File = src.File // and not a copy of it
		if to := r.hidden(*w); to != "" && errors.Is(err, conf.ErrUnreadable) {
			wrong.Problems = []string{fmt.Sprintf("it is a link to %s, which is hidden: copy that into the source", to)}
		}
	}
	return c, err
}

// confReader reads a conf.
type confReader struct {
	set     conf.Settings
	src     conf.Source
	timeout time.Duration
	env     []string
}

// read reads the conf. Run runs bash; see [conf.Shell].
func (r *confReader) read(run func(context.Context, *exec.Cmd) error) (conf.Conf, error) {
	sh := conf.Shell{Timeout: r.timeout, Environ: r.env, Run: run}
	defer sh.Close()
	return sh.Read(r.src, r.set)
}

// confFileSize is how many bytes a file may have that a conf makes in its /tmp.
const confFileSize = 64 << 20

// readIn reads the conf in w. If copied is set, it reads copies that belong to the user
// of w, who may not read the files themselves.
func (r confReader) readIn(w sandbox.World, copied bool) (conf.Conf, error) {
	w.FileSize = confFileSize
	// Not the conf itself: it may be a link, which is the package's.
	w.Show = slices.Concat(w.Show, r.src.Files(r.set)[1:], []string{r.dir()})
	top, err := scratch(r.set.TmpLocation, &w)
	if err == nil {
		defer files.RemoveAll(top)
	}
	if copied {
		if err == nil {
			err = r.copyTo(top, &w)
		}
		if err != nil {
			none := conf.Conf{Name: r.src.Module, Version: r.src.Version}
			return none, &conf.Error{Problems: []string{"it cannot be copied: " + err.Error()}, Err: err}
		}
	}
	// Without a /tmp, as on a full disk, most confs can be read all the same.
	r.env = append(slices.Clip(r.env), w.Environ(w.Tmp)...)
	return r.read(w.Run)
}

// dir is the directory that the conf may look for files in: that of the package's
// source. A conf that somebody names may be anywhere, and stands for itself.
func (r *confReader) dir() string {
	if filepath.Base(r.src.File) == "dkms.conf" {
		return filepath.Dir(r.src.File)
	}
	return r.src.File
}

// hidden returns the file that the conf is a link to, if w hides that; else "".
func (r *confReader) hidden(w sandbox.World) string {
	w.Show = append(slices.Clip(w.Show), r.dir())
	to, err := filepath.EvalSymlinks(r.src.File)
	if err != nil || !w.Hides(to) {
		return ""
	}
	return to
}

// scratch makes a temporary directory in the directory location, and in it the /tmp of
// w. The first is this process's own: nothing in w can put a link there.
func scratch(location string, w *sandbox.World) (top string, err error) {
	if top, err = os.MkdirTemp(location, "dkms-kernel-install-"); err != nil {
		return "", err
	}
	tmp := filepath.Join(top, "tmp")
	if err := errors.Join(os.Chmod(top, 0o711), makeFor(w.User, tmp)); err != nil {
		files.RemoveAll(top)
		return "", err
	}
	w.Tmp, w.Usage = tmp, tmp
	return top, nil
}

// makeFor makes the directory dir for user, or for that of this process if it is nil.
func makeFor(user *sandbox.User, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil || user == nil {
		return err
	}
	return os.Lchown(dir, user.UID, user.GID)
}

// copyTo makes copies of the conf, of what is beside it and of its overrides in the
// directory top, and has w show them.
func (r *confReader) copyTo(top string, w *sandbox.World) error {
	source, etc := filepath.Join(top, "source"), filepath.Join(top, "etc")
	copies := map[string]string{} // by what they are of
	dir, err := filepath.EvalSymlinks(r.dir())
	if err != nil {
		return err
	}
	if r.dir() == r.src.File {
		copies[r.src.File] = filepath.Join(etc, "conf")
		r.src.File = copies[r.src.File]
	} else if err := build.Stage(context.Background(), dir, source, w.User); err != nil {
		return err
	} else {
		if w.Features.Mounts {
			w.Writable = append(w.Writable, sandbox.Bind{From: source, To: dir})
		}
		r.src.File = filepath.Join(source, "dkms.conf")
	}
	for _, file := range r.src.Files(r.set)[1:] {
		copies[file] = filepath.Join(etc, filepath.Base(file))
	}
	r.set.EtcDir, r.set.Overrides = etc, nil
	w.Show = append(w.Show, top)
	if err := makeFor(w.User, etc); err != nil {
		return err
	}
	for from, to := range copies {
		text, err := files.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
