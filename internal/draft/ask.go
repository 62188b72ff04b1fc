// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"time"
)

//go:embed ask.mk
var askMakefile string

// answer is what make says of the Kbuild file of one directory.
type answer struct {
	lists   map[string][]string // obj-m and the like
	of      map[string][]string // the objects of those in obj-m, without suffix
	exports []string            // NAME=VALUE, for the directories below
	unset   []string            // options of a kernel that decide, and are not set
}

const (
	askTime   = 10 * time.Second // for one file
	askOutput = 1 << 20          // bytes of one answer
)

var (
	exportLine = regexp.MustCompile(`(?m)^[ \t]*export[ \t]+([A-Za-z_]\w*)`)
	// deciding is a line on which an option may decide what is built.
	deciding = regexp.MustCompile(`(?m)^[ \t]*(?:obj-|subdir-|(?:else[ \t]+)?if).*`)
	option   = regexp.MustCompile(`\bCONFIG_\w+`)
)

// ask has make read a Kbuild file of the tree, whose text is text, where nothing can be
// written and there is no network: whatever a file has make run, it changes nothing.
// Env is what the directory above exports.
func (t *tree) ask(file, text string, env []string) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(t.ctx, askTime, fmt.Errorf("make takes longer than %v to read it", askTime))
	defer cancel()
	var exports []string
	for _, m := range exportLine.FindAllStringSubmatch(text, -1) {
		exports = append(exports, m[1])
	}
	options := option.FindAllString(strings.Join(deciding.FindAllString(text, -1), "\n"), -1)
	word, dir, entry := rand.Text(), path.Join(t.top(), path.Dir(file)), path.Join(t.top(), t.entry)
	cmd := exec.Command("make", append([]string{"-rR", "--no-print-directory", "-f", "/dev/stdin", "KERNELRELEASE=" + t.release, "M=" + entry,
		"ask_word=" + word, "ask_file=./" + strings.TrimPrefix(file, t.entry+"/"),
		"ask_exports=" + strings.Join(exports, " "), "ask_options=" + strings.Join(options, " ")}, t.given...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "src=" + dir, "obj=" + dir}, env...)
	cmd.Dir, cmd.Stdin = entry, strings.NewReader(askMakefile)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := t.world.Run(ctx, cmd)
	a, whole := parseAnswer(out.String(), word)
	var exit *exec.ExitError
	if whole {
		return a, nil // the error is how ask.mk ends
	}
	if errors.As(err, &exit) {
		said := strings.TrimSpace(out.String())
		return a, fmt.Errorf("make cannot read it (%w): %s", err, said[strings.LastIndexByte(said, '\n')+1:])
	}
	return a, err
}

// parseAnswer reads the lines that begin with word; all others are of what make read.
// It reports whether the answer is whole.
func parseAnswer(text, word string) (a answer, whole bool) {
	a = answer{lists: map[string][]string{}, of: map[string][]string{}}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2 || f[0] != word:
		case f[1] == "end":
			return a, true
		case len(f) < 3:
		case f[1] == "list":
			a.lists[f[2]] = f[3:]
		case f[1] == "of":
			a.of[f[2]] = f[3:]
		case f[1] == "export":
			a.exports = append(a.exports, f[2]+"="+strings.Join(f[3:], " "))
		case f[1] == "unset":
			a.unset = append(a.unset, f[2])
		}
	}
	return a, false
}
