// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// onTerminal is the program
//
//	terminal COLUMNS COMMAND...
//
// It runs a command whose output is a terminal of that width, prints what the terminal gets
// as it is, and exits as the command does.
func onTerminal() {
	columns, err := strconv.ParseUint(os.Args[1], 10, 16)
	var status int
	if err == nil {
		status, err = runOnTerminal(uint16(columns), exec.Command(os.Args[2], os.Args[3:]...))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "terminal:", err)
		status = 99
	}
	os.Exit(status)
}

func runOnTerminal(columns uint16, cmd *exec.Cmd) (status int, err error) {
	screen, terminal, err := openTerminal(columns)
	if err != nil {
		return 0, err
	}
	defer screen.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, terminal, terminal
	if err := errors.Join(cmd.Start(), terminal.Close()); err != nil {
		return 0, err
	}
	// Reading fails when nobody has the terminal open any more.
	if _, err := io.Copy(os.Stdout, screen); err != nil && !errors.Is(err, unix.EIO) {
		return 0, err
	}
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// openTerminal opens both ends of a terminal that passes on what is written to it.
func openTerminal(columns uint16) (screen, terminal *os.File, err error) {
	screen, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	n, errNumber := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	errUnlock := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0)
	terminal, errOpen := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err := errors.Join(errNumber, errUnlock, errOpen); err != nil {
		return nil, nil, err
	}
	fd := int(terminal.Fd())
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		mode.Oflag &^= unix.OPOST
		err = errors.Join(unix.IoctlSetTermios(fd, unix.TCSETS, mode), unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
	}
	return screen, terminal, err
}
