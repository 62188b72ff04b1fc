// SPDX-License-Identifier: GPL-2.0-or-later

// Command vminit is process 1 of the virtual machine of the integration tests. It loads each file in /modules, in the
// order of their names, and the kernel itself decompresses it. It runs the program /test, if there is one, with its
// own arguments, control groups, a /tmp, and the variables of the firmware if it has them. Then it prints the results and
// stops the machine.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println("vminit: mount /proc:", err)
	}
	unix.Klogctl(unix.SYSLOG_ACTION_CONSOLE_OFF, nil) // so that no message gets into the lines below
	files, _ := filepath.Glob("/modules/*")
	for _, file := range files {
		_, name, _ := strings.Cut(filepath.Base(file), "-")
		result := "ok"
		if err := load(file); err != nil {
			result = err.Error()
		}
		fmt.Printf("vminit: load %s: %s\n", name, result)
	}
	if _, err := os.Stat("/test"); err == nil {
		test()
	}
	show("module", "/proc/modules")
	show("tainted", "/proc/sys/kernel/tainted")
	log := make([]byte, 1<<18)
	if n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, log); err == nil {
		lines := strings.Split(strings.TrimSpace(string(log[:n])), "\n")
		for _, line := range lines[max(0, len(lines)-20):] {
			fmt.Println("vminit: dmesg", line)
		}
	}
	fmt.Println("vminit: end")
	// A restart, unlike a power-off, needs no ACPI, and makes qemu -no-reboot end.
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// test runs /test and prints its output.
func test() {
	for _, m := range []struct{ kind, dir string }{{"sysfs", "/sys"}, {"cgroup2", "/sys/fs/cgroup"}, {"tmpfs", "/tmp"}, {"devtmpfs", "/dev"}} {
		err := os.MkdirAll(m.dir, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.dir, m.kind, 0, "")
		}
		if err != nil {
			fmt.Println("vminit: mount", m.dir, err)
		}
	}
	for kind, dir := range map[string]string{"efivarfs": "/sys/firmware/efi/efivars", "securityfs": "/sys/kernel/security"} {
		_ = unix.Mount(kind, dir, kind, 0, "") // the test says so, if it needs them
	}
	cmd := exec.Command("/test", os.Args[1:]...)
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		fmt.Println("vminit: test", strings.TrimRight(line, "\n"))
	}
	if err != nil {
		fmt.Println("vminit: test", err)
	}
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), "", flags)
}

// show prints the lines of a file, each with a label.
func show(label, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		fmt.Printf("vminit: %v\n", err)
	}
	for line := range strings.Lines(string(b)) {
		fmt.Printf("vminit: %s %s\n", label, strings.TrimSpace(line))
	}
}
