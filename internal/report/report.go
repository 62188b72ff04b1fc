// SPDX-License-Identifier: GPL-2.0-or-later

// Package report shows the course and the results of the work: as plain lines
// that read well inside a package manager's output, and as JSON.
package report

import (
	"encoding/json"
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

// Text tells of the work in lines, one for each package. It implements
// [engine.Events].
type Text struct {
	mu     sync.Mutex // keeps the lines of one result together
	log    *logrus.Logger
	prefix string
}

// NewText returns a Text that writes to w. Every line begins with prefix. What
// was current or passed over as planned is only told when verbose; when quiet,
// only failures and warnings are.
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

// Verbose makes t tell everything from now on.
func (t *Text) Verbose() { t.log.SetLevel(logrus.DebugLevel) }

// lineFormatter writes the message alone: time and level are noise in the output
// of a package manager, which has its own log.
type lineFormatter struct{}

func (lineFormatter) Format(e *logrus.Entry) ([]byte, error) {
	prefix := ""
	if e.Level <= logrus.WarnLevel {
		prefix = e.Level.String() + ": "
		if e.Level == logrus.ErrorLevel {
			prefix = ""
		}
	}
	return []byte(prefix + clean(e.Message) + "\n"), nil
}

// clean keeps what a package says of itself from steering the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// Start is told only when verbose: lines that later lines make obsolete are no
// help in a log.
func (t *Text) Start(id tree.ID, k tree.Target, build bool) {
	verb := "installing"
	if build {
		verb = "building"
	}
	t.log.Debugf("%s%s for %s: %s", t.prefix, id, k.Release, verb)
}

// Note tells a line about the run.
func (t *Text) Note(line string) { t.log.Infof("%s%s", t.prefix, line) }

// Debug tells a line to those who asked for all.
func (t *Text) Debug(line string) { t.log.Debugf("%s%s", t.prefix, line) }

// Done tells the result for one package in a line.
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
		t.log.Debug(what + "current")
	case execute.Skipped:
		t.log.Info(what + "passed over: " + r.Why)
	case execute.Planned:
		verb := "would be installed"
		if r.Built {
			verb = "would be built and installed"
		}
		t.log.Info(what + verb + ": " + r.Why)
	case execute.Removed:
		t.log.Info(what + "removed")
	case execute.Failed:
		t.log.Error(what + "FAILED: " + r.Failure.What)
	}
	for _, path := range r.Placed {
		t.log.Debugf("%s  + %s", t.prefix, path)
	}
	for _, path := range r.Removed {
		t.log.Debugf("%s  - %s", t.prefix, path)
	}
	if r.Outcome == execute.Done {
		for _, kept := range r.Kept {
			t.log.Infof("%s  kept the kernel's own %s", t.prefix, kept)
		}
	}
}

func done(r execute.Result) string {
	var steps []string
	if r.Built {
		if r.Stored {
			steps = append(steps, "from the cache")
		} else {
			steps = append(steps, "built")
		}
		if r.Signed {
			steps = append(steps, "signed")
		}
		if r.Compression.Suffix() != "" {
			steps = append(steps, "compressed ("+r.Compression.String()+")")
		}
	}
	if len(r.Placed) > 0 {
		steps = append(steps, "installed")
	}
	s := strings.Join(steps, ", ")
	if n := len(r.Placed); n > 1 {
		s += fmt.Sprintf(" (%d modules)", n)
	}
	return s + " in " + took(r.Took)
}

func took(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Failures tells of each failure in three lines: what, why, and what to do.
// Packages that failed for one and the same reason share them.
func (t *Text) Failures(results []execute.Result) {
	var told []*failure.Failure
	for _, r := range results {
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
}

// Failure tells of one failure in its three lines.
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

// StatusLine returns a line of status in the form that scripts parse.
func StatusLine(s observe.Status) string {
	if s.State == observe.StateWeak {
		// It keeps a form that all lines had once.
		return fmt.Sprintf("%s, %s, %s, %s: %s from %s", s.Name, s.Version, s.Kernel.Release, s.Kernel.Arch, s.State, s.WeakFrom)
	}
	line := s.ID.String()
	if s.Kernel.Release != "" {
		line += ", " + s.Kernel.Release + ", " + s.Kernel.Arch
	}
	line += ": " + string(s.State)
	if s.Originals {
		line += " (Original modules exist)"
	}
	if s.KernelGone && s.State == observe.StateInstalled {
		line += " (Built modules are missing in the kernel modules directory)"
	}
	if s.Differs {
		line += " (Differences between built and installed modules)"
	}
	return line
}

// statusJSON is how a status looks to programs.
type statusJSON struct {
	Package         string `json:"package"`
	Version         string `json:"version"`
	Kernel          string `json:"kernel,omitempty"`
	Arch            string `json:"arch,omitempty"`
	State           string `json:"state"`
	OriginalsExist  bool   `json:"originals_exist"`
	DiffersFromTree bool   `json:"differs"`
	KernelGone      bool   `json:"kernel_gone"`
	WeakFrom        string `json:"weak_from,omitempty"`
}

// StatusJSON writes the list as a JSON array of objects.
func StatusJSON(w io.Writer, list []observe.Status) error {
	out := make([]statusJSON, len(list))
	for i, s := range list {
		out[i] = statusJSON{s.Name, s.Version, s.Kernel.Release, s.Kernel.Arch, string(s.State), s.Originals, s.Differs, s.KernelGone, s.WeakFrom}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
