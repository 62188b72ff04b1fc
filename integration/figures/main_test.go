// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	got, err := read(strings.NewReader("goos: linux\n" +
		"| median of | Debian's dkms | ours | ratio | floor | ours / floor | processor time of each |\n|---|--:|--:|--:|--:|--:|--:|\n" +
		"| eight packages: `add` of one kernel, cold (3 runs) | 1m37.6s | 48.2s | 0.494 | 46.3s | 1.041 | 2m16.1s, 1m31.2s |\n" +
		"BenchmarkPeer/eight-packages-2  1  0 ns/op\n" +
		"| eight: `status` | 2.5s | 5.2ms | 0.002 | | | 2.6s, 5.6ms |\n" +
		"| eight packages: `status` (3 runs) | 2.5s | 5.2ms | 0.002 |  |  | 2.6s, 5.6ms |\n" +
		"| eight packages: kernel removed and added again (3 runs) |  | 353.2ms |  |  |  | 572.1ms |\n" +
		"| 50 × 20 | 18.3 ms | 28.7 ms | 16 MiB | 10.9 ms | 14.6 ms | 15 MiB |\n"))
	want := []row{
		{"eight packages: add of one kernel, cold", 97600 * time.Millisecond, 48200 * time.Millisecond, 46300 * time.Millisecond},
		{"eight: status", 2500 * time.Millisecond, 5200 * time.Microsecond, 0},
		{"eight packages: status", 2500 * time.Millisecond, 5200 * time.Microsecond, 0},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if rows, err := read(strings.NewReader("PASS\n")); err == nil {
		t.Errorf("read nothing as %v", rows)
	}
}

// TestPicture compares the picture in docs with the tables beside it.
func TestPicture(t *testing.T) {
	text, err := os.Open("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	rows, err := read(text)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := draw(&want, rows); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/figures.svg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/figures.svg does not show the tables of docs/performance.md; run: go run ./integration/figures <docs/performance.md >docs/figures.svg")
	}
}
