package kmod

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// xzDictSize is what the kernel's build gives to xz: its decoder allocates the dictionary while the module
	// loads.
	xzDictSize = 1 << 20

	// zstdWindowSize is far below what any decoder refuses. On real modules a larger window gains nothing: only
	// the code beside a function looks like it.
	zstdWindowSize = 1 << 20

	// gzipLevel is gzip's own default. Level 9 makes real modules 1 % smaller and takes thirty times as long.
	gzipLevel = 6

	// zstdLevel is the default of the zstd program.
	zstdLevel = 3
)

// Options says how to compress. The zero value is good.
type Options struct {
	// Level is on the scale of the compression's own program: 1 to 9 for gzip, 1 to 22 for zstd, which has only
	// four different ones here. 0 is the program's default. xz has one level.
	Level int
}

// Compress writes module to dst in the form that c names. The same module and options give the same bytes.
//
// Where CONFIG_MODULE_DECOMPRESS is set the reader is the kernel, whose decoders take less than the programs do
// (kernel/module/decompress.c, Documentation/staging/xz.rst): one gzip member with a bare header, one xz stream
// with CRC32 and a small dictionary, one zstd frame with a small window. That is what is written.
func Compress(dst io.Writer, module []byte, c Compression, o Options) error {
	out := &StickyWriter{W: dst}
	w, err := newCompressor(out, int64(len(module)), c, o.Level)
	if err == nil {
		_, err = w.Write(module)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = out.Err
	}
	if err != nil {
		return fmt.Errorf("compress with %v: %w", c, err)
	}
	return nil
}

// StickyWriter keeps the first error of W, and passes nothing on after it. The xz library loses an error that it gets
// while it closes: a disk that is full just then would leave a broken file behind, and a success.
type StickyWriter struct {
	W   io.Writer
	Err error // the first one; nil while there was none
}

func (s *StickyWriter) Write(p []byte) (n int, err error) {
	if s.Err == nil {
		n, s.Err = s.W.Write(p)
	}
	return n, s.Err
}

// newCompressor returns a writer for size bytes. Its Close finishes the compressed data and leaves dst open.
func newCompressor(dst io.Writer, size int64, c Compression, level int) (io.WriteCloser, error) {
	switch c {
	case Gzip:
		if level == 0 {
			level = gzipLevel
		}
		if level < gzip.BestSpeed || level > gzip.BestCompression {
			return nil, fmt.Errorf("level %d is not within %d to %d", level, gzip.BestSpeed, gzip.BestCompression)
		}
		w, err := gzip.NewWriterLevel(dst, level)
		if err != nil {
			return nil, err
		}
		w.ModTime = time.Unix(0, 0) // none, RFC 1952, 2.3.1
		return w, nil
	case XZ:
		// The library's other matcher takes time that is quadratic in the length of a run of equal bytes, and
		// modules have long ones.
		return xz.WriterConfig{DictCap: xzDictSize, CheckSum: xz.CRC32}.NewWriter(dst)
	case Zstd:
		if level == 0 {
			level = zstdLevel
		}
		w, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
			zstd.WithWindowSize(zstdWindowSize),
			zstd.WithEncoderConcurrency(1),
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, err
		}
		// The zstd program writes the size too. It is how a reader knows how much memory to get.
		w.ResetContentSize(dst, size)
		return w, nil
	case None:
		return nopCloser{dst}, nil
	default:
		return nil, errors.New("unknown compression")
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
