// SPDX-License-Identifier: GPL-2.0-or-later

package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
)

// These are of the form of cpio that the kernel reads, buffer-format.rst.
const (
	cpioNew    = "070701"     // begins a header
	cpioSum    = "070702"     // begins a header that has a checksum of the content
	cpioEnd    = "TRAILER!!!" // the name of the file that ends an archive
	cpioHeader = len(cpioNew) + 13*8

	maxPath   = 4096 // the kernel's PATH_MAX; it passes over files with longer names
	typeMask  = 0o170000
	typeIsDir = 0o040000
)

var errTooLarge = errors.New("it is too large")

// files calls visit for the files of s. At the end of s it returns nil; at something
// that is not a file, errForeign, and s.pos is where that begins; once visit has
// returned false, errStop.
func (w *walker) files(s *stream) error {
	for {
		switch err := s.skipZeros(); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		magic, err := s.br.Peek(len(cpioNew))
		if err != nil && err != io.EOF {
			return err
		}
		if m := string(magic); m != cpioNew && m != cpioSum {
			return errForeign
		}
		start := s.pos
		name, mode, err := s.file()
		if err != nil {
			return fmt.Errorf("cpio archive, file at byte %d: %w", start, noEOF(err))
		}
		w.any = true
		if name == "" || name == cpioEnd || mode&typeMask == typeIsDir {
			continue
		}
		// After Clean a path that begins with a slash still does, and has no "..".
		if !w.visit(path.Clean("/" + name)[1:]) {
			return errStop
		}
	}
}

// file reads a file's header and name, and skips its content. The name is "" if the
// kernel would not take it.
func (s *stream) file() (name string, mode uint64, err error) {
	var head [cpioHeader]byte
	if err := s.read(head[:]); err != nil {
		return "", 0, err
	}
	field := func(i int) uint64 {
		from := len(cpioNew) + i*8
		n, e := strconv.ParseUint(string(head[from:from+8]), 16, 32)
		if e != nil && err == nil {
			err = fmt.Errorf("field %d is not a number: %q", i, head[from:from+8])
		}
		return n
	}
	mode = field(1)
	size, nameSize := int64(field(6)), int64(field(11))
	if err != nil {
		return "", 0, err
	}
	// Name and content are padded to multiples of four bytes from the header on.
	padded := (int64(cpioHeader)+nameSize+3)&^3 - int64(cpioHeader)
	if nameSize == 0 || nameSize > maxPath {
		err = s.skip(padded)
	} else {
		b := make([]byte, padded)
		err = s.read(b)
		// It may end in several zeros: dracut aligns the content with them.
		before, _, _ := bytes.Cut(b[:nameSize], []byte{0})
		name = string(before)
	}
	if err != nil {
		return "", 0, err
	}
	// The last content in the image need not be padded.
	if err := s.skip(size); err != nil {
		return "", 0, err
	}
	if err := s.skip((4 - size&3) & 3); err != nil && err != io.ErrUnexpectedEOF {
		return "", 0, err
	}
	return name, mode, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// stream is what files are read from.
type stream struct {
	br   *bufio.Reader
	src  io.Reader
	size int64  // of src, if it is an io.Seeker
	pos  int64  // bytes taken
	left *int64 // bytes that may still be taken
}

// newStream reads r, which has size bytes if it is an io.Seeker.
func newStream(r io.Reader, size int64, left *int64) *stream {
	return &stream{br: bufio.NewReaderSize(r, 64<<10), src: r, size: size, left: left}
}

// took counts n bytes.
func (s *stream) took(n int64) error {
	s.pos += n
	if *s.left -= n; *s.left < 0 {
		return errTooLarge
	}
	return nil
}

func (s *stream) read(p []byte) error {
	n, err := io.ReadFull(s.br, p)
	if e := s.took(int64(n)); err == nil {
		err = e
	}
	return err
}

// skip passes over n bytes, without reading them if it can.
func (s *stream) skip(n int64) error {
	if err := s.took(n); err != nil {
		return err
	}
	if buffered := int64(s.br.Buffered()); n > buffered {
		if seeker, ok := s.src.(io.Seeker); ok {
			if s.pos > s.size {
				return io.ErrUnexpectedEOF
			}
			if _, err := seeker.Seek(n-buffered, io.SeekCurrent); err != nil {
				return err
			}
			s.br.Reset(s.src)
			return nil
		}
	}
	for n > 0 {
		done, err := s.br.Discard(int(min(n, 1<<20)))
		n -= int64(done)
		if err != nil {
			return noEOF(err)
		}
	}
	return nil
}

// skipZeros passes over zeros. At the end it returns io.EOF.
func (s *stream) skipZeros() error {
	for {
		if _, err := s.br.Peek(1); err != nil {
			return err
		}
		b, _ := s.br.Peek(s.br.Buffered())
		rest := bytes.TrimLeft(b, "\x00")
		zeros := len(b) - len(rest)
		s.br.Discard(zeros) // of what is buffered: cannot fail
		if err := s.took(int64(zeros)); err != nil {
			return err
		}
		if len(rest) > 0 {
			return nil
		}
	}
}
