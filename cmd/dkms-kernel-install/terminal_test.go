// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/report/reporttest"
)

// onTerminal is the program
//
//	terminal COLUMNS COMMAND...
//
// It runs a command whose output is a terminal of that width, prints what the terminal gets
// as it is, and exits as the command does. Called
//
//	screen COLUMNS COMMAND...
//
// it prints what the terminal shows in the end instead, and fails if the cursor is not at
// the beginning of a line then. At SIGINT, somebody types Ctrl-C.
func onTerminal() {
	columns, err := strconv.ParseUint(os.Args[1], 10, 16)
	var status int
	var out io.Writer = os.Stdout
	screen := &reporttest.Screen{Columns: int(columns)}
	if filepath.Base(os.Args[0]) == "screen" {
		out = screen
	}
	if err == nil {
		status, err = runOnTerminal(uint16(columns), exec.Command(os.Args[2], os.Args[3:]...), out)
	}
	if out == screen && err == nil {
		fmt.Print(screen)
		if screen.X != 0 || screen.Y < len(screen.Lines)-1 || screen.NoWrap {
			err = fmt.Errorf("the cursor is at %d, %d of %d lines", screen.X, screen.Y, len(screen.Lines))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "terminal:", err)
		status = 99
	}
	os.Exit(status)
}

func runOnTerminal(columns uint16, cmd *exec.Cmd, out io.Writer) (status int, err error) {
	screen, terminal, err := reporttest.OpenTerminal(columns)
	if err != nil {
		return 0, err
	}
	defer screen.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	if err := errors.Join(cmd.Start(), terminal.Close()); err != nil {
		return 0, err
	}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	go func() {
		for range interrupts {
			_, _ = screen.WriteString("\x03")
		}
	}()
	// Reading fails when nobody has the terminal open any more.
	if _, err := io.Copy(out, screen); err != nil && !errors.Is(err, unix.EIO) {
		return 0, err
	}
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}
