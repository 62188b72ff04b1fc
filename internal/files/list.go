// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is one name in a directory.
type Entry struct {
	Name string
	Kind uint8 // one of unix.DT_*
}

// Open opens the directory called name relative to the open directory at, which may
// be [unix.AT_FDCWD]. The caller closes fd.
func Open(at int, name string) (fd int, err error) {
	fd, err = ignoringEINTR(func() (int, error) {
		return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// List returns the entries of the open directory fd, from where it is read next,
// sorted by name.
func List(fd int) (entries []Entry, err error) {
	var buf [4096]byte
	for {
		n, err := ignoringEINTR(func() (int, error) { return unix.Getdents(fd, buf[:]) })
		if err != nil {
			return nil, os.NewSyscallError("getdents64", err)
		}
		if n == 0 {
			break
		}
		// struct linux_dirent64, see getdents64(2).
		for b := buf[:n]; len(b) > 19; {
			size, kind := binary.NativeEndian.Uint16(b[16:]), b[18]
			name, _, _ := bytes.Cut(b[19:size], []byte{0})
			b = b[size:]
			if string(name) == "." || string(name) == ".." {
				continue
			}
			entries = append(entries, Entry{string(name), kind})
		}
	}
	for i, e := range entries {
		if e.Kind != unix.DT_UNKNOWN { // some file systems leave it out
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			entries[i].Kind = uint8(st.Mode & unix.S_IFMT >> 12)
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// ListAt is [List] for the directory called name relative to the open directory at.
func ListAt(at int, name string) ([]Entry, error) {
	fd, err := Open(at, name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return List(fd)
}

// AppendStamp appends name to b, and the fields of st that show whether the file was
// changed or replaced: device, inode, mode, size, and the times of the last changes.
func AppendStamp(b []byte, name string, st *unix.Stat_t) []byte {
	b = append(append(b, name...), 0)
	for _, n := range [...]uint64{
		uint64(st.Dev), uint64(st.Ino), uint64(st.Mode), uint64(st.Size), uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano()),
	} {
		b = binary.NativeEndian.AppendUint64(b, n)
	}
	return b
}

// ReadFile is [os.ReadFile] with fewer system calls. It is meant for small files.
func ReadFile(path string) ([]byte, error) {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for b := make([]byte, 0, 2048); ; b = slices.Grow(b, cap(b)) {
		for len(b) < cap(b) {
			n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, b[len(b):cap(b)]) })
			if err != nil {
				return nil, &os.PathError{Op: "read", Path: path, Err: err}
			}
			if n == 0 {
				return b, nil
			}
			b = b[:len(b)+n]
		}
	}
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
