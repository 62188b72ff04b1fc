package tree

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A tree of many packages has tens of thousands of folders with one name or two in
// each: what os.ReadDir does besides asking the kernel, and the kernel's walk down
// the path of each, is a good part of what reading it takes.

// entry is one name in a folder.
type entry struct {
	name string
	kind uint8 // one of unix.DT_*
}

// open opens a folder below the folder at, which may be AT_FDCWD.
func open(at int, name string) (fd int, err error) {
	for {
		fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// list returns what is in the open folder, sorted by name.
func list(fd int) (entries []entry, err error) {
	var buf [4096]byte
	for {
		n, err := unix.Getdents(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
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
			entries = append(entries, entry{string(name), kind})
		}
	}
	for i, e := range entries {
		if e.kind != unix.DT_UNKNOWN { // some file systems do not say
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			entries[i].kind = uint8(st.Mode & unix.S_IFMT >> 12)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

// listAt is list of the folder called name below the folder at.
func listAt(at int, name string) ([]entry, error) {
	fd, err := open(at, name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return list(fd)
}
