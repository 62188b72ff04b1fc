// SPDX-License-Identifier: GPL-2.0-or-later

package codec

import (
	"bufio"
	"compress/bzip2"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// NewReader returns a reader of what the size bytes of r hold, decompressed. A decoder
// may use a window, or dictionary, of at most window bytes; data that want more are an
// error. A compression that is not read is one, too.
func NewReader(r io.ReaderAt, size int64, c Compression, window int64) (io.ReadCloser, error) {
	if table[c].read == nil {
		return nil, fmt.Errorf("compression %s is not supported", c)
	}
	zr, err := table[c].read(io.NewSectionReader(r, 0, size), window)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	return zr, nil
}

// Member is compressed data among others.
type Member struct {
	io.Reader
	c     Compression
	end   func() int64
	close func()
}

// OpenMember opens the data in the form of c that begin at pos of r, which has size
// bytes. Window is that of [NewReader]. A Member is to be closed.
func OpenMember(r io.ReaderAt, pos, size int64, c Compression, window int64) (*Member, error) {
	f := table[c]
	m := &Member{c: c, close: func() {}}
	var err error
	switch {
	case f.end != nil:
		var end int64
		if end, err = f.end(r, pos, size, window); err != nil {
			break
		}
		var zr io.ReadCloser
		if zr, err = f.read(io.NewSectionReader(r, pos, end-pos), window); err == nil {
			m.Reader, m.end, m.close = zr, func() int64 { return end }, func() { zr.Close() }
		}
	case f.member != nil:
		counter := newCounter(r, pos, size)
		m.end = counter.end
		m.Reader, err = f.member(counter)
	default:
		return nil, fmt.Errorf("compression %s is not supported", c)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	return m, nil
}

// End returns where the data of a member that is read to its end have ended.
func (m *Member) End() int64 { return m.end() }

// Close frees what the decoder uses.
func (m *Member) Close() { m.close() }

// SizeHint returns how many bytes the size bytes of r decode to by what they say of
// themselves, which may be false; 0 if they do not say. Window is that of [NewReader].
func SizeHint(r io.ReaderAt, size int64, c Compression, window int64) (int64, error) {
	if table[c].size == nil {
		return 0, nil
	}
	hint, err := table[c].size(r, size, window)
	if err != nil {
		err = fmt.Errorf("%s: %w", c, err)
	}
	return hint, err
}

func sizeNone(_ io.ReaderAt, size, _ int64) (int64, error) { return size, nil }

func sizeGzip(r io.ReaderAt, size, _ int64) (int64, error) {
	tail, err := ReadRange(r, size, size-4, 4)
	if err != nil {
		return 0, nil // it is the reader that finds out
	}
	return int64(binary.LittleEndian.Uint32(tail)), nil // RFC 1952, 2.3.1, ISIZE
}

func sizeXZ(r io.ReaderAt, size, window int64) (int64, error) {
	_, _, decoded, err := walkXZ(r, size, 0, window)
	return decoded, err
}

func sizeZstd(r io.ReaderAt, size, _ int64) (int64, error) {
	head, err := ReadRange(r, size, 0, min(size, zstd.HeaderMaxSize))
	if err != nil {
		return 0, err
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return 0, err
	}
	return int64(min(h.FrameContentSize, 1<<62)), nil
}

func readNone(data *io.SectionReader, _ int64) (io.ReadCloser, error) { return io.NopCloser(data), nil }

func readGzip(data *io.SectionReader, _ int64) (io.ReadCloser, error) { return gzip.NewReader(data) }

func memberGzip(c *counter) (io.Reader, error) {
	zr, err := gzip.NewReader(c.Reader)
	if err == nil {
		zr.Multistream(false)
	}
	return zr, err
}

func readXZ(data *io.SectionReader, window int64) (io.ReadCloser, error) {
	if _, _, _, err := walkXZ(data, data.Size(), 0, window); err != nil {
		return nil, err
	}
	// The library reads single bytes.
	zr, err := xz.ReaderConfig{SingleStream: true}.NewReader(bufio.NewReader(data))
	return io.NopCloser(zr), err
}

func readZstd(data *io.SectionReader, window int64) (io.ReadCloser, error) {
	zr, err := zstd.NewReader(data, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(window)))
	if err != nil {
		return nil, err
	}
	return zr.IOReadCloser(), nil
}

func readBzip2(data *io.SectionReader, _ int64) (io.ReadCloser, error) {
	return io.NopCloser(bzip2.NewReader(data)), nil
}

func memberBzip2(c *counter) (io.Reader, error) {
	return &bzip2Member{bzip2.NewReader(c.Reader), c}, nil
}

// bzip2Member ends where other data follow than bzip2's, which the library takes for more
// of the same.
type bzip2Member struct {
	io.Reader
	c *counter
}

func (b *bzip2Member) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err == errOther() {
		b.c.back = 2 // bytes of what follows that it has taken
		err = io.EOF
	}
	return n, err
}

// errOther returns the library's error for data that follow those of bzip2 and are not.
var errOther = sync.OnceValue(func() error {
	const empty = "BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00"
	_, err := io.ReadAll(bzip2.NewReader(strings.NewReader(empty + "no")))
	return err
})

// counter is a buffered reader of a range of bytes that knows how many were taken. It
// has the methods that keep a decoder from taking more than is its own.
type counter struct {
	*bufio.Reader
	start   int64
	back    int64 // bytes that were taken and do not count
	section *io.SectionReader
}

func newCounter(r io.ReaderAt, pos, size int64) *counter {
	section := io.NewSectionReader(r, pos, size-pos)
	return &counter{Reader: bufio.NewReader(section), start: pos, section: section}
}

// end returns where the next byte would be taken from.
func (c *counter) end() int64 {
	read, _ := c.section.Seek(0, io.SeekCurrent) // cannot fail
	return c.start + read - int64(c.Buffered()) - c.back
}

// ReadRange returns the n bytes at off of r, which has size bytes.
func ReadRange(r io.ReaderAt, size, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > size || n > size-off {
		return nil, fmt.Errorf("truncated: bytes %d to %d of a file of %d: %w", off, off+n, size, io.ErrUnexpectedEOF)
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, off); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}
