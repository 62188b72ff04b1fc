// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"encoding/json"
	"io"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// schema is the version of what programs read; dkms-kernel-install(8) describes it. It
// counts up when a member goes or changes its meaning, and not when one comes.
const schema = 1

// of names what an object is about.
type of struct {
	Package string `json:"package"`
	Version string `json:"version"`
	Kernel  string `json:"kernel,omitempty"`
	Arch    string `json:"arch,omitempty"`
}

func about(id tree.ID, k tree.Target) of { return of{id.Name, id.Version, k.Release, k.Arch} }

type statusJSON struct {
	of
	State           string `json:"state"`
	OriginalsExist  bool   `json:"originals_exist"`
	Missing         bool   `json:"missing"`
	DiffersFromTree bool   `json:"differs"`
	KernelGone      bool   `json:"kernel_gone"`
	WeakFrom        string `json:"weak_from,omitempty"`
}

type failureJSON struct {
	of
	What   string `json:"what"`
	Why    string `json:"why"`
	Do     string `json:"do"`
	Log    string `json:"log,omitempty"`
	Status int    `json:"status"`
}

type chainJSON struct {
	of
	OK    bool           `json:"ok"`
	Links []explain.Link `json:"links"`
}

type loadJSON struct {
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
	Loads  string `json:"loads"`
	Rule   string `json:"rule"`
	Is     string `json:"is"`
	Do     string `json:"do,omitempty"`
}

// StatusJSON writes the states in list, and the builds that failed, as a JSON object.
func StatusJSON(w io.Writer, list []observe.Status, failed []observe.FailedBuild) error {
	packages, failures := []statusJSON{}, []failureJSON{}
	for _, s := range list {
		packages = append(packages, statusJSON{about(s.ID, s.Kernel), string(s.State), s.Originals, s.Missing, s.Differs, s.KernelGone, s.WeakFrom})
	}
	for _, f := range failed {
		failures = append(failures, failureJSON{about(f.ID, f.Kernel), f.What, f.Why, f.Hint, f.Log, f.Status})
	}
	return writeJSON(w, struct {
		Schema   int           `json:"schema"`
		Packages []statusJSON  `json:"packages"`
		Failures []failureJSON `json:"failures"`
	}{schema, packages, failures})
}

// FailuresJSON writes the failures among results as a JSON object.
func FailuresJSON(w io.Writer, results []execute.Result) error {
	failures := []failureJSON{}
	for _, r := range results {
		if f := r.Failure; r.Outcome == execute.Failed {
			failures = append(failures, failureJSON{about(r.ID, r.Kernel), f.What, f.Why, f.Hint, f.Log, f.Status})
		}
	}
	return writeJSON(w, struct {
		Schema   int           `json:"schema"`
		Failures []failureJSON `json:"failures"`
	}{schema, failures})
}

// ChainsJSON writes chains as a JSON object.
func ChainsJSON(w io.Writer, chains []explain.Chain) error {
	list := []chainJSON{}
	for _, c := range chains {
		list = append(list, chainJSON{about(c.ID, c.Kernel), c.Cause() == nil, c.Links})
	}
	return writeJSON(w, struct {
		Schema int         `json:"schema"`
		Chains []chainJSON `json:"chains"`
	}{schema, list})
}

// ExaminationJSON writes e as a JSON object.
func ExaminationJSON(w io.Writer, e explain.Examination) error {
	kernels := []loadJSON{}
	for _, k := range e.Kernels {
		kernels = append(kernels, loadJSON{k.Kernel.Release, k.Kernel.Arch, k.Loads.String(), k.Rule, k.Is, k.Do})
	}
	return writeJSON(w, struct {
		Schema   int            `json:"schema"`
		OK       bool           `json:"ok"`
		Findings []explain.Link `json:"findings"`
		Kernels  []loadJSON     `json:"kernels"`
	}{schema, e.OK(), e.Findings, kernels})
}

func writeJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		_, err = w.Write(append(escapeJSON(text), '\n'))
	}
	return err
}
