// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/alecthomas/kong"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
)

// parse parses the command line args into the struct that into points to. If the
// program has to end after that, k is nil and status is the exit status: 0 if help or
// the version was printed, and wrong, after a message, if the line is wrong.
func (p *program) parse(into any, name, description string, args []string, wrong int) (k *kong.Context, status int) {
	exited := false
	parser, err := kong.New(into, kong.Name(name), kong.Description(description), kong.Writers(p.raw, p.stderr),
		kong.Exit(func(int) { exited = true }), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"version": name + " " + version})
	if err != nil {
		panic(err) // the struct is wrong
	}
	k, err = parser.Parse(args)
	if exited || errors.Is(err, syscall.EPIPE) { // nobody reads the help any more
		return nil, 0
	}
	if err != nil {
		return nil, p.exit(&failure.Failure{What: err.Error(), Hint: "run: " + name + " --help", Status: wrong})
	}
	return k, 0
}

// exit prints err as the classic dkms does, unless it is told, and returns its exit
// status; 0 for nil.
func (p *program) exit(err error) int {
	if err == nil {
		return 0
	}
	var done *engine.DoneError
	if errors.As(err, &done) {
		return done.Status
	}
	f := failure.From(err, "failed", 1)
	if errors.As(err, &told{}) {
		return max(f.Status, 1)
	}
	fmt.Fprintln(p.stderr, "Error! "+failure.Line(f.Error()))
	if f.Hint != "" {
		fmt.Fprintln(p.stderr, failure.Line(f.Hint))
	}
	return max(f.Status, 1)
}

// told is a failure that was reported already. Only its status is still needed.
type told struct{ *failure.Failure }

// Unwrap returns the failure.
func (t told) Unwrap() error { return t.Failure }
