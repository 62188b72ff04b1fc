// SPDX-License-Identifier: GPL-2.0-or-later

// Package report shows the progress and the results of a run: as plain lines, which
// read well in a package manager's output, and as JSON.
package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// Text writes lines about a run, one for each package. It implements engine.Events, and
// may be used by several goroutines at once.
type Text struct {
	mu     sync.Mutex // held by Done, to keep the lines of one result together
	log    *logrus.Logger
	prefix string
	once   bool
}

// NewText returns a Text that writes to w, which [Clean] has made. Every line begins with
// prefix, after the word "warning: " if it is one. If quiet is set, it writes only
// failures and warnings. If verbose is set, which prevails, it also writes what begins,
// what is current, and which files are placed and removed.
func NewText(w io.Writer, prefix string, verbose, quiet bool) *Text {
	log := logrus.New()
	log.SetOutput(w)
	log.SetFormatter(lineFormatter{})
	switch {
	case verbose:
		log.SetLevel(logrus.DebugLevel)
	case quiet:
		log.SetLevel(logrus.WarnLevel)
	}
	return &Text{log: log, prefix: prefix}
}

// Verbose makes t verbose from now on; see [NewText].
func (t *Text) Verbose() { t.log.SetLevel(logrus.DebugLevel) }

// TellOnce makes t tell failures that an earlier run has told in one line from now on.
func (t *Text) TellOnce() { t.once = true }

// known reports whether t leaves the failure of r to that line.
func (t *Text) known(r execute.Result) bool {
	return t.once && r.Outcome == execute.Failed && r.Failure.Again
}

// lineFormatter writes a message in one line. It leaves out the time, and the level but
// for warnings: package managers have a log of their own.
type lineFormatter struct{}

func (lineFormatter) Format(e *logrus.Entry) ([]byte, error) {
	prefix := ""
	if e.Level <= logrus.WarnLevel {
		prefix = e.Level.String() + ": "
		if e.Level == logrus.ErrorLevel {
			prefix = ""
		}
	}
	return []byte(prefix + failure.Line(e.Message) + "\n"), nil
}

// Expect does nothing: plain lines say what was done.
func (t *Text) Expect([]execute.Expected) {}

// Start writes, if t is verbose, that the work on a package for a kernel begins: the
// build, or else only the installation. In a log such lines do not help.
func (t *Text) Start(id tree.ID, k tree.Target, build bool) {
	verb := "installing"
	if build {
		verb = "building"
	}
	t.log.Debugf("%s%s for %s: %s", t.prefix, id, k.Release, verb)
}

// Note writes a line about the run.
func (t *Text) Note(line string) { t.log.Infof("%s%s", t.prefix, line) }

// Debug writes a line about the run if t is verbose.
func (t *Text) Debug(line string) { t.log.Debugf("%s%s", t.prefix, line) }

// Done writes the result for one package, or for a kernel as a whole: a line, and
// further ones for warnings and modules.
func (t *Text) Done(r execute.Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	what := fmt.Sprintf("%s%s for %s: ", t.prefix, r.ID, r.Kernel.Release)
	if r.ID == (tree.ID{}) {
		what = fmt.Sprintf("%s%s: ", t.prefix, r.Kernel.Release)
	}
	for _, w := range r.Warnings {
		t.log.Warn(what + w)
	}
	switch r.Outcome {
	case execute.Done:
		t.log.Info(what + done(r))
	case execute.Current:
		if r.Why != "" {
			t.log.Info(what + "left as it is: " + r.Why)
			break
		}
		t.log.Debug(what + "current")
	case execute.Skipped:
		verb := "passed over: "
		if r.Deferred {
			verb = "deferred: "
		}
		t.log.Info(what + verb + r.Why)
	case execute.Planned:
		verb := "would be installed"
		if r.Built {
			verb = "would be built and installed"
		}
		t.log.Info(what + verb + ": " + r.Why)
	case execute.Removed:
		t.log.Info(what + "removed")
	case execute.Failed:
		if t.known(r) {
			break
		}
		t.log.Error(what + "FAILED: " + r.Failure.What)
	}
	if r.Unkept != "" {
		t.log.Debugf("%s  not kept in the cache: %s", t.prefix, r.Unkept)
	}
	for _, path := range slices.Concat(r.Placed, r.Restored) {
		t.log.Debugf("%s  + %s", t.prefix, path)
	}
	for _, path := range r.Removed {
		t.log.Debugf("%s  - %s", t.prefix, path)
	}
	if r.Outcome == execute.Done {
		for _, kept := range r.Kept {
			t.log.Infof("%s  kept %s", t.prefix, kept)
		}
	}
}

// done returns what was done for r, and how long it took.
func done(r execute.Result) string {
	var steps []string
	if r.Built {
		switch {
		case r.Resigned:
			steps = append(steps, "signed again")
		case r.Stored:
			steps = append(steps, "from the cache")
		default:
			steps = append(steps, "built")
		}
		if r.Signed && !r.Resigned {
			steps = append(steps, "signed")
		}
		if r.Compression.Suffix() != "" {
			steps = append(steps, "compressed ("+r.Compression.String()+")")
		}
	}
	if r.Installed && r.Instead != "" {
		steps = append(steps, "installed in place of "+r.Instead)
	} else if r.Installed {
		steps = append(steps, "installed")
	}
	s := strings.Join(steps, ", ")
	if n := len(r.Placed); n > 1 {
		s += fmt.Sprintf(" (%d modules)", n)
	}
	return s + " in " + took(r.Took)
}

// took returns d for people.
func took(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Failures writes for each failure what failed, why, and what to do; see [Text.Failure].
// Packages that share a failure, by the same pointer, are listed in one line.
func (t *Text) Failures(results []execute.Result) {
	var told []*failure.Failure
	var known []string
	for _, r := range results {
		if t.known(r) {
			known = append(known, fmt.Sprintf("%s for %s", r.ID, r.Kernel.Release))
			continue
		}
		if r.Outcome != execute.Failed || slices.Contains(told, r.Failure) {
			continue
		}
		told = append(told, r.Failure)
		var names []string
		for _, other := range results {
			if other.Failure == r.Failure && other.ID != (tree.ID{}) {
				names = append(names, other.ID.String())
			}
		}
		what := r.Kernel.Release + ": " + r.Failure.What
		if len(names) > 0 {
			what = fmt.Sprintf("%s for %s: %s", strings.Join(names, ", "), r.Kernel.Release, r.Failure.What)
		}
		t.Failure(what, r.Failure)
	}
	if len(known) > 0 {
		t.log.Errorf("%sstill fails, as told before: %s (see dkms-kernel-install status)", t.prefix, strings.Join(known, ", "))
	}
}

// Failure writes up to three lines about f: what, which says what failed, and if f knows
// them, why and what to do.
func (t *Text) Failure(what string, f *failure.Failure) {
	t.log.Error(t.prefix + what)
	if why := f.Why; why != "" || f.Log != "" {
		if f.Log != "" {
			why = strings.TrimSpace(why + " (log: " + f.Log + ")")
		}
		t.log.Error(t.prefix + "  why: " + why)
	}
	if f.Hint != "" {
		t.log.Error(t.prefix + "  do:  " + f.Hint)
	}
}

// StatusLine returns the line for s in the form of the classic dkms status, which
// scripts parse.
func StatusLine(s observe.Status) string {
	if s.State == observe.StateWeak {
		// The classic dkms kept its old form for these lines.
		return fmt.Sprintf("%s, %s, %s, %s: %s from %s", s.Name, s.Version, s.Kernel.Release, s.Kernel.Arch, s.State, s.WeakFrom)
	}
	line := s.ID.String()
	if s.Kernel.Release != "" {
		line += ", " + s.Kernel.Release + ", " + s.Kernel.Arch
	}
	line += ": " + string(s.State)
	if s.State == observe.StateKept {
		line += " from before an upgrade"
	}
	if s.Originals {
		line += " (Original modules exist)"
	}
	if s.Missing {
		line += " (Built modules are missing in the kernel modules folder)"
	} else if s.Differs {
		line += " (Differences between built and installed modules)"
	}
	return line
}
