// SPDX-License-Identifier: GPL-2.0-or-later

package initramfs

import (
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/codec"
)

const (
	// maxUnpacked is how many bytes of archives are read of one image, uncompressed. The kernel unpacks them into
	// memory, early, so that real ones are far smaller; this ends what only pretends to be one.
	maxUnpacked = 4 << 30

	// maxMembers is how many compressed archives are read of one image. There is one, or a few where boot loader
	// and generator put something together.
	maxMembers = 256
)

var (
	errForeign = errors.New("neither an archive nor a known compression")
	errStop    = errors.New("stop") // the visitor has seen enough
)

// readImage calls visit with the path of each file in the image called name, directories left out, until visit returns
// false.
func readImage(name string, visit func(file string) bool) error {
	// Not to wait for a writer, should it be a pipe.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	return read(f, st.Size(), visit, maxUnpacked)
}

// read is readImage of the size bytes of r, of which limit at most are read, uncompressed.
func read(r io.ReaderAt, size int64, visit func(file string) bool, limit int64) error {
	parts := []part{{0, size}}
	var magic [2]byte
	if _, err := r.ReadAt(magic[:], 0); err == nil && string(magic[:]) == "MZ" {
		var err error
		if parts, err = ukiInitrds(r, size); err != nil {
			return fmt.Errorf("unified kernel image: %w", err)
		}
	}
	w := walker{visit: visit, left: limit, members: maxMembers}
	for _, p := range parts {
		if err := w.walk(io.NewSectionReader(r, p.off, p.size), p.size); err != nil {
			if err == errStop {
				return nil
			}
			return err
		}
	}
	if len(parts) > 0 && !w.any {
		return errors.New("it holds no archive")
	}
	return nil
}

type part struct{ off, size int64 }

// ukiInitrds returns where the initrds of a unified kernel image are, of which there may be none: its sections
// called .initrd (UAPI.5, https://uapi-group.org/specifications/specs/unified_kernel_image). debug/pe has the
// structures; its reader trusts the file too much.
func ukiInitrds(r io.ReaderAt, size int64) ([]part, error) {
	const (
		newHeader = 0x3c // where the DOS header says where the PE header is
		signature = "PE\x00\x00"
		name      = ".initrd\x00"
	)
	b, err := codec.ReadRange(r, size, newHeader, 4)
	if err != nil {
		return nil, err
	}
	pos := int64(binary.LittleEndian.Uint32(b))
	if b, err = codec.ReadRange(r, size, pos, int64(len(signature)+binary.Size(pe.FileHeader{}))); err != nil {
		return nil, err
	}
	if string(b[:len(signature)]) != signature {
		return nil, errors.New("not a PE file")
	}
	var head pe.FileHeader
	if _, err := binary.Decode(b[len(signature):], binary.LittleEndian, &head); err != nil {
		return nil, err
	}
	pos += int64(len(b)) + int64(head.SizeOfOptionalHeader)
	var list []part
	for range head.NumberOfSections {
		var s pe.SectionHeader32
		b, err := codec.ReadRange(r, size, pos, int64(binary.Size(s)))
		if err != nil {
			return nil, err
		}
		if _, err := binary.Decode(b, binary.LittleEndian, &s); err != nil {
			return nil, err
		}
		pos += int64(len(b))
		if string(s.Name[:]) != name {
			continue
		}
		// The file has the section rounded up, and the section may be longer than what the file has of it.
		p := part{int64(s.PointerToRawData), int64(min(s.VirtualSize, s.SizeOfRawData))}
		if p.off > size || p.size > size-p.off {
			return nil, fmt.Errorf("section .initrd is not within the file: %w", io.ErrUnexpectedEOF)
		}
		list = append(list, p)
	}
	return list, nil
}

// walker reads an image as the kernel does (init/initramfs.c, Documentation/driver-api/early-userspace/
// buffer-format.rst): one after the other, uncompressed files in cpio form, and compressed archives of such files;
// between them zeros.
type walker struct {
	visit   func(file string) bool
	left    int64 // bytes that may still be read, uncompressed
	members int   // compressed archives that may still be read
	any     bool  // whether there was a file, if only the last of an archive, which is none
}

// walk reads the size bytes of r.
func (w *walker) walk(r io.ReaderAt, size int64) error {
	for pos := int64(0); ; {
		s := newStream(io.NewSectionReader(r, pos, size-pos), size-pos, &w.left)
		err := w.files(s)
		if err != errForeign {
			return err
		}
		pos += s.pos
		if w.members--; w.members < 0 {
			return fmt.Errorf("it has more than %d compressed archives", maxMembers)
		}
		if pos, err = w.member(r, pos, size); err != nil {
			return err
		}
	}
}

// maxWindow is how many bytes of memory a decoder of c may use: xz -9 wants so much; the window of zstd --ultra -22
// is the kernel's limit too.
func maxWindow(c codec.Compression) int64 {
	if c == codec.Zstd {
		return 128 << 20
	}
	return 64 << 20
}

// member reads the compressed archive at pos, and returns where it ends.
func (w *walker) member(r io.ReaderAt, pos, size int64) (end int64, err error) {
	magic := make([]byte, min(codec.MaxMagic, size-pos))
	if _, err := r.ReadAt(magic, pos); err != nil && err != io.EOF {
		return 0, err
	}
	c := codec.Detect(magic)
	if c == codec.None {
		return 0, fmt.Errorf("at byte %d: %w", pos, errForeign)
	}
	m, err := codec.OpenMember(r, pos, size, c, maxWindow(c))
	if err != nil {
		return 0, err
	}
	defer m.Close()
	if err := w.unpack(m); err != nil && err != errStop {
		return 0, fmt.Errorf("%s: %w", c, err)
	} else if err != nil {
		return 0, err
	}
	return m.End(), nil
}

// unpack reads the files of an archive that r uncompresses, and r to its end.
func (w *walker) unpack(r io.Reader) error {
	s := newStream(r, -1, &w.left)
	err := w.files(s)
	if err == errForeign {
		return fmt.Errorf("in the archive at byte %d: %w", s.pos, err)
	}
	return err
}
