// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"dkms-kernel-install/internal/testskip"
)

const (
	securityFile = "../../docs/security.md"
	tableBegins  = "<!-- TestSecurityTable makes this table: make docs -->\n\n"
	tableEnds    = "\n<!-- end -->\n"
)

// shellAttacks are more attacks, by what docs/security.md calls them. One succeeds if its
// command does, or, if there is a command after, that one, which the caller runs in the
// end.
var shellAttacks = []struct{ name, command, after string }{
	{name: "read the signing key", command: `grep -q . $TESTROOT/var/lib/dkms/mok.key`},
	{name: "read `/etc/shadow`", command: `grep -q . /etc/shadow`},
	{name: "write to modules", command: `touch $TESTROOT/lib/modules/6.1/evil`},
	{name: "write to the tree", command: `touch $TESTROOT/var/lib/dkms/evil`},
	{name: "be root", command: `test $(id -u) = 0`},
	{name: "have capabilities", command: `grep -q '^CapPrm:.*[1-9a-f]' /proc/self/status`},
	{name: "reach the loopback", command: `exec 4<>/dev/tcp/127.0.0.1/$PORT`},
	{name: "signal a process outside", command: `kill -0 $OUTSIDE`},
	{
		name:    "leave a daemon",
		command: `read < <(setsid bash -c "echo; exec -a daemon-in-$TESTROOT sleep 1000 >/dev/null" &)`,
		after:   `pkill -f "[d]aemon-in-$TESTROOT"`,
	},
	{name: "use a file that the caller has open", command: `grep -q secret <&8`},
	{name: "read a key of the caller's session keyring", command: `attack read-key`},
	{name: "leave a key in it", command: `attack add-key`, after: `attack find-key`},
	{name: "see the caller's environment", command: `grep -qs SECRET=topsecret /proc/[0-9]*/environ`},
}

// achieved are the attacks that succeed on a machine which allows a part of what makes
// the world of a build.
type achieved struct {
	machine         string
	outside, builds map[string]bool
}

// TestSecurityTable compares the table in docs/security.md with what attacks achieve.
func TestSecurityTable(t *testing.T) {
	var all []achieved
	t.Run("attacks", func(t *testing.T) { // It ends when the script has ended.
		testscript.Run(t, testscript.Params{
			Files:     []string{"testdata/security.txtar"},
			Setup:     setup,
			Condition: condition,
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"kernel":  cmdKernel,
				"package": cmdPackage,
				"listen":  cmdListen,
				"user":    cmdUser,
				"attacks": func(ts *testscript.TestScript, neg bool, args []string) {
					all = append(all, cmdAttacks(ts, neg, args))
				},
			},
		})
	})
	if t.Failed() {
		return
	}
	if len(all) == 0 {
		testskip.For(t, "the script skips, with a reason")
	}
	text, err := os.ReadFile(securityFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begins := strings.Cut(string(text), tableBegins)
	old, tail, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		t.Fatalf("%s has no lines\n%s%s", securityFile, tableBegins, tableEnds)
	}
	want := securityTable(t, all[0], all[1:], old)
	if *update {
		if err := os.WriteFile(securityFile, []byte(head+tableBegins+want+tableEnds+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, old); diff != "" {
		t.Errorf("docs/security.md (+) is not what attacks achieve (-); if it should be, run: make docs\n%s", diff)
	}
}

// securityTable returns the table of what builds achieve on machines. A denial shows
// nothing if this machine is stricter than others: if the attack fails outside of a build,
// for an ordinary user if it is not root's. The row is that of the table old then.
func securityTable(t *testing.T, ordinary achieved, machines []achieved, old string) string {
	t.Helper()
	table := "| attack | outside |"
	for _, m := range machines {
		table += " " + m.machine + " |"
	}
	table += "\n|" + strings.Repeat(" --- |", 2+len(machines)) + "\n"
	row := func(name string, mayBeRoots bool) {
		start := "| " + name + " |"
		who := " anybody |"
		if !ordinary.outside[name] {
			if !mayBeRoots || !machines[0].outside[name] {
				t.Logf("this machine cannot show: %s", name)
				table += regexp.MustCompile("(?m)^" + regexp.QuoteMeta(start) + ".*\n").FindString(old)
				return
			}
			who = " root |"
		}
		table += start + who
		for _, m := range machines {
			table += " " + m.cell(name) + " |"
		}
		table += "\n"
	}
	for _, a := range shellAttacks {
		row(a.name, true)
	}
	for _, name := range slices.Sorted(maps.Keys(attacks)) {
		if name != "read-key" && name != "find-key" { // which are parts of shellAttacks
			row("`"+name+"`", false)
		}
	}
	return table
}

// cell returns what a build achieves by an attack.
func (a achieved) cell(attack string) string {
	switch {
	case a.builds[attack]:
		return "**open**"
	case a.outside[attack]:
		return "denied"
	}
	return "–"
}

// cmdAttacks is
//
//	attacks MACHINE [COMMAND...]
//
// It tries all attacks outside of a build, and then, unless MACHINE is nobody, in a build
// of toy/1.0. COMMAND runs a command on such a machine.
func cmdAttacks(ts *testscript.TestScript, neg bool, args []string) achieved {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: attacks machine [command...]")
	}
	work := ts.Getenv("WORK")
	try, after, done := filepath.Join(work, "usr/src/toy-1.0/try"), filepath.Join(work, "after"), filepath.Join(work, "open/done")
	tries, afters := attackScripts()
	ts.Check(errors.Join(os.WriteFile(try, []byte(tries), 0o755), os.WriteFile(after, []byte(afters), 0o755)))
	run := func(command ...string) map[string]bool {
		ts.Check(os.RemoveAll(done))
		ts.Check(ts.Exec("bash", slices.Concat([]string{"caller"}, args[1:], command)...))
		succeeded := map[string]bool{}
		for line := range strings.Lines(ts.ReadFile(done)) {
			succeeded[strings.TrimSuffix(line, "\n")] = true
		}
		return succeeded
	}
	a := achieved{machine: args[0], outside: run(try)}
	if a.machine != "nobody" {
		a.builds = run("dkms", "build", "toy/1.0", "-k", "6.1", "--force")
	}
	return a
}

// attackScripts returns a script that tries all attacks, and one for the caller to run
// in the end. They write the names of those that succeed to $TESTROOT/open/done.
func attackScripts() (try, after string) {
	try = "#!/bin/bash\nexec >$TESTROOT/open/done\n"
	after = "#!/bin/bash\nexec >>$TESTROOT/open/done\n"
	for _, a := range shellAttacks {
		succeeded := " && echo " + quote(a.name)
		if a.after != "" {
			after += a.after + " >&2" + succeeded + "\n"
			succeeded = ""
		}
		try += "(" + a.command + ") >&2" + succeeded + "\n"
	}
	// What ends before all is tried must not seem denied.
	return try + "attack | sed 's/.*/`&`/'\n((PIPESTATUS[0] < 2))\n", after + "true\n"
}
