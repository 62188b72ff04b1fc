// SPDX-License-Identifier: GPL-2.0-or-later

package codec

import (
	"slices"
	"strings"
	"testing"
)

func TestParseOptions(t *testing.T) {
	for _, tt := range []struct {
		c       Compression
		options string
		level   int
		ignored string
	}{
		{Gzip, "", 0, ""},
		{Gzip, "-6", 6, ""},
		{Gzip, "-n --best", 9, ""},
		{Gzip, "--fast", 1, ""},
		{Gzip, "-10", 0, "-10"},
		{XZ, "--check=crc32 --lzma2=dict=1MiB -6", 0, ""},
		{XZ, "-9e --check=sha256 -T0", 0, "-9e --check=sha256"},
		{Zstd, "-q --rm -T0 -3", 3, ""},
		{Zstd, "-q --rm --ultra -22", 22, ""},
		{Zstd, "--long=31 -19 7", 19, "--long=31 7"},
		{Zstd, "-23 -0", 0, "-23 -0"},
	} {
		o, ignored := ParseOptions(tt.c, tt.options)
		if o.Level != tt.level || !slices.Equal(ignored, strings.Fields(tt.ignored)) {
			t.Errorf("%v %q: level %d, ignored %q; want %d, %q", tt.c, tt.options, o.Level, ignored, tt.level, tt.ignored)
		}
	}
}
