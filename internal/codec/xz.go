// SPDX-License-Identifier: GPL-2.0-or-later

package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// walkXZ walks over the blocks of the xz stream that begins at pos of r, which has size bytes, without decoding them.
// It returns how many there are, where the index begins that follows them, and how many bytes they decode to. It is an
// error if one wants a dictionary of more than maxDict bytes: the decoder would allocate it, up to 4 GiB, before
// anything else shows that the file is bad. The stream's index is no help, because a file may lie in it about where its
// blocks are, and the decoder only finds out at the end.
//
// The format is that of https://tukaani.org/xz/xz-file-format.txt, and for LZMA2 chunks that of the decoder in XZ
// Embedded. Only what leads from one block to the next is checked here; the decoder checks the rest.
func walkXZ(r io.ReaderAt, size, pos, maxDict int64) (blocks uint64, index, decoded int64, err error) {
	const (
		streamHeaderSize = 12
		lzma2            = 0x21
	)
	fail := func(err error) (uint64, int64, int64, error) { return 0, 0, 0, err }
	start := uint64(pos)
	flags, err := ReadRange(r, size, int64(start)+7, 1)
	if err != nil {
		return fail(err)
	}
	checkSize, ok := map[byte]uint64{xz.None: 0, xz.CRC32: 4, xz.CRC64: 8, xz.SHA256: 32}[flags[0]]
	if !ok {
		return fail(fmt.Errorf("unknown check %#x", flags[0]))
	}
	for at := start + streamHeaderSize; ; blocks++ {
		words, err := ReadRange(r, size, int64(at), 1)
		if err != nil {
			return fail(err)
		}
		if words[0] == 0 {
			return blocks, int64(at), decoded, nil
		}
		header, err := ReadRange(r, size, int64(at), (int64(words[0])+1)*4)
		if err != nil {
			return fail(err)
		}
		fields := header[2:]
		for _, present := range []byte{0x40, 0x80} { // the compressed and the uncompressed size
			if header[1]&present != 0 {
				_, n := binary.Uvarint(fields)
				if n <= 0 {
					return fail(errors.New("bad block header"))
				}
				fields = fields[n:]
			}
		}
		if header[1]&0x3f != 0 || len(fields) < 3 || fields[0] != lzma2 || fields[1] != 1 {
			return fail(errors.New("filters other than LZMA2 are not supported"))
		}
		dict, err := lzma.DecodeDictCap(fields[2])
		if err != nil {
			return fail(err)
		}
		if dict > maxDict {
			return fail(fmt.Errorf("the dictionary has %d bytes, %d at most are supported", dict, maxDict))
		}
		end, inBlock, err := scanLZMA2(r, size, at+uint64(len(header)))
		if err != nil {
			return fail(err)
		}
		decoded += inBlock
		at = end + -(end-start)&3 + checkSize // padded to words from the stream's begin
	}
}

// scanLZMA2 walks over the LZMA2 chunks at pos. It returns where they end and how many bytes they decode to.
func scanLZMA2(r io.ReaderAt, size int64, pos uint64) (end uint64, decoded int64, err error) {
	for {
		control, err := ReadRange(r, size, int64(pos), 1)
		if err != nil {
			return 0, 0, err
		}
		if control[0] == 0 {
			return pos + 1, decoded, nil
		}
		// Sizes are big-endian, and one less than what they mean.
		sizes, err := ReadRange(r, size, int64(pos)+1, 4)
		if err != nil {
			return 0, 0, err
		}
		first := int64(binary.BigEndian.Uint16(sizes)) + 1
		switch c := control[0]; {
		case c <= 2: // stored
			decoded += first
			pos += 3 + uint64(first)
		case c < 0x80:
			return 0, 0, fmt.Errorf("unknown LZMA2 chunk %#x", c)
		default:
			decoded += int64(c&0x1f)<<16 + first
			pos += 5 + uint64(binary.BigEndian.Uint16(sizes[2:])) + 1
			if c >= 0xc0 {
				pos++ // new properties
			}
		}
	}
}
