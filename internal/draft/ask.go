// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed ask.mk
var askMakefile string

// answer is what make says of a Kbuild file: lists of words, at least one in each, by
// what they are of.
//
//	lists   a variable that lists something for kbuild
//	builds  an object, and those that it is made of; or a directory and a slash
//	export  NAME=VALUE, for the directories below
//	unset   options of a kernel that may decide, and have no value
//	left    objects that nothing decides to build
//	end     the answer is whole
type answer map[string][][]string

// ask has make read a Kbuild file of the tree in a world in which nothing can be
// written and there is no network: whatever the file has make run, it changes nothing.
// Env is what the directory above exports.
func (t *Tree) ask(file string, env []string) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), min(askTime, time.Until(t.end)), errors.New("it takes too long"))
	defer cancel()
	// Make can open this at its beginning, and what make runs is at its end. Not
	// --eval: makes below would inherit it.
	fd, err := unix.MemfdCreate("ask.mk", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	stdin := os.NewFile(uintptr(fd), "ask.mk")
	defer stdin.Close()
	if _, err := stdin.WriteString(askMakefile); err != nil {
		return nil, err
	}
	entry := path.Join(t.top, t.entry)
	cmd := exec.Command("make", append([]string{"-rR", "--no-print-directory", "-f", "/proc/self/fd/0", "M=" + entry,
		"ask_file=./" + strings.TrimPrefix(file, t.entry+"/"), "ask_dir=" + path.Join(t.top, path.Dir(file))}, t.given...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}, env...)
	var out bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout = entry, stdin, &out
	err = t.world.Run(ctx, cmd)
	if a := parseAnswer(out.String()); a["end"] != nil {
		return a, nil // the error is how ask.mk ends
	}
	said := strings.TrimSpace(out.String())
	return nil, fmt.Errorf("make cannot read it (%w): %s", err, said[strings.LastIndexByte(said, '\n')+1:])
}

// parseAnswer reads the lines of an answer; all others are of what make has read.
func parseAnswer(text string) answer {
	a := answer{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "ask:" {
			a[f[1]] = append(a[f[1]], f[2:])
		}
	}
	return a
}
