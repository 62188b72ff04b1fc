// SPDX-License-Identifier: GPL-2.0-or-later

// Package initramfs finds how a kernel's initramfs is made on this system. It looks for
// modules in the images that are there, and knows the commands that make them again. It
// knows nothing of where modules come from.
//
// Images are root's, but are not trusted: whatever is in one, reading it ends, in
// bounded memory.
package initramfs

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/kmod"
)

// Generator is a program that makes images.
type Generator int

// The generators that are known.
const (
	KernelInstall Generator = iota + 1
	UpdateInitramfs
	Dracut
	Mkinitcpio
	Booster
)

// String returns the name of the generator's program.
func (g Generator) String() string {
	switch g {
	case KernelInstall:
		return "kernel-install"
	case UpdateInitramfs:
		return "update-initramfs"
	case Dracut:
		return "dracut"
	case Mkinitcpio:
		return "mkinitcpio"
	case Booster:
		return "booster"
	}
	return fmt.Sprintf("Generator(%d)", int(g))
}

// Initramfs is what a kernel starts with: the images, and how they are made. [System.Find] makes one.
type Initramfs struct {
	// Release is the kernel's, as uname -r has it.
	Release string
	// Images are the files that hold it, as the system sees them, each once. A
	// generator may make several for one kernel, and some hold no modules, but for
	// example processor microcode.
	Images []string
	// Generator is the program that makes the images from the modules. If
	// [Initramfs.Commands] returns several commands, the others only pass on what it
	// made.
	Generator Generator

	root     string
	commands [][]string
	hidden   error // why there may be images that are not in Images; nil if there are none
}

// Commands returns the commands that make the images again: programs, to be looked up in
// PATH, with their arguments. They are to be run in this order, and none after one that
// failed.
func (i Initramfs) Commands() [][]string {
	var list [][]string
	for _, c := range i.commands {
		list = append(list, slices.Clone(c))
	}
	return list
}

// Carries reports whether one of the images holds one of the modules. A module's name
// may be written with dashes or underscores. It does not matter whether and how the file
// in the image is compressed. Modules of other kernels do not count.
//
// If there is an error, which says what could not be read and why, the answer is not
// known: an image may hold one of the modules.
func (i Initramfs) Carries(modules []string) (bool, error) {
	if len(modules) == 0 {
		return false, nil
	}
	wanted := map[string]bool{}
	for _, m := range modules {
		wanted[kmod.Normal(m)] = true
	}
	errs := []error{i.hidden}
	for _, image := range i.Images {
		found, opaque := false, ""
		err := readImage(filepath.Join(i.root, image), func(file string) bool {
			if module, ok := moduleIn(file, i.Release); ok {
				found = wanted[module]
			} else if slices.Contains(inner, file) {
				opaque = file
			}
			return !found
		})
		if found {
			return true, nil
		}
		if err == nil && opaque != "" {
			err = fmt.Errorf("its files are in a file system image of their own, %s", opaque)
		}
		if err != nil {
			// The others may still hold one.
			errs = append(errs, fmt.Errorf("cannot look into the initramfs %s: %w", image, err))
		}
	}
	return false, errors.Join(errs...)
}

// inner are the file system images that dracut's squash modules put all but the first
// steps into, kernel modules among it.
var inner = []string{"squash-root.img", "squashfs-root.img", "erofs-root.img", "squash/root.img"}

// moduleIn returns the normal name of the module that a file in an image holds; ok is
// false if it is not a module, or another kernel's.
func moduleIn(file, release string) (module string, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(file, "usr/"), "lib/modules/")
	if !ok {
		return "", false
	}
	// Booster puts modules into this directory itself: its images are for one kernel,
	// and their paths do not have its release.
	if of, below, ok := strings.Cut(rest, "/"); ok {
		if of != release {
			return "", false
		}
		rest = below[strings.LastIndexByte(below, '/')+1:]
	}
	name, _, ok := kmod.SplitName(rest)
	return kmod.Normal(name), ok
}
