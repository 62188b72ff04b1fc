// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// build is a package for a kernel.
type build struct {
	tree.ID
	kernel tree.Target
}

// Overview returns the table of the packages in list for kernels, of which one is running:
// with the builds that failed, and with what chains have of these kernels.
func Overview(kernels []tree.Target, running tree.Target, list []observe.Status, failed []observe.FailedBuild, chains []explain.Chain) Table {
	t := Table{Running: slices.Index(kernels, running)}
	for _, k := range kernels {
		t.Kernels = append(t.Kernels, k.Release)
		if k.Arch != running.Arch {
			t.Kernels[len(t.Kernels)-1] = k.String()
		}
	}
	rows := map[tree.ID][]Sign{}
	for _, s := range list {
		signs, known := rows[s.ID]
		if !known {
			signs = make([]Sign, len(kernels))
			rows[s.ID] = signs
			t.Rows = append(t.Rows, Row{s.ID.String(), signs})
		}
		for i, k := range kernels {
			if s.Kernel == k || s.State == observe.StateBroken {
				signs[i] = max(signs[i], sign(s))
			}
		}
	}
	raise := func(id tree.ID, k tree.Target, change func(Sign) Sign) {
		if i := slices.Index(kernels, k); i >= 0 && rows[id] != nil {
			rows[id][i] = change(rows[id][i])
		}
	}
	for _, c := range chains {
		raise(c.ID, c.Kernel, func(s Sign) Sign { return explained(s, c) })
	}
	for _, f := range failed {
		raise(f.ID, f.Kernel, func(s Sign) Sign { return max(s, Failed) })
	}
	t.Todos = todos(failed, chains)
	return t
}

// sign returns the sign of s, by what status knows.
func sign(s observe.Status) Sign {
	switch {
	case s.State == observe.StateBroken:
		return Gone
	case s.Missing || s.Differs:
		return Differs
	}
	return map[observe.State]Sign{observe.StateBuilt: Built, observe.StateInstalled: Installed,
		observe.StateKept: Kept, observe.StateWeak: Linked}[s.State]
}

// explained returns s, or what c makes of it.
func explained(s Sign, c explain.Chain) Sign {
	for _, l := range c.Links {
		switch {
		case s == Installed && l.Step == "built" && l.State == explain.Note:
			return Stale
		case s == Absent && l.Step == "wanted" && l.State != explain.Good:
			return PassedOver
		}
	}
	return s
}

// todo is something to do about packages, for kernels.
type todo struct {
	packages     []string
	kernels      []string
	step, is, do string // with anyKernel in place of a kernel's release
}

const anyKernel = "\x00"

// todos returns what wants attention: one thing for each package and kernel. What is the
// same for several of them is one.
func todos(failed []observe.FailedBuild, chains []explain.Chain) (list []Todo) {
	var all []todo
	told := map[build]bool{}
	index := map[string]int{}
	add := func(id tree.ID, k tree.Target, step, is, do string) {
		if told[build{id, k}] {
			return
		}
		told[build{id, k}] = true
		td := todo{[]string{id.String()}, []string{k.Release}, step, general(is, id, k), general(do, id, k)}
		key := fmt.Sprintf("%q", []string{id.String(), step, td.is, td.do})
		if i, known := index[key]; known {
			all[i].kernels = append(all[i].kernels, k.Release)
			return
		}
		index[key] = len(all)
		all = append(all, td)
	}
	for _, c := range chains {
		if cause := c.Cause(); c.Wrong() {
			add(c.ID, c.Kernel, cause.Step, cause.Is, cause.Do)
		}
	}
	for _, f := range failed {
		add(f.ID, f.Kernel, "built", f.What+": "+f.Why, "run: "+f.TryAgain)
	}
	for i, td := range all {
		same := func(other todo) bool {
			return other.step == td.step && other.is == td.is && other.do == td.do && slices.Equal(other.kernels, td.kernels)
		}
		if slices.ContainsFunc(all[:i], same) {
			continue // it was named with the first
		}
		for _, other := range all[i+1:] {
			if same(other) {
				td.packages = append(td.packages, other.packages...)
			}
		}
		list = append(list, td.text())
	}
	return list
}

// general returns text with anyKernel in place of the release of k, where that stands for
// itself, and is not part of the name of a package.
func general(text string, id tree.ID, k tree.Target) string {
	release := regexp.MustCompile(`(^|[^\w.+~-])` + regexp.QuoteMeta(k.Release) + `($|[^\w.+~-])`)
	parts := strings.Split(text, id.String())
	for i := range parts {
		parts[i] = release.ReplaceAllString(parts[i], "${1}"+anyKernel+"${2}")
	}
	return strings.Join(parts, id.String())
}

// text returns td for people. A command that takes several kernels is given all of them.
func (td todo) text() Todo {
	name, do := td.kernels[0], td.do
	if len(td.kernels) > 1 {
		name = "KERNEL"
		do = strings.ReplaceAll(do, "dkms-kernel-install add "+anyKernel, "dkms-kernel-install add "+strings.Join(td.kernels, " "))
		do = strings.ReplaceAll(do, "-k "+anyKernel, "-k "+strings.Join(td.kernels, " -k "))
	}
	named := func(s string) string {
		if len(td.kernels) > 1 {
			s = strings.ReplaceAll(s, "kernel "+anyKernel, "these kernels")
		}
		return strings.ReplaceAll(s, anyKernel, name)
	}
	return Todo{fmt.Sprintf("%s for %s: %s: %s", some(td.packages), some(td.kernels), td.step, named(td.is)), named(do)}
}

// some returns names as a list, of which it says no more than how many there are if it is
// long.
func some(names []string) string {
	const few = 4
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few-1], ", "), len(names)-few+1)
}
