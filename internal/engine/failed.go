package engine

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dkms-kernel-install/internal/atomicfile"
	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/tree"
)

// A build that failed by the package's own fault fails again while nothing
// changes. So such failures are kept, in one file of the cache, and automatic runs
// say them again without another try.

// failed is one that is kept.
type failed struct {
	// Key names what was built, Around what else may have been to blame.
	Key, Around          string
	What, Why, Log, Hint string
	Status               int
	// LogStamp tells whether the log is still the one of this failure.
	LogStamp string `json:",omitempty"`
	When     time.Time
}

func failedName(id tree.ID, k tree.Target) string { return id.String() + " " + k.String() }

// splitFailedName undoes failedName.
func splitFailedName(s string) (id tree.ID, k tree.Target, ok bool) {
	p, t, ok := strings.Cut(s, " ")
	var okP, okT bool
	id.Name, id.Version, okP = strings.Cut(p, "/")
	k.Release, k.Arch, okT = strings.Cut(t, "/")
	return id, k, ok && okP && okT && tree.CheckID(id) == nil && tree.CheckTarget(k) == nil
}

func (e *Engine) failedFile() string { return filepath.Join(e.System.CacheDir, "failures.json") }

// readFailed returns the failures that are kept, by failedName. A file that is
// missing or damaged has none.
func (e *Engine) readFailed() map[string]failed {
	all := map[string]failed{}
	if e.System.CacheDir == "" {
		return all
	}
	b, err := os.ReadFile(e.failedFile())
	if err != nil || json.Unmarshal(b, &all) != nil || all == nil {
		return map[string]failed{}
	}
	return all
}

// changeFailed makes a change to the failures that are kept, and drops those of
// packages and kernels that are gone. Without it, the next run tries again.
func (e *Engine) changeFailed(change func(map[string]failed)) {
	if e.System.CacheDir == "" || os.MkdirAll(e.System.CacheDir, 0o755) != nil {
		return
	}
	f, err := atomicfile.Create(e.failedFile(), 0o644)
	if err != nil {
		return
	}
	all := e.readFailed()
	change(all)
	maps.DeleteFunc(all, func(name string, _ failed) bool {
		id, k, ok := splitFailedName(name)
		return !ok || !exists(e.Tree.SourceDir(id)) || !e.Kernel(k).Exists()
	})
	text, err := json.MarshalIndent(all, "", "\t")
	if err == nil {
		_, err = f.Write(append(text, '\n'))
	}
	if err != nil {
		f.Close()
		return
	}
	_ = f.Commit()
}

// failedBefore returns the failure to tell in place of building: that of an
// earlier build of the same. It is nil where job is to be tried.
func (w *work) failedBefore(job *build.Job) *failure.Failure {
	e := w.e
	if e.Options.Force || e.Options.Retry || job.Key == "" {
		return nil
	}
	was, ok := e.readFailed()[failedName(job.ID, w.k)]
	if !ok || was.Key != job.Key || was.Around != e.around() {
		return nil
	}
	f := &failure.Failure{What: was.What + " before, and nothing has changed since", Why: was.Why, Status: was.Status, Hint: was.Hint}
	if was.LogStamp != "" && was.LogStamp == stampOfLog(was.Log) {
		f.Log = was.Log
	}
	if f.Hint != "" {
		f.Hint += "; "
	}
	f.Hint += "to try again all the same: " + e.tryAgain(job.ID, w.k)
	return f
}

// tryAgain is the command that builds what failed before.
func (e *Engine) tryAgain(id tree.ID, k tree.Target) string {
	kernel := k.Release
	if k.Arch != e.Arch {
		kernel = k.String()
	}
	return fmt.Sprintf("dkms install %s -k %s", id, kernel)
}

// keepOutcome remembers that job failed with err, or, where that is nil, that it
// did not.
func (w *work) keepOutcome(job *build.Job, err error) {
	name := failedName(job.ID, w.k)
	var f *failure.Failure
	if !errors.As(err, &f) || !f.Lasting || job.Key == "" || job.Changed() {
		if _, known := w.e.readFailed()[name]; known && err == nil {
			w.e.changeFailed(func(all map[string]failed) { delete(all, name) })
		}
		return
	}
	w.e.changeFailed(func(all map[string]failed) {
		all[name] = failed{Key: job.Key, Around: w.e.around(), What: f.What, Why: f.Why, Log: f.Log, Hint: f.Hint,
			Status: f.Status, LogStamp: stampOfLog(f.Log), When: time.Now().UTC().Truncate(time.Second)}
	})
}

// stampOfLog tells one log from another under the same name; "" where there is
// none.
func stampOfLog(file string) string {
	fi, err := os.Lstat(file)
	if file == "" || err != nil {
		return ""
	}
	return fmt.Sprintf("%d bytes of %d", fi.Size(), fi.ModTime().UnixNano())
}

// around names what else may make a build fail than what it is made from, as far
// as that is cheap to see: programs and libraries that come and go, the kernel
// that runs, how much is done at a time.
func (e *Engine) around() string {
	return fmt.Sprint(e.Running, " ", e.Settings.ParallelJobs, " ", e.Settings.BuildUser, " ", e.machine())
}

// machine changes when something is installed on this machine, or removed: then
// one of these folders does. The first answer of a run holds.
func (e *Engine) machine() string {
	e.machineOnce.Do(func() {
		dirs := filepath.SplitList(os.Getenv("PATH"))
		for _, pattern := range []string{"include", "include/*-linux-*", "lib", "lib64", "lib/*-linux-*", "lib/gcc*/*", "libexec",
			"share/pkgconfig", "lib*/pkgconfig", "lib/*/pkgconfig"} {
			for _, top := range []string{"/usr", "/usr/local"} {
				found, _ := filepath.Glob(filepath.Join(top, pattern))
				dirs = append(dirs, found...)
			}
		}
		dirs = append(dirs, "/etc/alternatives")
		h := sha256.New()
		for _, dir := range dirs {
			var st syscall.Stat_t
			if err := syscall.Stat(dir, &st); err == nil {
				fmt.Fprintln(h, dir, st.Mtim)
			}
		}
		e.machineStamp = fmt.Sprintf("%x", h.Sum(nil)[:16])
	})
	return e.machineStamp
}

// FailedBuild tells that the last build of a package for a kernel failed.
type FailedBuild struct {
	tree.ID
	Kernel    tree.Target
	What, Why string
	// TryAgain is a command that builds it all the same.
	TryAgain string
}

// FailedBuilds returns the builds that automatic runs do not try again while
// nothing changes, sorted by package and kernel, for which match says so.
func (e *Engine) FailedBuilds(matchKernel func(tree.Target) bool) []FailedBuild {
	var list []FailedBuild
	for name, f := range e.readFailed() {
		id, k, ok := splitFailedName(name)
		if !ok || !matchKernel(k) || !exists(e.Tree.SourceDir(id)) || !e.Kernel(k).Exists() {
			continue
		}
		// The classic command may have built it meanwhile.
		if fi, err := os.Stat(e.Tree.ModuleDir(id, k)); err == nil && fi.ModTime().After(f.When) || err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		list = append(list, FailedBuild{id, k, f.What, f.Why, e.tryAgain(id, k)})
	}
	slices.SortFunc(list, func(a, b FailedBuild) int {
		return cmp.Or(strings.Compare(a.ID.String(), b.ID.String()), strings.Compare(a.Kernel.String(), b.Kernel.String()))
	})
	return list
}
