// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dkms-kernel-install/internal/resources"
)

// group is the control group of a command. It counts all memory that the command takes,
// in whatever way, and gives it no more processor time than another command. Its files
// are described in admin-guide/cgroup-v2 of the kernel's documentation. A nil group is
// none.
type group struct{ dir *os.File }

// newGroup makes a control group for a command in w, or returns nil if it cannot, or if
// nothing is to be counted. All are below a group of our own at the top: where this
// process is, there are processes, and a group that has some cannot hand out memory to
// others below it.
func newGroup(w *World) *group {
	top, ok := resources.ControlGroups()
	if !ok || w.Usage == "" || os.Geteuid() != 0 {
		return nil
	}
	ours := filepath.Join(top, "dkms-kernel-install")
	if err := os.Mkdir(ours, 0o755); err != nil && !os.IsExist(err) {
		return nil
	}
	for _, dir := range []string{top, ours} {
		_ = control(dir, "cgroup.subtree_control", "+cpu")
		if control(dir, "cgroup.subtree_control", "+memory +pids") != nil {
			os.Remove(ours)
			return nil
		}
	}
	prune(ours)
	dir, err := os.MkdirTemp(ours, fmt.Sprintf("%d-", os.Getpid()))
	if err != nil {
		return nil
	}
	total, _, _ := resources.RAM()
	// If that much is not enough for one command, it is to be ended before any other
	// program of the machine is.
	_ = control(dir, "memory.max", fmt.Sprint(total-total/32))
	_ = control(dir, "memory.oom.group", "1")
	if w.Processes > 0 {
		_ = control(dir, "pids.max", fmt.Sprint(w.Processes))
	}
	f, err := os.Open(dir)
	// A kernel older than this file, of Linux 5.14, may not know how to start a process
	// in a group.
	if _, errKill := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil || errKill != nil {
		f.Close()
		os.Remove(dir)
		return nil
	}
	return &group{f}
}

// enterGroup makes a control group, and has cmd, which has not started yet, start in it.
func enterGroup(w *World, cmd *exec.Cmd) *group {
	g := newGroup(w)
	if g != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.dir.Fd())
	}
	return g
}

// prune removes the groups below dir of processes that were killed.
func prune(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		owner, _, _ := strings.Cut(e.Name(), "-")
		if pid, err := strconv.Atoi(owner); err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = control(filepath.Join(dir, e.Name()), "cgroup.kill", "1")
			syscall.Rmdir(filepath.Join(dir, e.Name()))
		}
	}
}

// control writes to a file of the control group dir.
func control(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

// memory returns how many bytes the processes of g hold that the kernel cannot take back
// by writing files to disk.
func (g *group) memory() (bytes int64) {
	bytes, _ = strconv.ParseInt(strings.TrimSpace(g.read("memory.swap.current")), 10, 64)
	stat := g.read("memory.stat")
	for _, name := range []string{"anon", "shmem", "sock", "kernel_stack", "pagetables", "percpu", "slab_unreclaimable"} {
		n, _ := resources.Stat(stat, name)
		bytes += n
	}
	return bytes
}

// outOfMemory reports whether the kernel ended processes of g for want of memory.
func (g *group) outOfMemory() bool {
	if g == nil {
		return false
	}
	kills, _ := resources.Stat(g.read("memory.events"), "oom_kill")
	return kills > 0
}

// read returns the text of a file of g, or "" if it cannot be read.
func (g *group) read(file string) string {
	text, _ := os.ReadFile(filepath.Join(g.dir.Name(), file))
	return string(text)
}

// remove ends what is left in g and removes it.
func (g *group) remove() {
	if g == nil {
		return
	}
	g.dir.Close()
	_ = control(g.dir.Name(), "cgroup.kill", "1")
	// Processes that were killed are there until the kernel has taken them down.
	for end := time.Now().Add(time.Second); syscall.Rmdir(g.dir.Name()) == syscall.EBUSY && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	os.Remove(filepath.Dir(g.dir.Name())) // which fails if another runs
}
