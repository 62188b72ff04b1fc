package kmod

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

const (
	// maxDictSize is the largest xz dictionary and zstd window in bytes that are allocated for a file's say-so.
	// xz -9 makes one of this size.
	maxDictSize = 64 << 20

	// maxTrustedRatio bounds how much memory is allocated at once for the uncompressed size that a file claims.
	// Real modules shrink to a fifth.
	maxTrustedRatio = 32
)

var errTooLarge = errors.New("the module is too large")

// ReadFile returns the module in the file at path, uncompressed. How the file is compressed is told by its
// content, not by its name, as kmod's programs do. A module larger than MaxSize is an error.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, c, err := probe(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	module, err := decompress(f, size, c, MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return module, nil
}

// probe returns the size of f in bytes and how it is compressed.
func probe(f *os.File) (size int64, c Compression, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, None, err
	}
	if !st.Mode().IsRegular() {
		return 0, None, errors.New("not a regular file")
	}
	var magic [maxMagic]byte
	n, err := f.ReadAt(magic[:], 0)
	if err != nil && err != io.EOF {
		return 0, None, err
	}
	return st.Size(), detect(magic[:n]), nil
}

// maxMagic is the length of the longest of what detect looks for.
const maxMagic = 6

// detect tells how a file that begins with head is compressed.
func detect(head []byte) Compression {
	has := func(magic string) bool { return len(head) >= len(magic) && string(head[:len(magic)]) == magic }
	switch {
	case has("\x1f\x8b"):
		return Gzip
	case has("\xfd7zXZ\x00"):
		return XZ
	case has("\x28\xb5\x2f\xfd"):
		return Zstd
	default:
		return None
	}
}

// decompress returns what the size bytes of r hold, limit bytes at most.
func decompress(r io.ReaderAt, size int64, c Compression, limit int64) ([]byte, error) {
	zr, hint, err := open(r, size, c)
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	return readAll(zr, hint, limit)
}

// NewReader returns a reader of what the size bytes of r hold, uncompressed. How they are compressed is told by their
// content; what is not compressed is read as it is. A file that would make its decoder allocate more than a sane one
// is an error.
func NewReader(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	head, err := readRange(r, size, 0, uint64(min(size, maxMagic)))
	if err != nil {
		return nil, err
	}
	zr, _, err := open(r, size, detect(head))
	return zr, err
}

// open returns a reader of what the size bytes of r hold, and of how many bytes that is expected to be.
func open(r io.ReaderAt, size int64, c Compression) (zr io.ReadCloser, hint int64, err error) {
	data := io.NewSectionReader(r, 0, size)
	switch c {
	case Gzip:
		if tail, err := readRange(r, size, uint64(size-4), 4); err == nil {
			hint = int64(binary.LittleEndian.Uint32(tail)) // RFC 1952, 2.3.1, ISIZE
		}
		zr, err = gzip.NewReader(data)
	case XZ:
		if hint, err = scanXZ(r, size); err != nil {
			return nil, 0, fmt.Errorf("xz: %w", err)
		}
		var xr *xz.Reader
		// The library reads single bytes.
		xr, err = xz.ReaderConfig{SingleStream: true}.NewReader(bufio.NewReader(data))
		zr = io.NopCloser(xr)
	case Zstd:
		head, err := readRange(r, size, 0, uint64(min(size, zstd.HeaderMaxSize)))
		if err != nil {
			return nil, 0, err
		}
		var h zstd.Header
		if err := h.Decode(head); err != nil {
			return nil, 0, err
		}
		d, err := zstd.NewReader(data,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxDictSize))
		if err != nil {
			return nil, 0, err
		}
		return d.IOReadCloser(), min(int64(min(h.FrameContentSize, MaxSize)), size*maxTrustedRatio), nil
	default:
		return io.NopCloser(data), size, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return zr, min(hint, size*maxTrustedRatio), nil
}

// readAll reads r to its end, which is expected after hint bytes and an error after more than limit.
func readAll(r io.Reader, hint, limit int64) ([]byte, error) {
	// One byte more, so that the end is seen without growing.
	buf := make([]byte, 0, min(hint, limit)+1)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return nil, err
		}
	}
}

// readRange returns the n bytes at off of r, which has size bytes.
func readRange(r io.ReaderAt, size int64, off, n uint64) ([]byte, error) {
	if off > uint64(size) || n > uint64(size)-off {
		return nil, fmt.Errorf("truncated: bytes %d to %d of a file of %d: %w", off, off+n, size, io.ErrUnexpectedEOF)
	}
	buf := make([]byte, n)
	if _, err := r.ReadAt(buf, int64(off)); err != nil && err != io.EOF {
		return nil, err
	}
	return buf, nil
}

// scanXZ returns how many bytes the xz stream in r decodes to; see [WalkXZ].
func scanXZ(r io.ReaderAt, size int64) (decoded int64, err error) {
	_, _, decoded, err = WalkXZ(r, size, 0, maxDictSize)
	return decoded, err
}

// WalkXZ walks over the blocks of the xz stream that begins at pos of r, which has size bytes, without decoding them.
// It returns how many there are, where the index begins that follows them, and how many bytes they decode to. It is an
// error if one wants a dictionary of more than maxDict bytes: the decoder would allocate it, up to 4 GiB, before
// anything else shows that the file is bad. The stream's index is no help, because a file may lie in it about where its
// blocks are, and the decoder only finds out at the end.
//
// The format is that of https://tukaani.org/xz/xz-file-format.txt, and for LZMA2 chunks that of the decoder in XZ
// Embedded. Only what leads from one block to the next is checked here; the decoder checks the rest.
func WalkXZ(r io.ReaderAt, size, pos, maxDict int64) (blocks uint64, index, decoded int64, err error) {
	const (
		streamHeaderSize = 12
		lzma2            = 0x21
	)
	fail := func(err error) (uint64, int64, int64, error) { return 0, 0, 0, err }
	start := uint64(pos)
	flags, err := readRange(r, size, start+7, 1)
	if err != nil {
		return fail(err)
	}
	checkSize, ok := map[byte]uint64{xz.None: 0, xz.CRC32: 4, xz.CRC64: 8, xz.SHA256: 32}[flags[0]]
	if !ok {
		return fail(fmt.Errorf("unknown check %#x", flags[0]))
	}
	for at := start + streamHeaderSize; ; blocks++ {
		words, err := readRange(r, size, at, 1)
		if err != nil {
			return fail(err)
		}
		if words[0] == 0 {
			return blocks, int64(at), decoded, nil
		}
		header, err := readRange(r, size, at, (uint64(words[0])+1)*4)
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
		control, err := readRange(r, size, pos, 1)
		if err != nil {
			return 0, 0, err
		}
		if control[0] == 0 {
			return pos + 1, decoded, nil
		}
		// Sizes are big-endian, and one less than what they mean.
		sizes, err := readRange(r, size, pos+1, 4)
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
