// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"

	"github.com/alecthomas/kong"

	"dkms-kernel-install/internal/failure"
)

// parse parses a command line. Where that ends the program, because help was
// asked for or the line is wrong, the context is nil and status the exit status.
func (p *program) parse(into any, name, description string, args []string, wrong int) (k *kong.Context, status int) {
	exited := false
	parser, err := kong.New(into, kong.Name(name), kong.Description(description), kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(int) { exited = true }), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"version": name + " " + version})
	if err != nil {
		panic(err) // the struct is wrong, not the line
	}
	k, err = parser.Parse(args)
	if exited {
		return nil, 0
	}
	if err != nil {
		return nil, p.exit(&failure.Failure{What: err.Error(), Hint: "run: " + name + " --help", Status: wrong})
	}
	return k, 0
}

// exit prints the error and returns the exit status for it.
func (p *program) exit(err error) int {
	if err == nil {
		return 0
	}
	f := failure.From(err, "failed", 1)
	if errors.As(err, &told{}) {
		return max(f.Status, 1)
	}
	p.errorf("%s", f.Error())
	if f.Hint != "" {
		fmt.Fprintln(p.stderr, f.Hint)
	}
	return max(f.Status, 1)
}

// told is a failure that is reported already: only its status still counts.
type told struct{ *failure.Failure }

// Unwrap returns the failure.
func (t told) Unwrap() error { return t.Failure }
