// SPDX-License-Identifier: GPL-2.0-or-later

package tree

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockName is the file that is locked for the tree. Locking the tree's directory
// itself would not do: every user may open it, and so lock it.
const lockName = ".lock"

// Lock is the lock of a tree, held until it is released or the process ends.
//
// The lock is flock(2): the kernel drops it when the process ends, and the file
// alone means nothing. A run that leaves the tree clean writes a note into the
// file: the word healed and the ID of the machine's boot, since after a power
// failure it is unknown what reached the disk. Taking the lock puts a word in its place
// that is also in the environment: what this process runs tells from it that it would
// wait for itself.
type Lock struct {
	file *os.File
	path string // of file, if it goes with the lock; else ""
	// Clean reports whether the tree is known to hold nothing that a killed run
	// left. Its first value is from the note. The run that holds the lock sets it
	// once it has cleaned up, and clears it if it changes the tree. If it is set,
	// [Lock.Release] writes the note.
	Clean bool
}

// ErrHeldAbove is the error of [Tree.Lock] if a process holds the lock that runs this one
// and waits for it.
var ErrHeldAbove = errors.New("the run of this program that runs this one holds it")

// heldEnv is the environment variable with the word that [Tree.Lock] puts into the file.
const heldEnv = "DKMS_KERNEL_INSTALL_LOCK"

// Lock takes the lock of the tree. It makes the tree if that is missing. If another
// process holds the lock, Lock calls waiting once, with a description of that
// process, and waits until it has the lock or ctx is done. The error may be
// [ErrHeldAbove].
func (t Tree) Lock(ctx context.Context, waiting func(holder string)) (*Lock, error) {
	if err := os.MkdirAll(t.Dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(t.Dir, lockName)
	d, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && gone(d, path) {
			d.Close()
			return t.Lock(ctx, waiting) // whoever held it has removed its file
		}
		if err == nil {
			l := &Lock{file: d}
			if t.Image {
				l.path = path
			}
			if err := l.replaceNote(); err != nil {
				d.Close()
				return nil, fmt.Errorf("cannot lock %s: %w", t.Dir, err)
			}
			return l, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			d.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", t.Dir, err)
		}
		if word := os.Getenv(heldEnv); word != "" && word == read(d) {
			d.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", t.Dir, ErrHeldAbove)
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

// replaceNote sets Clean from the note, and puts a word in place of the note. If the disk
// is full, nobody finds the word.
func (l *Lock) replaceNote() error {
	note := healedNote()
	l.Clean = note != "" && read(l.file) == note
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	word := rand.Text()
	_, _ = l.file.WriteAt([]byte(word), 0)
	return os.Setenv(heldEnv, word)
}

// read returns what the file of a lock has.
func read(file *os.File) string {
	text := make([]byte, 256)
	n, _ := file.ReadAt(text, 0)
	return string(text[:n])
}

// healedNote returns the note of this boot; "" if the boot has no ID.
func healedNote() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(bytes.TrimSpace(id)) == 0 {
		return ""
	}
	return "healed " + string(id)
}

// gone reports whether file is not the one at path any more.
func gone(file *os.File, path string) bool {
	own, err := file.Stat()
	now, errNow := os.Lstat(path)
	return err != nil || errNow != nil || !os.SameFile(own, now)
}

// Release writes the note if the tree is clean, and gives the lock back. Further
// calls do nothing.
func (l *Lock) Release() {
	if l.path != "" {
		os.Remove(l.path)
		l.path = ""
	} else if l.Clean && l.file.Truncate(0) == nil {
		// If it is missing or cut short, the next run cleans up again.
		_, _ = l.file.WriteAt([]byte(healedNote()), 0)
	}
	l.file.Close()
}

// holder describes the process that holds the lock on d, as far as /proc shows.
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
