// SPDX-License-Identifier: GPL-2.0-or-later

// Package codec compresses and decompresses. One table says of each compression what it
// is called, how its data begin, and how they are read and written.
//
// What is read is trusted to be neither whole nor honest: no decoder allocates more than
// it is allowed to for what the data say.
package codec

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Compression is how data are compressed.
type Compression int

// The compressions that are known. The first four are those of the kernel's own build
// (CONFIG_MODULE_COMPRESS_*); of the others, some are read and none is written.
const (
	None Compression = iota
	Gzip
	XZ
	Zstd
	Bzip2
	LZ4
	LZO
	LZMA
)

// format is what the table says of a compression.
type format struct {
	name     string
	suffix   string   // of a file's name
	archives []string // short suffixes of archives, as for tar's option -a
	magic    string   // with which the data begin; empty if they are not recognized
	// read decodes all of data, with a window of at most window bytes. It is nil if
	// the compression is not read.
	read func(data *io.SectionReader, window int64) (io.ReadCloser, error)
	// end returns where the data that begin at pos of r end, without decoding them.
	end func(r io.ReaderAt, pos, size, window int64) (int64, error)
	// member decodes data that end by themselves, if end is nil.
	member func(c *counter) (io.Reader, error)
	// size is what SizeHint returns; nil if such data do not say.
	size func(r io.ReaderAt, size, window int64) (int64, error)
	// write is nil if the compression is not written.
	write func(w io.Writer, o WriterOptions) (io.WriteCloser, error)
}

var table = [...]format{
	None:  {name: "none", archives: []string{".tar"}, read: readNone, size: sizeNone, write: writeNone},
	Gzip:  {name: "gzip", suffix: ".gz", archives: []string{".tgz", ".taz"}, magic: "\x1f\x8b", read: readGzip, member: memberGzip, size: sizeGzip, write: writeGzip},
	XZ:    {name: "xz", suffix: ".xz", archives: []string{".txz"}, magic: "\xfd7zXZ\x00", read: readXZ, end: endXZ, size: sizeXZ, write: writeXZ},
	Zstd:  {name: "zstd", suffix: ".zst", archives: []string{".tzst"}, magic: "\x28\xb5\x2f\xfd", read: readZstd, end: endZstd, size: sizeZstd, write: writeZstd},
	Bzip2: {name: "bzip2", suffix: ".bz2", archives: []string{".tbz", ".tbz2", ".tz2"}, magic: "BZh", read: readBzip2, member: memberBzip2},
	LZ4:   {name: "lz4", suffix: ".lz4", magic: lz4Magic, read: readLZ4, end: endLZ4},
	LZO:   {name: "lzo", suffix: ".lzo", magic: "\x89LZO\x00\x0d"},
	LZMA:  {name: "lzma", suffix: ".lzma", archives: []string{".lz", ".tlz"}, magic: "\x5d\x00\x00"},
}

// MaxMagic is how many bytes [Detect] looks at.
const MaxMagic = 6

// Suffix returns what the name of a file has for it: "" for None, else ".gz" and the
// like.
func (c Compression) Suffix() string { return table[c].suffix }

// String returns the compression's name, such as "gzip".
func (c Compression) String() string {
	if c < 0 || int(c) >= len(table) {
		return fmt.Sprintf("Compression(%d)", int(c))
	}
	return table[c].name
}

// Detect returns the one of the compressions among that data which begin with head have,
// of all that are known if none is given. It returns None if they have none of these.
func Detect(head []byte, among ...Compression) Compression {
	for c, f := range table {
		if f.magic != "" && strings.HasPrefix(string(head), f.magic) && (among == nil || slices.Contains(among, Compression(c))) {
			return Compression(c)
		}
	}
	return None
}

// ForArchive returns the compression that the name of an archive asks for: None if it
// ends in nothing that is known. It is an error if that is not written.
func ForArchive(name string) (Compression, error) {
	ext := path.Ext(name)
	for c, f := range table {
		for _, suffix := range append(f.archives, f.suffix) {
			if suffix != ext || ext == "" {
				continue
			}
			if f.write == nil {
				return None, fmt.Errorf("archives cannot be compressed as %s", ext)
			}
			return Compression(c), nil
		}
	}
	if ext == ".Z" || ext == ".taZ" {
		return None, fmt.Errorf("archives cannot be compressed as %s", ext)
	}
	return None, nil
}
