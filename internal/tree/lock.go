package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockName is the file whose lock is that of the tree. It is not the tree's folder
// itself, which every user may open and so lock.
const lockName = ".lock"

// Lock takes the lock of the tree, which it makes if it is missing, and holds
// it until unlock is called or the process ends. Where another run holds it,
// waiting is called once with a description of that run, and Lock waits.
//
// The lock is flock(2): what is left of it after a run is an empty file, and no
// claim.
func (t Tree) Lock(ctx context.Context, waiting func(holder string)) (unlock func(), err error) {
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
			return func() { d.Close() }, nil
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
