// SPDX-License-Identifier: GPL-2.0-or-later

// Package reload exchanges modules that are loaded for those that are placed.
package reload

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
)

// Exchange is a list of modules to exchange: users come before what they use.
type Exchange struct {
	m    *machine.Machine
	list []module
}

// module is a module that is loaded.
type module struct {
	name string // as the kernel has it
	old  string // a file of what is loaded; "" if there is none any more
}

// Plan returns what is to be exchanged of the package s, which is installed for the running
// kernel: what is loaded and not as it is placed, and the package's modules that use such a
// one. It returns an error if anything else uses one of them.
func Plan(m *machine.Machine, s observe.Seen) (*Exchange, error) {
	x := &Exchange{m: m}
	names, err := x.due(s)
	if err == nil {
		err = x.busy(names)
	}
	if err != nil {
		return nil, err
	}
	for len(names) > 0 {
		i := slices.IndexFunc(names, func(name string) bool {
			return !slices.ContainsFunc(x.holders(name), func(user string) bool { return slices.Contains(names, user) })
		})
		if i < 0 {
			return nil, fmt.Errorf("%s use each other", strings.Join(names, ", "))
		}
		x.list = append(x.list, module{names[i], x.find(s.Name, names[i])})
		names = slices.Delete(names, i, i+1)
	}
	return x, nil
}

// Outdated returns the names of those modules in the files called paths, which are placed
// for the running kernel, of which another build is loaded.
func Outdated(m *machine.Machine, paths []string) (names []string) {
	x := &Exchange{m: m}
	for _, path := range paths {
		name := kmod.ModuleName(path)
		was := x.attribute(name, "srcversion")
		if info, err := kmod.ReadInfo(path); was != "" && err == nil && info.SrcVersion != "" && info.SrcVersion != was {
			names = append(names, name)
		}
	}
	return names
}

// due returns the names of the modules to exchange, in no order.
func (x *Exchange) due(s observe.Seen) ([]string, error) {
	k := x.m.Target(x.m.Running)
	var own []string // what is loaded of the package
	due := map[string]bool{}
	for _, mod := range observe.Placement(x.m, nil, nil, k, s).Modules {
		name := kmod.ModuleName(mod.File)
		if !x.loaded(name) {
			continue
		}
		info, err := kmod.ReadInfo(x.m.Modules(k).Path(mod))
		if err != nil {
			return nil, err
		}
		own = append(own, name)
		was := x.attribute(name, "srcversion")
		due[name] = was == "" || was != info.SrcVersion
	}
	for again := true; again; {
		again = false
		for _, name := range own {
			uses := func(used string) bool { return due[used] && slices.Contains(x.holders(used), name) }
			if !due[name] && slices.ContainsFunc(own, uses) {
				due[name], again = true, true
			}
		}
	}
	return slices.DeleteFunc(own, func(name string) bool { return !due[name] }), nil
}

// Modules returns the names of the modules to exchange.
func (x *Exchange) Modules() (names []string) {
	for _, mod := range x.list {
		names = append(names, mod.name)
	}
	return names
}

// busy returns an error if anything uses one of the modules but another of them.
func (x *Exchange) busy(names []string) error {
	var why []string
	for _, name := range names {
		users := x.holders(name)
		others := slices.DeleteFunc(slices.Clone(users), func(user string) bool { return slices.Contains(names, user) })
		if len(others) > 0 {
			why = append(why, name+" is used by "+strings.Join(others, ", "))
		}
		count, err := strconv.Atoi(x.attribute(name, "refcnt"))
		if err != nil {
			why = append(why, "this kernel does not say how often "+name+" is used, or cannot unload it")
		} else if count > len(users) {
			why = append(why, fmt.Sprintf("%s is used %d times by what is no module, such as programs, devices and file systems", name, count-len(users)))
		}
	}
	if why == nil {
		return nil
	}
	return &failure.Failure{What: "a module is busy", Why: strings.Join(why, "; "), Hint: "end what uses it and try again, or restart", Status: 1}
}

// Run unloads the modules and loads those that are placed. If one cannot be exchanged, it
// loads again what was loaded, as far as that can be found. The error then has the status
// 2, or 1 if nothing has changed. What it has begun it ends, also if ctx is canceled then.
func (x *Exchange) Run(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx)
	for i, mod := range x.list {
		if err := command(ctx, "rmmod", mod.name); err != nil {
			return x.back(ctx, mod, err, x.list[:i])
		}
	}
	for i, mod := range slices.Backward(x.list) {
		if err := x.load(ctx, module{name: mod.name}); err != nil {
			for _, fresh := range x.list[i+1:] {
				err = errors.Join(err, command(ctx, "rmmod", fresh.name))
			}
			return x.back(ctx, mod, err, x.list)
		}
	}
	return nil
}

// back loads again what was unloaded, and returns the error for that mod could not be
// exchanged.
func (x *Exchange) back(ctx context.Context, mod module, err error, unloaded []module) error {
	f := &failure.Failure{What: mod.name + " could not be exchanged", Status: 1, Err: err, Hint: "dmesg may say more"}
	why := []string{failure.Line(err.Error())}
	for _, was := range slices.Backward(unloaded) {
		f.Status = 2
		if err := x.load(ctx, was); err != nil {
			why = append(why, was.name+" is not loaded any more: "+err.Error())
		} else if was.old != "" {
			why = append(why, was.name+" is loaded again from "+was.old)
		} else {
			why = append(why, was.name+" is loaded as it is placed")
		}
	}
	f.Why = strings.Join(why, "; ")
	return f
}

// load loads mod: the old one if its file is known, else what is placed.
func (x *Exchange) load(ctx context.Context, mod module) error {
	args := []string{"modprobe", mod.name}
	if mod.old != "" {
		args = []string{"insmod", mod.old}
	}
	err := command(ctx, args...)
	if err == nil && !x.loaded(mod.name) {
		err = errors.New(strings.Join(args, " ") + " has not loaded it")
	}
	return err
}

// find returns a file of the module called name that is loaded: in what the tree has of the
// versions of the package pkg and of what made way for them, or in the kernel's directory.
func (x *Exchange) find(pkg, name string) (found string) {
	was := x.attribute(name, "srcversion")
	for _, dir := range []string{filepath.Join(x.m.Tree.Dir, pkg), x.m.Kernel(x.m.Target(x.m.Running)).Dir} {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			base, _, ok := kmod.SplitName(filepath.Base(path))
			if err != nil || !ok || kmod.Normal(base) != name || was == "" {
				return nil
			}
			if info, err := kmod.ReadInfo(path); err == nil && info.SrcVersion == was && info.Release() == x.m.Running {
				found = path
				return fs.SkipAll
			}
			return nil
		})
		if found != "" {
			break
		}
	}
	return found
}

func (x *Exchange) path(name, attribute string) string {
	return x.m.Path(filepath.Join("/sys/module", name, attribute))
}

func (x *Exchange) loaded(name string) bool { return files.Exists(x.path(name, "")) }

// attribute returns what the kernel says of a module; "" if it says nothing.
func (x *Exchange) attribute(name, attribute string) string {
	text, _ := os.ReadFile(x.path(name, attribute))
	return strings.TrimSpace(string(text))
}

// holders returns the modules that use the one of that name.
func (x *Exchange) holders(name string) (users []string) {
	entries, _ := os.ReadDir(x.path(name, "holders"))
	for _, e := range entries {
		users = append(users, e.Name())
	}
	return users
}

// command runs a program, and returns an error with its last line if it fails.
func command(ctx context.Context, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := child.Run(ctx, cmd); err != nil {
		text := strings.TrimSpace(out.String())
		return fmt.Errorf("%s: %s", strings.Join(args, " "), cmp.Or(text[strings.LastIndex(text, "\n")+1:], err.Error()))
	}
	return nil
}
