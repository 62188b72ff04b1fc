// SPDX-License-Identifier: GPL-2.0-or-later

package observe

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// A build that failed by the package's own fault fails again while nothing
// changes. Such failures are kept, in one file of the cache, so that automatic runs
// report them again without another try.

// kept is a failure in that file.
type kept struct {
	// Key names what was built, Around what else may have been to blame.
	Key, Around          string
	What, Why, Log, Hint string
	Status               int
	// LogStamp reports whether the log is still the one of this failure.
	LogStamp string `json:",omitempty"`
	When     time.Time
}

// failures are those that are kept, by failureName.
type failures struct {
	all    map[string]kept
	around func() string
}

func openFailures(m *machine.Machine) *failures {
	all, _ := files.ReadState[map[string]kept](failuresFile(m))
	return &failures{all, sync.OnceValue(func() string { return around(m) })}
}

func failuresFile(m *machine.Machine) string { return m.CacheFile("failures.json") }

func failureName(id tree.ID, k tree.Target) string { return id.String() + " " + k.String() }

// splitFailureName undoes failureName.
func splitFailureName(s string) (id tree.ID, k tree.Target, ok bool) {
	p, t, ok := strings.Cut(s, " ")
	var okP, okT bool
	id.Name, id.Version, okP = strings.Cut(p, "/")
	k.Release, k.Arch, okT = strings.Cut(t, "/")
	return id, k, ok && okP && okT && tree.CheckID(id) == nil && tree.CheckTarget(k) == nil
}

// of returns why the last build of o for k failed, if what would be built now is
// the same; nil if it is to be tried.
func (f *failures) of(ctx context.Context, m *machine.Machine, o Seen, k tree.Target) *failure.Failure {
	was, ok := f.all[failureName(o.ID, k)]
	if !ok {
		return nil
	}
	in := newInputs(m, m.Hashes, Description(m, o, k))
	now, err := in.made(ctx, in.hashes.SomeHeaders)
	if err != nil || was.Key != now.Key || was.Around != f.around() {
		return nil
	}
	again := &failure.Failure{What: was.What + " before, and nothing has changed since", Why: was.Why, Status: was.Status, Hint: was.Hint, Again: true}
	if was.LogStamp != "" && was.LogStamp == stampOfLog(was.Log) {
		again.Log = was.Log
	}
	if again.Hint != "" {
		again.Hint += "; "
	}
	again.Hint += "to try again all the same: " + tryAgain(m, o.ID, k)
	return again
}

// tryAgain is the command that builds what failed before.
func tryAgain(m *machine.Machine, id tree.ID, k tree.Target) string {
	kernel := k.Release
	if k.Arch != m.Arch {
		kernel = k.String()
	}
	return fmt.Sprintf("dkms install %s -k %s", id, kernel)
}

// RememberOutcome keeps that the build of id for k, under key, failed with err, or
// forgets that an earlier one did if err is nil or says nothing about a build to
// come. It may be called by several goroutines at once.
func RememberOutcome(m *machine.Machine, id tree.ID, k tree.Target, key string, err error) {
	name := failureName(id, k)
	var f *failure.Failure
	if !errors.As(err, &f) || !f.Lasting || key == "" {
		known, _ := files.ReadState[map[string]kept](failuresFile(m))
		if _, ok := known[name]; ok && err == nil {
			changeFailures(m, func(all map[string]kept) { delete(all, name) })
		}
		return
	}
	changeFailures(m, func(all map[string]kept) {
		all[name] = kept{Key: key, Around: around(m), What: f.What, Why: f.Why, Log: f.Log, Hint: f.Hint,
			Status: f.Status, LogStamp: stampOfLog(f.Log), When: time.Now().UTC().Truncate(time.Second)}
	})
}

// changeFailures makes a change to the failures that are kept, and drops those of
// packages and kernels that are gone. If it cannot, the next run tries again.
func changeFailures(m *machine.Machine, change func(map[string]kept)) {
	file := failuresFile(m)
	if os.MkdirAll(filepath.Dir(file), 0o755) != nil {
		return
	}
	_ = files.Update(file, func(all map[string]kept) map[string]kept {
		if all == nil {
			all = map[string]kept{}
		}
		change(all)
		maps.DeleteFunc(all, func(name string, _ kept) bool {
			id, k, ok := splitFailureName(name)
			return !ok || !files.Exists(m.Tree.SourceDir(id)) || !m.Kernel(k).Exists()
		})
		return all
	})
}

// stampOfLog tells one log from another under the same name; empty if there is
// none.
func stampOfLog(file string) string {
	fi, err := os.Lstat(file)
	if file == "" || err != nil {
		return ""
	}
	return fmt.Sprintf("%d bytes of %d", fi.Size(), fi.ModTime().UnixNano())
}

// around names what may make a build fail besides what it is made from, as far as
// that is cheap to see: programs and libraries that come and go, the kernel that
// runs, how much is done at a time.
func around(m *machine.Machine) string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, pattern := range []string{"include", "include/*-linux-*", "lib", "lib64", "lib/*-linux-*", "lib/gcc*/*", "libexec",
		"share/pkgconfig", "lib*/pkgconfig", "lib/*-linux-*/pkgconfig"} {
		for _, top := range []string{"/usr", "/usr/local"} {
			found, _ := filepath.Glob(filepath.Join(top, pattern))
			dirs = append(dirs, found...)
		}
	}
	dirs = append(dirs, "/etc/alternatives")
	// One of these directories changes when a program is installed or removed.
	h := sha256.New()
	for _, dir := range dirs {
		var st syscall.Stat_t
		if err := syscall.Stat(dir, &st); err == nil {
			fmt.Fprintln(h, dir, st.Mtim)
		}
	}
	return fmt.Sprintf("%s %d %s %x", m.Running, m.Settings.ParallelJobs, m.Settings.BuildUser, h.Sum(nil)[:16])
}

// FailedBuild is a build that automatic runs do not try again while nothing changes.
type FailedBuild struct {
	tree.ID
	Kernel          tree.Target
	What, Why, Hint string
	Log             string // its file; empty if it is another one's by now
	Status          int    // of dkms, if it fails so
	TryAgain        string // a command that builds it all the same
}

// FailedBuilds returns the failed builds for the kernels that match accepts, sorted
// by package and kernel.
func FailedBuilds(m *machine.Machine, match func(tree.Target) bool) []FailedBuild {
	var list []FailedBuild
	for name, f := range openFailures(m).all {
		id, k, ok := splitFailureName(name)
		if !ok || !match(k) || !files.Exists(m.Tree.SourceDir(id)) || !m.Kernel(k).Exists() {
			continue
		}
		// The classic command may have built it meanwhile.
		if fi, err := os.Stat(m.Tree.ModuleDir(id, k)); err == nil && fi.ModTime().After(f.When) || err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		failed := FailedBuild{ID: id, Kernel: k, What: f.What, Why: f.Why, Hint: f.Hint, Status: f.Status, TryAgain: tryAgain(m, id, k)}
		if f.LogStamp != "" && f.LogStamp == stampOfLog(f.Log) {
			failed.Log = f.Log
		}
		list = append(list, failed)
	}
	slices.SortFunc(list, func(a, b FailedBuild) int {
		return cmp.Or(strings.Compare(a.ID.String(), b.ID.String()), strings.Compare(a.Kernel.String(), b.Kernel.String()))
	})
	return list
}
