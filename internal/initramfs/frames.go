package initramfs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
)

// Where compressed data end is not known before they are decoded, except that these formats have lengths in them: to
// follow these takes no time. It shows, too, how much memory a decoder would get for the file's say-so.

const (
	// maxXZDict is the largest dictionary in bytes that an xz decoder may want. xz -9 makes one of this size.
	maxXZDict = 64 << 20

	// maxZstdWindow is the largest window in bytes that a zstd decoder may want: that of zstd --ultra -22, which
	// is the kernel's limit too.
	maxZstdWindow = 128 << 20
)

// xzEnd returns where the xz stream that begins at pos ends: https://tukaani.org/xz/xz-file-format.txt, and for LZMA2
// chunks the decoder in XZ Embedded. Only what leads on is checked.
func xzEnd(r io.ReaderAt, pos, size int64) (end int64, err error) {
	const headerSize, footerSize, lzma2 = 12, 12, 0x21
	flags, err := readRange(r, size, pos+7, 1)
	if err != nil {
		return 0, err
	}
	checkSize, ok := map[byte]int64{0: 0, 1: 4, 4: 8, 10: 32}[flags[0]]
	if !ok {
		return 0, fmt.Errorf("unknown check %#x", flags[0])
	}
	blocks := uint64(0)
	for at := pos + headerSize; ; blocks++ {
		words, err := readRange(r, size, at, 1)
		if err != nil {
			return 0, err
		}
		if words[0] == 0 {
			if at, err = xzIndexEnd(r, at, size, blocks); err != nil {
				return 0, err
			}
			_, err = readRange(r, size, at, footerSize)
			return at + footerSize, err
		}
		header, err := readRange(r, size, at, (int64(words[0])+1)*4)
		if err != nil {
			return 0, err
		}
		fields := header[2:]
		for _, present := range []byte{0x40, 0x80} { // the compressed and the uncompressed size
			if header[1]&present != 0 {
				_, n := binary.Uvarint(fields)
				if n <= 0 {
					return 0, errors.New("bad block header")
				}
				fields = fields[n:]
			}
		}
		if header[1]&0x3f != 0 || len(fields) < 3 || fields[0] != lzma2 || fields[1] != 1 {
			return 0, errors.New("filters other than LZMA2 are not supported")
		}
		dict, err := lzma.DecodeDictCap(fields[2])
		if err != nil {
			return 0, err
		}
		if dict > maxXZDict {
			return 0, fmt.Errorf("the dictionary has %d bytes, %d at most are supported", dict, maxXZDict)
		}
		data := at + int64(len(header))
		if at, err = lzma2End(r, data, size); err != nil {
			return 0, err
		}
		at += -(at - pos) & 3
		at += checkSize
	}
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

// lzma2End returns where the LZMA2 chunks at pos end.
func lzma2End(r io.ReaderAt, pos, size int64) (int64, error) {
	for {
		control, err := readRange(r, size, pos, 1)
		if err != nil {
			return 0, err
		}
		if control[0] == 0 {
			return pos + 1, nil
		}
		// Sizes are big-endian, and one less than what they mean.
		sizes, err := readRange(r, size, pos+1, 4)
		if err != nil {
			return 0, err
		}
		switch c := control[0]; {
		case c <= 2: // stored
			pos += 3 + int64(binary.BigEndian.Uint16(sizes)) + 1
		case c < 0x80:
			return 0, fmt.Errorf("unknown LZMA2 chunk %#x", c)
		default:
			pos += 5 + int64(binary.BigEndian.Uint16(sizes[2:])) + 1
			if c >= 0xc0 {
				pos++ // new properties
			}
		}
	}
}

// zstdEnd returns where the zstd frame at pos ends: RFC 8878, 3.1.1.
func zstdEnd(r io.ReaderAt, pos, size int64) (int64, error) {
	head, err := readRange(r, size, pos, 5)
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
		b, err := readRange(r, size, pos, 3)
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
	_, err = readRange(r, size, pos, 0)
	return pos, err
}

// lz4Magic begins what lz4 -l makes, and the kernel reads: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md,
// Legacy frame. The library reads such frames too; it cannot be told where they end.
const lz4Magic = "\x02\x21\x4c\x18"

const (
	lz4BlockSize = 8 << 20                              // of what a block decodes to, at most
	lz4Bound     = lz4BlockSize + lz4BlockSize/255 + 16 // of a block
)

// lz4End returns where the lz4 blocks after the magic number at pos end: with the file, or before a size that none has.
// The kernel takes a block of size 0 for the end.
func lz4End(r io.ReaderAt, pos, size int64) (int64, error) {
	for pos += int64(len(lz4Magic)); size-pos >= 4; {
		b, err := readRange(r, size, pos, 4)
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

// newLZ4 reads a frame of which lz4End is known to be the end of r.
func newLZ4(r io.Reader) *lz4Reader {
	br := bufio.NewReader(r)
	br.Discard(len(lz4Magic)) // an error comes again with the next read
	return &lz4Reader{r: br, out: make([]byte, lz4BlockSize)}
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
