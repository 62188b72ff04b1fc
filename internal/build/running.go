// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/tree"
)

// blameSource says in err, with which the build failed, what to do if the source went by
// the kernel that runs, or by another of its own choice. Most who do so ask uname(1),
// which tells them the kernel that is built for, unless the build is not confined. It
// says so too if the headers are of another kernel, or the source went by another name.
func (j *job) blameSource(ctx context.Context, err error) {
	var f *failure.Failure
	var other *kmod.ReleaseError
	if !errors.As(err, &f) || f.Status != failure.StatusMake && f.Status != failure.StatusNoModule {
		return
	}
	if !errors.As(err, &other) {
		end, _ := j.run.log.Seek(0, io.SeekEnd)
		said, _, err := excerpt(j.run.log, 0, end)
		if err != nil {
			return
		}
		if id := (tree.ID{Name: j.Conf.Name, Version: j.Conf.Version}); id != j.ID && bytes.Contains(said, []byte(j.Tree.BuildDir(id))) {
			f.Hint = fmt.Sprintf("its dkms.conf calls it %s, and has it build in %s: dkms remove %s --all, and add it by that name", id, j.Tree.BuildDir(id), j.ID)
			return
		}
		if k, _ := kernel.Uname(); k == j.Kernel.Release || !bytes.Contains(said, []byte("/lib/modules/"+k+"/")) {
			return
		}
	} else if other.Release == j.Kernel.HeadersRelease() {
		f.Hint = fmt.Sprintf("%s has the headers of kernel %s: install those of %s; in a kernel's source, give make the LOCALVERSION that makes it that",
			j.Kernel.SourceDir, other.Release, j.Kernel.Release)
		return
	}
	f.Hint = fmt.Sprintf("the source goes by a kernel of its own choice; its Makefile has to take the one that it is built for, %s: "+
		"in dkms.conf, hand it to make as $kernelver or $kernel_source_dir", j.Kernel.Release)
	if line := asking(ctx, j.Source, asks()); line != "" {
		f.Hint += "; it asks which kernel runs in " + line
	}
}

// part matches the line of a Makefile that begins a part for kbuild.
var part = lazy.Regexp(`^(?:else\s+)?if(?:n?eq|n?def)\b.*\bKERNELRELEASE\b`)

// without matches what make says if the part of a Makefile that it has read builds nothing.
var without = lazy.Regexp(`(?m)^make: (?:\*\*\* No (?:targets|rule to make target)|Nothing to be done for)`)

// blameRelease says in err, with which the build failed, what to do if the Makefile took its
// part for kbuild, because make was told KERNELRELEASE, and so built nothing.
func (j *job) blameRelease(ctx context.Context, err error) {
	var f *failure.Failure
	command := j.makeCommand()
	if !errors.As(err, &f) || f.Status != failure.StatusMake && f.Status != failure.StatusNoModule || !strings.Contains(command, "KERNELRELEASE=") {
		return
	}
	plain := strings.NewReplacer(`"`, "", "'", "", "{", "", "}", "").Replace(command)
	for _, dir := range []string{j.Kernel.SourceDir, "$kernel_source_dir", "/lib/modules/$kernelver/build"} {
		if strings.Contains(plain, "-C "+dir) {
			return // kbuild itself is told
		}
	}
	end, _ := j.run.log.Seek(0, io.SeekEnd)
	said, _, err := excerpt(j.run.log, 0, end)
	if err != nil || !without().Match(said) {
		return
	}
	line := asking(ctx, j.Source, part())
	if line == "" {
		return
	}
	f.Hint = fmt.Sprintf("make is told KERNELRELEASE, for which the source has another part (%s): ", line)
	switch named := strings.Contains(j.Conf.Make, "KERNELRELEASE="); {
	case named && Bare(j.Conf.Make):
		f.Hint += `leave it out of MAKE in dkms.conf, and quote make so that it is not added: MAKE[0]="'make' ..."`
	case named:
		f.Hint += "leave it out of MAKE in dkms.conf"
	default:
		f.Hint += `quote make in dkms.conf so that it is not added: MAKE[0]="'make' ..."`
	}
}

// blameSymbols says in err, with which the build failed, what to do if the kernel's headers
// do not list its symbols, or if it has only those that its own modules use.
func (j *job) blameSymbols(err error) {
	var f *failure.Failure
	if !errors.As(err, &f) || f.Status != failure.StatusMake || !strings.HasSuffix(f.Why, " undefined!") {
		return
	}
	listed, err := os.Stat(filepath.Join(j.Kernel.SourceDir, "Module.symvers"))
	switch {
	case err != nil || listed.Size() == 0:
		f.Hint = fmt.Sprintf("%s has no Module.symvers, or an empty one: install the kernel's headers again; in a kernel's source, run: make modules", j.Kernel.SourceDir)
	case j.Kernel.Option("CONFIG_TRIM_UNUSED_KSYMS") == "y":
		f.Hint = "the kernel has only the symbols that its own modules use (CONFIG_TRIM_UNUSED_KSYMS): use another kernel"
	}
}

// asks matches what asks which kernel runs.
var asks = lazy.Regexp(`\buname\b|\bosrelease\b|/proc/version\b`)

const (
	askingSize = 1 << 20 // bytes of files that asking reads
	askingLine = 200     // bytes of a line that it returns
)

// asking returns the first line that it finds in the makefiles, scripts and the dkms.conf
// of the source which what matches, as "FILE, line N: TEXT".
func asking(ctx context.Context, source string, what *regexp.Regexp) (found string) {
	errFound := errors.New("found")
	_ = files.Walk(ctx, source, func(at int, name string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > askingSize || !isScript(name) {
			return nil
		}
		file, err := openAt(at, name)
		if err != nil {
			return nil
		}
		defer file.Close()
		text, _ := io.ReadAll(io.LimitReader(file, askingSize))
		for i, line := range strings.Split(string(text), "\n") {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "#") || len(line) > askingLine || !utf8.ValidString(line) || !what.MatchString(line) {
				continue
			}
			found = fmt.Sprintf("%s, line %d: %s", name, i+1, line)
			return errFound
		}
		return nil
	})
	return found
}

func isScript(name string) bool {
	for _, prefix := range []string{"Makefile", "makefile", "GNUmakefile", "Kbuild", "configure", "dkms.conf"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasSuffix(name, ".mk") || strings.HasSuffix(name, ".sh")
}
