// SPDX-License-Identifier: GPL-2.0-or-later

package codec

import (
	"slices"
	"strconv"
	"strings"
)

// ParseOptions reads the options that somebody wrote for the program of c, such
// as "-q --rm -T0 -19" for zstd(1). Those that have no meaning here, and would
// make another file there, are returned in ignored.
func ParseOptions(c Compression, options string) (o WriterOptions, ignored []string) {
	for option := range strings.FieldsSeq(options) {
		name, value, _ := strings.Cut(option, "=")
		level, err := strconv.Atoi(strings.TrimPrefix(option, "-"))
		switch {
		case slices.Contains(harmless, name), strings.HasPrefix(option, "-T"):
		case c == XZ && (option == "--check=crc32" || option == "-Ccrc32" || option == "--lzma2=dict=1MiB" || option == "-6"):
			// That is how it is.
		case c == XZ:
			ignored = append(ignored, option)
		case name == "--fast":
			o.Level = 1
		case c == Gzip && name == "--best":
			o.Level = 9
		case c == Zstd && name == "--ultra" && value == "":
			// Only permits the levels above 19.
		case err == nil && option[0] == '-' && level >= 1 && (c == Gzip && level <= 9 || c == Zstd && level <= 22):
			o.Level = level
		default:
			ignored = append(ignored, option)
		}
	}
	return o, ignored
}

// harmless are options about how the programs handle files, not about what they
// write into them.
var harmless = strings.Fields(`-q --quiet -qq -v --verbose -f --force -k --keep --rm -z --compress --no-progress
	-n --no-name --rsyncable --threads --single-thread --no-check --format -F`)
