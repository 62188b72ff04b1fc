// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/lazy"
)

// The parts of a staging that the store keeps.
const (
	entryRaw     = "raw"                  // modules, checked and stripped, neither signed nor compressed
	entryOut     = "out"                  // what commands left beside the build
	entrySymvers = "build/Module.symvers" // if the build made one
	entryLog     = "make.log"
)

// storable reports whether a key can name everything that goes into the build, and
// an entry hold everything that it leaves: not what comes from the network or out
// of somebody's home, nor what POST_BUILD writes where the tree keeps it.
func (d Description) storable() bool {
	if a := d.Settings.Allowed(d.Name); a.All || a.Network || a.Home {
		return false
	}
	return d.Store != nil && d.Key != "" && (d.private() || d.Conf.PostBuild == "")
}

// restore gets the build from the store as if it had been made: no command runs,
// and no source is copied. It reports false if the build has yet to be made.
func (j *job) restore() bool {
	if !j.storable() || j.Again {
		return false
	}
	top := j.Tree.StagingDir(j.ID, j.target())
	if j.StoreErr = files.RemoveAll(top); j.StoreErr != nil {
		return false
	}
	// A build can do without a store, whatever is wrong with it.
	ok, err := j.Store.Get(j.Key, top)
	if !ok {
		j.StoreErr = err
		return false
	}
	j.Stored, j.StoreErr = j.take(top, fmt.Sprintf("The same was built before: this is from the cache of builds, in %s", j.Store))
	return j.Stored
}

// take makes the files in the directory top, which are parts of a staging, the staging of
// the build, and origin what its log says of where they are from. It reports false if they
// do not have what the build is to have.
func (j *job) take(top, origin string) (bool, error) {
	j.staging = staging{top: top, build: filepath.Join(top, "build"), out: filepath.Join(top, entryOut), raw: filepath.Join(top, entryRaw)}
	for _, m := range j.Conf.Modules {
		f, _, err := j.openModule(j.staging.raw, m.DestName+".ko", m)
		if err != nil {
			return false, nil // the build that is made takes its place
		}
		f.Close()
	}
	log, err := j.storedLog(top, origin)
	for _, dir := range []string{j.staging.out, j.staging.build} {
		err = errors.Join(err, os.MkdirAll(dir, 0o755))
	}
	if err != nil {
		log.Close()
		return false, err
	}
	j.run.log = log
	return true, nil
}

// resign takes the modules that are in the tree for those of the build, so that they are
// signed anew. It reports false if that is not wanted, or if they are not whole: then the
// build has to be made.
func (j *job) resign() bool {
	if !j.Resign || j.Again {
		return false
	}
	top := j.Tree.StagingDir(j.ID, j.target())
	err := errors.Join(files.RemoveAll(top), os.MkdirAll(filepath.Join(top, entryRaw), 0o755), os.MkdirAll(filepath.Join(top, "build"), 0o755))
	modules, errTree := j.Tree.Modules(j.ID, j.target())
	err = errors.Join(err, errTree)
	for _, file := range modules {
		name, _, _ := kmod.SplitName(file)
		module, errRead := kmod.ReadFile(filepath.Join(j.Tree.ModuleDir(j.ID, j.target()), file))
		err = errors.Join(err, errRead, os.WriteFile(filepath.Join(top, entryRaw, name+".ko"), kmod.StripSignature(module), 0o644))
	}
	symvers, errSymvers := os.ReadFile(filepath.Join(j.Tree.ModuleDir(j.ID, j.target()), "Module.symvers"))
	if errSymvers == nil {
		err = errors.Join(err, os.WriteFile(filepath.Join(top, entrySymvers), symvers, 0o644))
	}
	log, errLog := os.ReadFile(filepath.Join(j.Tree.TargetDir(j.ID, j.target()), "log/make.log"))
	err = errors.Join(err, errLog, os.WriteFile(filepath.Join(top, entryLog), log, 0o600))
	if err != nil {
		return false
	}
	if j.Resigned, err = j.take(top, "This is what was in the tree, signed with another key"); err != nil {
		return false
	}
	j.Stored = j.Resigned
	return j.Resigned
}

// storedLog returns the log of a build whose files are in the directory top and were not
// made now: where they are from, and then the log of the build as it was made.
func (j *job) storedLog(top, origin string) (*os.File, error) {
	old, err := os.Open(filepath.Join(top, entryLog))
	if err != nil {
		return nil, err
	}
	defer old.Close()
	log, err := os.Create(filepath.Join(top, "new.log"))
	if err != nil {
		return nil, err
	}
	j.logHead(log)
	fmt.Fprintf(log, "# %s,\n# and what follows is the log of when it was built.\n\n", origin)
	_, err = io.Copy(log, old)
	return log, err
}

// logHead writes the first lines of a log. The first line names the build; see
// [tree.Tree.ExplainsFailure].
func (d Description) logHead(w io.Writer) {
	fmt.Fprintf(w, "make.log for %s for kernel %s (%s)\n%s\n\n", d.ID, d.Kernel.Release, d.Kernel.Arch, time.Now().Format(time.UnixDate))
}

// remember puts a build that was made, and is in targetDir now, into the store.
func (j *job) remember(ctx context.Context, targetDir string) {
	if j.Stored || !j.storable() || !plain(j.staging.out) {
		return
	}
	if j.Unkept = j.unnamed(ctx); j.Unkept == nil && j.Changed != nil && j.Changed() {
		j.Unkept = errors.New("what it is made from changed meanwhile")
	}
	if j.Unkept != nil {
		return
	}
	parts := map[string]string{entryRaw: j.staging.raw, entryOut: j.staging.out, entryLog: j.run.log.Name()}
	symvers := filepath.Join(targetDir, "module", "Module.symvers")
	if _, err := os.Stat(symvers); err == nil {
		parts[entrySymvers] = symvers
	}
	j.StoreErr = j.Store.Put(j.Key, parts)
}

// plain reports whether the store can keep everything in the directory dir: it keeps
// files, and directories that are not empty.
func plain(dir string) bool {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type().IsRegular() {
			return err
		}
		if !d.IsDir() {
			return fs.ErrInvalid
		}
		entries, err := os.ReadDir(path)
		if err == nil && len(entries) == 0 && path != dir {
			err = fs.ErrInvalid
		}
		return err
	}) == nil
}

// Effective returns, for [fingerprint.Key], what the result of the build depends on
// besides files: of the environment, all that the build gets, but for what is its own
// each time. The number of jobs does not count, nor does what is done with the
// modules afterwards.
func (d Description) Effective() any {
	type module struct {
		Name, Location, Dest string
		Strip                bool
	}
	e := struct {
		Make, PreBuild, PostBuild string
		Patches                   []string
		Modules                   []module
		Vars, Environ             []string
		Allowed                   conf.Allowed
	}{
		Make: strings.TrimSpace(jobsOption().ReplaceAllString(d.makeCommand(), " ")), PreBuild: d.Conf.PreBuild, PostBuild: d.Conf.PostBuild,
		Patches: d.Conf.Patches, Allowed: d.Settings.Allowed(d.Name),
	}
	for _, m := range d.Conf.Modules {
		e.Modules = append(e.Modules, module{m.BuiltName, m.BuiltLocation, m.DestName, m.Strip})
	}
	for _, v := range d.Vars {
		if !strings.HasPrefix(v, "parallel_jobs=") {
			e.Vars = append(e.Vars, v)
		}
	}
	last := map[string]string{}
	for _, v := range d.buildEnviron(nil, "") {
		name, value, _ := strings.Cut(v, "=")
		last[name] = value
	}
	for name, value := range last {
		switch {
		case slices.Contains([]string{"HOME", "TMPDIR", "PWD", "_", "MAKEFLAGS"}, name):
			// A build that is stored gets its own.
		case strings.HasPrefix(name, "LC_") && name != "LC_ALL":
			// LC_ALL, which is always set, goes before it.
		case name == "PATH":
			e.Environ = append(e.Environ, name+"="+searched(value))
		default:
			e.Environ = append(e.Environ, name+"="+value)
		}
	}
	slices.Sort(e.Environ)
	return e
}

// searched returns the directories of a PATH in which there is something, without links, each
// once: callers write the same PATH in several ways. Package managers leave out /usr/local.
func searched(path string) string {
	var list []string
	for _, dir := range filepath.SplitList(path) {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil || slices.Contains(list, real) {
			continue
		}
		if entries, err := os.ReadDir(real); err != nil || len(entries) > 0 {
			list = append(list, real)
		}
	}
	return strings.Join(list, ":")
}

// jobsOption matches the option of make for the number of jobs.
var jobsOption = lazy.Regexp(`[ \t]-j[ \t]*[0-9]*(?:[ \t]|$)`)
