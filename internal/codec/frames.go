// SPDX-License-Identifier: GPL-2.0-or-later

package codec

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
)

// Where compressed data end is not known before they are decoded, except that these formats have lengths in them: to
// follow these takes no time. It shows, too, how much memory a decoder would get for the file's say-so.

// endXZ returns where the xz stream that begins at pos ends: https://tukaani.org/xz/xz-file-format.txt.
func endXZ(r io.ReaderAt, pos, size, window int64) (end int64, err error) {
	const footerSize = 12
	blocks, at, _, err := walkXZ(r, size, pos, window)
	if err != nil {
		return 0, err
	}
	if at, err = xzIndexEnd(r, at, size, blocks); err != nil {
		return 0, err
	}
	_, err = ReadRange(r, size, at, footerSize)
	return at + footerSize, err
}

// xzIndexEnd returns where the index at pos ends, which has a record for each of the blocks.
func xzIndexEnd(r io.ReaderAt, pos, size int64, blocks uint64) (int64, error) {
	c := newCounter(r, pos+1, size)
	records, err := binary.ReadUvarint(c)
	if err != nil {
		return 0, noEOF(err)
	}
	if records != blocks {
		return 0, fmt.Errorf("the index has %d records for %d blocks", records, blocks)
	}
	for range 2 * records {
		if _, err := binary.ReadUvarint(c); err != nil {
			return 0, noEOF(err)
		}
	}
	end := c.end()
	return end + -(end-pos)&3 + 4, nil // CRC32
}

// endZstd returns where the zstd frame at pos ends: RFC 8878, 3.1.1.
func endZstd(r io.ReaderAt, pos, size, _ int64) (int64, error) {
	head, err := ReadRange(r, size, pos, 5)
	if err != nil {
		return 0, err
	}
	flags := head[4]
	single := flags>>5&1 == 1
	pos += 5 + [...]int64{0, 1, 2, 4}[flags&3] // dictionary
	if !single {
		pos++ // window
	}
	switch content := flags >> 6; {
	case content > 0:
		pos += 1 << content
	case single:
		pos++
	}
	for {
		b, err := ReadRange(r, size, pos, 3)
		if err != nil {
			return 0, err
		}
		block := int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16
		pos += 3
		switch kind := block >> 1 & 3; kind {
		case 1:
			pos++ // one byte, many times
		case 0, 2:
			pos += block >> 3
		default:
			return 0, errors.New("unknown kind of block")
		}
		if block&1 == 1 {
			break
		}
	}
	pos += int64(flags >> 2 & 1 * 4) // checksum
	_, err = ReadRange(r, size, pos, 0)
	return pos, err
}

// lz4Magic begins what lz4 -l makes, and the kernel reads: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md,
// Legacy frame. The library reads such frames too; it cannot be told where they end.
const lz4Magic = "\x02\x21\x4c\x18"

const (
	lz4BlockSize = 8 << 20                              // of what a block decodes to, at most
	lz4Bound     = lz4BlockSize + lz4BlockSize/255 + 16 // of a block
)

// endLZ4 returns where the lz4 blocks after the magic number at pos end: with the file, or before a size that none has.
// The kernel takes a block of size 0 for the end.
func endLZ4(r io.ReaderAt, pos, size, _ int64) (int64, error) {
	if _, err := ReadRange(r, size, pos, int64(len(lz4Magic))); err != nil {
		return 0, err
	}
	for pos += int64(len(lz4Magic)); size-pos >= 4; {
		b, err := ReadRange(r, size, pos, 4)
		if err != nil {
			return 0, err
		}
		n := int64(binary.LittleEndian.Uint32(b))
		if n == 0 || n > lz4Bound {
			break
		}
		if pos += 4 + n; pos > size {
			return 0, io.ErrUnexpectedEOF
		}
	}
	return pos, nil
}

// lz4Reader decodes the blocks of one legacy frame.
type lz4Reader struct {
	r    *bufio.Reader
	in   []byte
	out  []byte // all of a block
	rest []byte // what of it is not read yet
}

// readLZ4 reads a frame that ends with data.
func readLZ4(data *io.SectionReader, _ int64) (io.ReadCloser, error) {
	br := bufio.NewReader(data)
	br.Discard(len(lz4Magic)) // an error comes again with the next read
	return io.NopCloser(&lz4Reader{r: br, out: make([]byte, lz4BlockSize)}), nil
}

func (l *lz4Reader) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		var size [4]byte
		if _, err := io.ReadFull(l.r, size[:]); err != nil {
			return 0, err
		}
		n := binary.LittleEndian.Uint32(size[:])
		if n > lz4Bound {
			return 0, errors.New("a block is too large")
		}
		if int(n) > cap(l.in) {
			l.in = make([]byte, n)
		}
		l.in = l.in[:n]
		if _, err := io.ReadFull(l.r, l.in); err != nil {
			return 0, noEOF(err)
		}
		m, err := lz4.UncompressBlock(l.in, l.out)
		if err != nil {
			return 0, err
		}
		l.rest = l.out[:m]
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// noEOF returns err, or that there is less than there ought to be.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
