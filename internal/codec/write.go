// SPDX-License-Identifier: GPL-2.0-or-later

package codec

import (
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// xzDictSize is what the kernel's build gives to xz: its decoder allocates the
	// dictionary while the module loads.
	xzDictSize = 1 << 20

	// zstdWindowSize is far below what any decoder refuses. On real modules a larger
	// window gains nothing: only the code beside a function looks like it.
	zstdWindowSize = 1 << 20

	// gzipLevel is gzip's own default. Level 9 makes real modules 1 % smaller and takes
	// thirty times as long.
	gzipLevel = 6

	// zstdLevel is the default of the zstd program.
	zstdLevel = 3
)

// WriterOptions say how data are compressed. The zero value is good.
type WriterOptions struct {
	// Kernel writes what the kernel's decoders take, which is less than the programs
	// do (kernel/module/decompress.c, Documentation/staging/xz.rst): one gzip member
	// with a bare header, one xz stream with CRC32 and a small dictionary, one zstd
	// frame with a small window.
	Kernel bool
	// Level is on the scale of the compression's own program: 1 to 9 for gzip, 1 to 22
	// for zstd, which has only four different ones here. 0 is the default. xz has one
	// level.
	Level int
	Size  int64 // how many bytes there are, if that is known
}

// Compress writes data in the form of c to dst. The same data and options give the same
// bytes.
func Compress(dst io.Writer, data []byte, c Compression, o WriterOptions) error {
	o.Size = int64(len(data))
	w, err := NewWriter(dst, c, o)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("compress with %v: %w", c, err)
	}
	return nil
}

// NewWriter returns a writer that compresses what is written to it and passes it on to
// dst. Its Close finishes the compressed data and leaves dst open. The same data and
// options give the same bytes. A compression that is not written is an error.
func NewWriter(dst io.Writer, c Compression, o WriterOptions) (io.WriteCloser, error) {
	if c < 0 || int(c) >= len(table) || table[c].write == nil {
		return nil, fmt.Errorf("compression %v is not written", c)
	}
	sticky := &stickyWriter{w: dst}
	w, err := table[c].write(sticky, o)
	if err != nil {
		return nil, err
	}
	return &writer{w, sticky}, nil
}

// writer is a compressor that does not lose the errors of where it writes to.
type writer struct {
	io.WriteCloser
	dst *stickyWriter
}

func (w *writer) Close() error {
	if err := w.WriteCloser.Close(); err != nil {
		return err
	}
	return w.dst.err
}

// stickyWriter keeps the first error of w, and passes nothing on after it. The xz library
// loses an error that it gets while it closes: a disk that is full just then would leave
// a broken file behind, and a success.
type stickyWriter struct {
	w   io.Writer
	err error // the first one; nil while there was none
}

func (s *stickyWriter) Write(p []byte) (n int, err error) {
	if s.err == nil {
		n, s.err = s.w.Write(p)
	}
	return n, s.err
}

func writeNone(w io.Writer, _ WriterOptions) (io.WriteCloser, error) { return nopCloser{w}, nil }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// writeGzip writes no time, RFC 1952, 2.3.1.
func writeGzip(w io.Writer, o WriterOptions) (io.WriteCloser, error) {
	level := o.Level
	switch {
	case level == 0 && o.Kernel:
		level = gzipLevel
	case level == 0:
		level = gzip.DefaultCompression
	case level < gzip.BestSpeed || level > gzip.BestCompression:
		return nil, fmt.Errorf("level %d is not within %d to %d", level, gzip.BestSpeed, gzip.BestCompression)
	}
	z, err := gzip.NewWriterLevel(w, level)
	if err != nil {
		return nil, err
	}
	z.ModTime = time.Unix(0, 0) // none, RFC 1952, 2.3.1: the zero Time would be written
	return z, nil
}

func writeXZ(w io.Writer, o WriterOptions) (io.WriteCloser, error) {
	if !o.Kernel {
		return xz.NewWriter(w)
	}
	// The library's other matcher takes time that is quadratic in the length of a run of
	// equal bytes, and modules have long ones.
	return xz.WriterConfig{DictCap: xzDictSize, CheckSum: xz.CRC32}.NewWriter(w)
}

func writeZstd(w io.Writer, o WriterOptions) (io.WriteCloser, error) {
	// One thread: with more, the bytes could depend on the machine.
	if !o.Kernel {
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}
	level := o.Level
	if level == 0 {
		level = zstdLevel
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithWindowSize(zstdWindowSize),
		zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	// The zstd program writes the size too. It is how a reader knows how much memory to
	// get.
	z.ResetContentSize(w, o.Size)
	return z, nil
}
