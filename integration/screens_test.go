// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/report/reporttest"
)

var screens = flag.Bool("screens", false, "write docs/screens")

// onTerminal runs a command on a terminal of that width, and returns what it shows in the end; and what it showed when
// the text matched first, nil if it never did.
func (r *Root) onTerminal(columns int, match *regexp.Regexp, args ...string) (end, matched *reporttest.Screen) {
	r.t.Helper()
	shown, terminal, err := reporttest.OpenTerminal(uint16(columns))
	r.check(err)
	defer shown.Close()
	cmd := r.Command(r.t.Context(), args...)
	cmd.Env = append(cmd.Env, "TERM=xterm")
	cmd.Stdout, cmd.Stderr = terminal, terminal
	r.check(errors.Join(cmd.Start(), terminal.Close()))
	end = &reporttest.Screen{Columns: columns}
	fmt.Fprintf(end, "# %s\n", strings.Join(args, " "))
	for text := make([]byte, 1<<16); ; {
		n, err := shown.Read(text)
		_, errShow := end.Write(text[:n])
		r.check(errShow)
		if matched == nil && match != nil && match.MatchString(end.String()) {
			matched = end.Clone()
		}
		if errors.Is(err, unix.EIO) || err == io.EOF { // nobody has it open any more
			break
		}
		r.check(err)
	}
	_, err = status(cmd.Wait())
	r.check(err)
	return end, matched
}

// TestScreens looks at a run, at status and at why on a terminal, with real packages. With -screens it writes pictures of
// them for the documentation.
func TestScreens(t *testing.T) {
	t.Parallel()
	packages, widths, pattern := []string{"acpi-call-dkms", "vhba-dkms"}, []int{80}, `(?m)^\d of \d done, about \d+ (s|min) to come\n  \d:\d\d  building `
	if *screens {
		packages, widths, pattern = quick, []int{80, 200}, `(?m)^[1-9] of \d done, about \d+ s to come(\n  0:\d\d  building .*){2}$`
	}
	r := installAgain(t, packages...)
	k := r.Kernels()[0]
	sync := []string{"dkms-kernel-install", "sync"}
	if !*screens {
		sync = append(sync, "--kernel", k)
	}
	r.MustRun(sync...) // then it is known how long builds take
	pictures := map[string]*reporttest.Screen{}
	for _, columns := range widths {
		r.Sh("for k in /usr/lib/modules/*; do dkms-kernel-install remove ${k##*/}; done; rm -r /var/cache/dkms-kernel-install/builds")
		end, run := r.onTerminal(columns, regexp.MustCompile(pattern), sync...)
		if run == nil {
			t.Fatalf("nothing is shown of a run that ends so:\n%s", end)
		}
		if text := end.String(); strings.Contains(text, " done") || strings.Contains(text, "  0:0") {
			t.Errorf("something is left of the progress:\n%s", end)
		}
		pictures["run"+strconv.Itoa(columns)] = run
	}
	brokenPackage(r)
	r.Run(sync...)
	for _, columns := range widths {
		pictures["status"+strconv.Itoa(columns)], _ = r.onTerminal(columns, nil, "dkms-kernel-install", "status")
		pictures["why"+strconv.Itoa(columns)], _ = r.onTerminal(columns, nil, "dkms-kernel-install", "why", "vhba", k)
	}
	for name, s := range pictures {
		t.Logf("%s:\n%s", name, s)
		if *screens {
			r.check(os.WriteFile("../docs/screens/"+name+".svg", picture(s), 0o644))
		}
	}
}

// colors are those of a picture, by the number of the terminal's color.
var colors = map[string]string{"": "#1f2328", "2": "#8c959f", "31": "#d1242f", "32": "#1a7f37", "33": "#9a6700", "36": "#1b7c83"}

// picture returns an SVG of what s shows.
func picture(s *reporttest.Screen) []byte {
	const width, height, margin = 8.4, 18, 12 // of a character; around all
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" font-family="monospace" font-size="14">`+"\n",
		float64(s.Columns)*width+2*margin, len(s.Lines)*height+2*margin)
	fmt.Fprintln(&b, `<rect width="100%" height="100%" rx="6" fill="#f6f8fa" stroke="#d1d9e0"/>`)
	for y, line := range s.Lines {
		for begin := 0; begin < len(line); {
			end, text := begin, ""
			for ; end < len(line) && line[end].Color == line[begin].Color; end++ {
				text += string(line[end].Char)
			}
			if strings.TrimSpace(text) != "" {
				fmt.Fprintf(&b, `<text x="%.1f" y="%d" textLength="%.1f" fill="%s">%s</text>`+"\n", margin+float64(begin)*width,
					margin+(y+1)*height-4, float64(end-begin)*width, colors[line[begin].Color], strings.ReplaceAll(html.EscapeString(text), " ", "\u00a0")) // which stays
			}
			begin = end
		}
	}
	fmt.Fprintln(&b, "</svg>")
	return b.Bytes()
}
