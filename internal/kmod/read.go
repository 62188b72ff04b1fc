// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"dkms-kernel-install/internal/codec"
)

const (
	// maxWindow is the largest xz dictionary and zstd window in bytes that are
	// allocated for a file's say-so. xz -9 makes one of this size.
	maxWindow = 64 << 20

	// maxTrustedRatio bounds how much memory is allocated at once for the
	// uncompressed size that a file claims. Real modules shrink to a fifth.
	maxTrustedRatio = 32
)

var errTooLarge = errors.New("the module is too large")

// ReadFile returns the module in the file at path, uncompressed. The file's content
// tells how it is compressed, not its name, as for kmod's programs. A module larger
// than MaxSize is an error.
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

// ReadInfo reads the Info of the module in the file at path, which may be compressed. Of
// an uncompressed one it reads the few kilobytes that it needs.
func ReadInfo(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	size, c, err := probe(f)
	r := io.ReaderAt(f)
	if err == nil && c != codec.None {
		var module []byte
		module, err = decompress(f, size, c, MaxSize)
		r, size = bytes.NewReader(module), int64(len(module))
	}
	if err != nil {
		return Info{}, fmt.Errorf("read %s: %w", path, err)
	}
	info, err := parseInfo(io.NewSectionReader(r, 0, size))
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

// probe returns the size of f in bytes and how it is compressed.
func probe(f *os.File) (size int64, c codec.Compression, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, codec.None, err
	}
	if !st.Mode().IsRegular() {
		return 0, codec.None, errors.New("not a regular file")
	}
	var magic [codec.MaxMagic]byte
	n, err := f.ReadAt(magic[:], 0)
	if err != nil && err != io.EOF {
		return 0, codec.None, err
	}
	return st.Size(), codec.Detect(magic[:n], compressions...), nil
}

// decompress returns what the size bytes of r decode to, limit bytes at most.
func decompress(r io.ReaderAt, size int64, c codec.Compression, limit int64) ([]byte, error) {
	hint, err := codec.SizeHint(r, size, c, maxWindow)
	if err != nil {
		return nil, err
	}
	zr, err := codec.NewReader(r, size, c, maxWindow)
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	return readAll(zr, min(hint, MaxSize, size*maxTrustedRatio), limit)
}

// readAll reads r to its end, which it expects after hint bytes. More than limit bytes
// are an error.
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
