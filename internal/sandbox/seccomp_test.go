// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"encoding/binary"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// decide returns what the filter of an architecture decides about a system call there.
func decide(t *testing.T, a abi, network bool, arch, nr uint32, args ...uint64) bpf.RetConstant {
	t.Helper()
	vm, err := bpf.NewVM(a.filter(network))
	if err != nil {
		t.Fatal(err)
	}
	// The machine here loads words as they are in packets, big-endian. So each word is
	// written that way, at the place that it has in memory.
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data, nr)
	binary.BigEndian.PutUint32(data[4:], arch)
	for i, arg := range args {
		low, high := 16+8*i, 20+8*i
		if a.bigEndian {
			low, high = high, low
		}
		binary.BigEndian.PutUint32(data[low:], uint32(arg))
		binary.BigEndian.PutUint32(data[high:], uint32(arg>>32))
	}
	verdict, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return bpf.RetConstant{Val: uint32(verdict)}
}

func TestFilter(t *testing.T) {
	const (
		thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD
		high   = 1 << 32 // in the half of an argument that does not matter
		junk   = 1<<64 - 1
	)
	type call struct {
		nr      uint32
		args    []uint64
		build   bpf.RetConstant
		network bpf.RetConstant // with the network
	}
	for goarch, a := range abis {
		// clone returns the arguments of clone(2) with these flags.
		clone := func(flags uint64) []uint64 {
			args := []uint64{junk, junk}
			args[a.cloneFlags] = flags
			return args
		}
		calls := []call{
			{unix.SYS_READ, nil, allow, allow},
			{unix.SYS_EXECVE, nil, allow, allow},
			{unix.SYS_EXIT_GROUP, nil, allow, allow},
			{unix.SYS_INOTIFY_ADD_WATCH, nil, allow, allow},
			{0xffff, nil, allow, allow}, // which newer kernels may have
			{unix.SYS_CLONE3, nil, unknown, unknown},
			{unix.SYS_CLONE, clone(uint64(unix.SIGCHLD)), allow, allow},
			{unix.SYS_CLONE, clone(thread | high), allow, allow},
			{unix.SYS_UNSHARE, []uint64{unix.CLONE_FILES, junk}, allow, allow},
			{unix.SYS_UNSHARE, []uint64{unix.CLONE_FILES | unix.CLONE_NEWTIME}, deny, deny},
			{unix.SYS_SOCKET, []uint64{unix.AF_UNIX | high, unix.SOCK_STREAM}, deny, allow},
			{unix.SYS_SOCKET, []uint64{unix.AF_INET}, deny, allow},
			{unix.SYS_SOCKET, []uint64{unix.AF_INET6}, deny, allow},
			{unix.SYS_SOCKET, []uint64{unix.AF_NETLINK}, deny, allow},
			{unix.SYS_SOCKET, []uint64{unix.AF_VSOCK}, deny, deny},
			{unix.SYS_SOCKET, []uint64{unix.AF_PACKET}, deny, deny},
			{unix.SYS_SOCKET, []uint64{unix.AF_ALG}, deny, deny},
			{unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_CLOEXEC}, allow, allow},
			{unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET | unix.SOCK_NONBLOCK}, allow, allow},
			{unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX, unix.SOCK_DGRAM}, deny, allow},
			{unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX, unix.SOCK_RAW}, deny, allow}, // the same
			{unix.SYS_SOCKETPAIR, []uint64{unix.AF_TIPC, unix.SOCK_STREAM}, deny, deny},
		}
		for _, flag := range []uint64{unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET} {
			calls = append(calls,
				call{unix.SYS_CLONE, clone(flag | uint64(unix.SIGCHLD)), deny, deny},
				call{unix.SYS_UNSHARE, []uint64{flag}, deny, deny})
		}
		for _, nr := range slices.Concat(denied, only) {
			calls = append(calls, call{nr, nil, deny, deny})
		}
		for _, nr := range socketcall {
			calls = append(calls, call{nr, []uint64{1}, deny, allow}, call{nr, []uint64{8}, allow, allow})
		}
		for _, c := range calls {
			if got := decide(t, a, false, a.arch, c.nr, c.args...); got != c.build {
				t.Errorf("%s: call %d with %x: %v, want %v", goarch, c.nr, c.args, got, c.build)
			}
			if got := decide(t, a, true, a.arch, c.nr, c.args...); got != c.network {
				t.Errorf("%s with network: call %d with %x: %v, want %v", goarch, c.nr, c.args, got, c.network)
			}
		}
		for _, arch := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_RISCV32, unix.AUDIT_ARCH_PPC, unix.AUDIT_ARCH_PPC64, unix.AUDIT_ARCH_S390} {
			if got := decide(t, a, true, arch, unix.SYS_READ); got != kill {
				t.Errorf("%s: a call of architecture %x: %v, want %v", goarch, arch, got, kill)
			}
		}
	}
	if got := decide(t, abis["amd64"], false, unix.AUDIT_ARCH_X86_64, 1<<30|unix.SYS_READ); got != kill {
		t.Errorf("a call of x32: %v, want %v", got, kill)
	}
}

// harmful matches the names of system calls that a filter has to deny, or to look into.
var harmful = regexp.MustCompile(`^SYS_(ADD_KEY|REQUEST_KEY|KEYCTL|CLONE3?|UNSHARE|SETNS|MOUNT|UMOUNT2?|PIVOT_ROOT|MOVE_MOUNT|` +
	`OPEN_TREE.*|FS(OPEN|CONFIG|MOUNT|PICK)|MOUNT_SETATTR|PTRACE|PROCESS_VM_.*|KCMP|PIDFD_GETFD|SHM(GET|AT|CTL)|SEM(GET|OP|TIMEDOP|CTL)|` +
	`MSG(GET|SND|RCV|CTL)|IPC|SOCKET|SOCKETPAIR|SOCKETCALL|INOTIFY_INIT1?|FANOTIFY_.*|IO_URING_.*|BPF|PERF_EVENT_OPEN|USERFAULTFD)$`)

// TestFilterComplete checks that the filter of each architecture names all harmful
// system calls that it has, by its own number for them.
func TestFilterComplete(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	lists := filepath.Join(strings.TrimSpace(string(out)), "unix")
	for goarch := range abis {
		ctxt := build.Default
		ctxt.GOARCH = goarch
		files, err := filepath.Glob("seccomp*.go")
		if err != nil {
			t.Fatal(err)
		}
		used := map[string]bool{}
		for _, file := range files {
			ok, err := ctxt.MatchFile(".", file)
			if err != nil {
				t.Fatal(err)
			}
			if ok && !strings.HasSuffix(file, "_test.go") {
				maps.Copy(used, names(t, file))
			}
		}
		there := names(t, filepath.Join(lists, "zsysnum_linux_"+goarch+".go"))
		if len(there) < 300 {
			t.Fatalf("%s has %d system calls", goarch, len(there))
		}
		for name := range there {
			if harmful.MatchString(name) && !used[name] {
				t.Errorf("%s: the filter does not name %s", goarch, name)
			}
		}
	}
}

// names returns the identifiers of a source file that begin with SYS_.
func names(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && strings.HasPrefix(id.Name, "SYS_") {
			found[id.Name] = true
		}
		return true
	})
	return found
}
