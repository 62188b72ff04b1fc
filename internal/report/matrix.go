// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/tree"
)

// Matrix is how packages build for kernels.
type Matrix []cell

// cell is how one package builds for one kernel.
type cell struct {
	tree.ID
	kernel tree.Target
	sign   Sign             // Built, PassedOver or Failed
	why    string           // of PassedOver
	failed *failure.Failure // of Failed
	log    string           // the end of its log
	took   time.Duration
}

// NewMatrix returns the matrix of the results of a run that only builds.
func NewMatrix(results []execute.Result) Matrix {
	var m Matrix
	for _, r := range results {
		c := cell{ID: r.ID, kernel: r.Kernel, sign: Built, took: r.Took}
		switch {
		case r.Outcome == execute.Skipped:
			c.sign, c.why = PassedOver, r.Why
		case r.Outcome == execute.Failed && r.Failure.Status == failure.StatusExclusive:
			c.sign, c.why = PassedOver, r.Failure.Why
		case r.Outcome == execute.Failed:
			c.sign, c.failed, c.log = Failed, r.Failure, end(r.Failure.Log)
		}
		m = append(m, c)
	}
	return m
}

// end returns the last lines of the log in file, without control characters.
func end(file string) string {
	const most = 40
	text, _ := os.ReadFile(file)
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(text), "?")), "\n")
	for i, line := range lines {
		lines[i] = plain(line)
	}
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// Failed reports whether a build failed.
func (m Matrix) Failed() bool {
	return slices.ContainsFunc(m, func(c cell) bool { return c.sign == Failed })
}

// kernels returns the kernels of m, in the order in which they come.
func (m Matrix) kernels() (list []tree.Target) {
	for _, c := range m {
		if !slices.Contains(list, c.kernel) {
			list = append(list, c.kernel)
		}
	}
	return list
}

// packages returns the packages of m, in the order in which they come.
func (m Matrix) packages() (list []tree.ID) {
	for _, c := range m {
		if !slices.Contains(list, c.ID) {
			list = append(list, c.ID)
		}
	}
	return list
}

// of returns the cell of id for k; nil if there is none.
func (m Matrix) of(id tree.ID, k tree.Target) *cell {
	if i := slices.IndexFunc(m, func(c cell) bool { return c.ID == id && c.kernel == k }); i >= 0 {
		return &m[i]
	}
	return nil
}

// Table returns m for people at a terminal.
func (m Matrix) Table() Table {
	t := Table{Running: -1}
	kernels := m.kernels()
	for _, k := range kernels {
		t.Kernels = append(t.Kernels, k.Release)
	}
	for _, id := range m.packages() {
		row := Row{Name: id.String()}
		for _, k := range kernels {
			sign := Absent
			if c := m.of(id, k); c != nil {
				sign = c.sign
			}
			row.Signs = append(row.Signs, sign)
		}
		t.Rows = append(t.Rows, row)
	}
	for _, c := range m {
		if c.sign == Failed {
			t.Todos = append(t.Todos, Todo{fmt.Sprintf("%s for %s: %s: %s", c.ID, c.kernel.Release, c.failed.What, c.failed.Why), c.failed.Hint})
		}
	}
	return t
}

// results are how the cells are called, for programs and in pages.
var results = map[Sign]string{Built: "built", PassedOver: "excluded", Failed: "failed"}

type cellJSON struct {
	of
	Result  string  `json:"result"`
	Seconds float64 `json:"seconds"`
	Why     string  `json:"why,omitempty"`
	What    string  `json:"what,omitempty"`
	Do      string  `json:"do,omitempty"`
	Status  int     `json:"status,omitempty"`
	Log     string  `json:"log,omitempty"`
}

// JSON writes m as a JSON object.
func (m Matrix) JSON(w io.Writer) error {
	list := []cellJSON{}
	for _, c := range m {
		j := cellJSON{of: about(c.ID, c.kernel), Result: results[c.sign], Seconds: c.took.Seconds(), Why: c.why, Log: c.log}
		if f := c.failed; f != nil {
			j.What, j.Why, j.Do, j.Status = f.What, f.Why, f.Hint, f.Status
		}
		list = append(list, j)
	}
	return writeJSON(w, struct {
		Schema int        `json:"schema"`
		Builds []cellJSON `json:"builds"`
	}{schema, list})
}

// The elements of JUnit's XML that CI systems read.
type (
	suitesXML struct {
		XMLName xml.Name   `xml:"testsuites"`
		Suites  []suiteXML `xml:"testsuite"`
	}
	suiteXML struct {
		Name     string    `xml:"name,attr"`
		Tests    int       `xml:"tests,attr"`
		Failures int       `xml:"failures,attr"`
		Skipped  int       `xml:"skipped,attr"`
		Cases    []caseXML `xml:"testcase"`
	}
	caseXML struct {
		Class   string  `xml:"classname,attr"`
		Name    string  `xml:"name,attr"`
		Time    string  `xml:"time,attr"`
		Failure *whyXML `xml:"failure"`
		Skipped *whyXML `xml:"skipped"`
	}
	whyXML struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// JUnit returns m as the XML in which CI systems read the results of tests: a suite for each
// package, and a test for each kernel.
func (m Matrix) JUnit() ([]byte, error) {
	var doc suitesXML
	for _, id := range m.packages() {
		suite := suiteXML{Name: id.String()}
		for _, c := range m {
			if c.ID != id {
				continue
			}
			test := caseXML{Class: id.String(), Name: c.kernel.Release, Time: fmt.Sprintf("%.1f", c.took.Seconds())}
			switch c.sign {
			case PassedOver:
				test.Skipped = &whyXML{Message: c.why}
				suite.Skipped++
			case Failed:
				test.Failure = &whyXML{c.failed.What + ": " + c.failed.Why, c.log}
				suite.Failures++
			}
			suite.Tests++
			suite.Cases = append(suite.Cases, test)
		}
		doc.Suites = append(doc.Suites, suite)
	}
	text, err := xml.MarshalIndent(doc, "", "  ")
	return append([]byte(xml.Header), append(text, '\n')...), err
}

// HTML returns m as a page that needs nothing else.
func (m Matrix) HTML() ([]byte, error) {
	var b bytes.Buffer
	put := func(format string, args ...string) {
		var escaped []any
		for _, a := range args {
			escaped = append(escaped, html.EscapeString(a))
		}
		fmt.Fprintf(&b, format, escaped...)
	}
	put(pageHead)
	kernels := m.kernels()
	for _, k := range kernels {
		put("<th scope=\"col\">%s</th>", k.Release)
	}
	put("</tr></thead>\n<tbody>\n")
	for _, id := range m.packages() {
		put("<tr><th scope=\"row\">%s</th>", id.String())
		for _, k := range kernels {
			c := m.of(id, k)
			switch {
			case c == nil:
				put("<td></td>")
			case c.sign == Failed:
				put("<td class=\"failed\"><a href=\"#%s\">failed</a></td>", id.String()+" "+k.Release)
			default:
				put("<td class=\"%s\" title=\"%s\">%s</td>", results[c.sign], c.why, results[c.sign])
			}
		}
		put("</tr>\n")
	}
	put("</tbody></table>\n")
	for _, c := range m {
		if c.sign == Failed {
			put("<section id=\"%s\"><h2>%s</h2><p>%s</p><p>%s</p><pre>%s</pre></section>\n", c.ID.String()+" "+c.kernel.Release,
				c.ID.String()+" for "+c.kernel.Release, c.failed.What+": "+c.failed.Why, c.failed.Hint, c.log)
		}
	}
	put("</body></html>\n")
	return b.Bytes(), nil
}

const pageHead = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Modules and kernels</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse } th, td { padding: .3em .8em; border: 1px solid #ccc; text-align: left; font-weight: normal }
.built { background: #d7f0d9 } .failed { background: #f8d3d0 } .excluded { background: #eee; color: #555 }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto; font-size: 13px }
</style></head>
<body><table><thead><tr><th scope="col">package</th>`
