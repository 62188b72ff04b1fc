// SPDX-License-Identifier: GPL-2.0-or-later

package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockName is the file whose lock is that of the tree. It is not the tree's directory
// itself, which every user may open and so lock.
const lockName = ".lock"

// Lock is the lock of a tree, held until it is released or the process ends.
//
// It is flock(2): the file that is left of it after a run is no claim. What is in
// the file is a note that the tree holds nothing which a killed run left: the
// word healed and the ID of the machine's boot, for after a power failure nobody
// knows what reached the disk. The note goes when the lock is taken.
type Lock struct {
	file *os.File
	// Clean reports whether the tree is known to hold nothing that a killed run
	// left. It is set from the note; the run that holds the lock sets it once it
	// has cleaned up, and clears it before it changes the tree. [Lock.Release]
	// writes the note by it.
	Clean bool
}

// Lock takes the lock of the tree, which it makes if it is missing. Where another
// run holds it, waiting is called once with a description of that run, and Lock
// waits.
func (t Tree) Lock(ctx context.Context, waiting func(holder string)) (*Lock, error) {
	if err := os.MkdirAll(t.Dir, 0o755); err != nil {
		return nil, err
	}
	d, err := os.OpenFile(filepath.Join(t.Dir, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			l := &Lock{file: d}
			if err := l.readNote(); err != nil {
				d.Close()
				return nil, fmt.Errorf("cannot lock %s: %w", t.Dir, err)
			}
			return l, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			d.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", t.Dir, err)
		}
		if !told {
			waiting(holder(d))
		}
		select {
		case <-ctx.Done():
			d.Close()
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// readNote looks for the note, and removes it.
func (l *Lock) readNote() error {
	text := make([]byte, 256)
	n, err := l.file.ReadAt(text, 0)
	if n == 0 && errors.Is(err, io.EOF) {
		return nil
	}
	note := healedNote()
	l.Clean = note != "" && string(text[:n]) == note
	return l.file.Truncate(0)
}

// healedNote returns what the note says in this boot; "" where that has no ID.
func healedNote() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(bytes.TrimSpace(id)) == 0 {
		return ""
	}
	return "healed " + string(id)
}

// Release gives the lock back, and writes the note if the tree is clean. It may be
// called more than once.
func (l *Lock) Release() {
	if l.Clean {
		// Without it, or with a part of it, the next run looks again.
		_, _ = l.file.WriteAt([]byte(healedNote()), 0)
	}
	l.file.Close()
}

// holder describes the process that has the lock of d, as far as /proc tells.
func holder(d *os.File) string {
	const unknown = "another run"
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	inode := fmt.Sprintf(":%d", st.Ino)
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], inode) {
			continue
		}
		cmdline, err := os.ReadFile("/proc/" + f[4] + "/cmdline")
		if err != nil {
			return "process " + f[4]
		}
		command := string(bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		return fmt.Sprintf("process %s (%.200s)", f[4], strings.ToValidUTF8(command, "?"))
	}
	return unknown
}
