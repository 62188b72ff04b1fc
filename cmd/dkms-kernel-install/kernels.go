package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// The actions of the dkms face that are about one kernel and many packages.

// kernel returns the one kernel that the action is about.
func (c *classicRun) kernel() (tree.Target, error) {
	if c.All {
		return tree.Target{}, usage(failure.StatusNoAll, "%s does not take --all", c.Action)
	}
	if n := len(c.Kernelver); n > 1 || n == 0 && strings.HasPrefix(c.Action, "kernel_") {
		return tree.Target{}, usage(failure.StatusNoConf, "%s takes one -k", c.Action)
	}
	ks, err := c.kernels()
	if err != nil {
		return tree.Target{}, err
	}
	return ks[0], nil
}

func (c *classicRun) autoinstall() error {
	_, err := c.installAll()
	return err
}

// installAll installs what wants automatic work for one kernel.
func (c *classicRun) installAll() ([]engine.Result, error) {
	k, err := c.kernel()
	if err != nil {
		return nil, err
	}
	if file := c.e.Disabled(); file != "" {
		c.text.Note(file + " exists: nothing is done automatically")
		return nil, nil
	}
	unlock, err := c.e.Lock(c.ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	results, err := c.e.Work(c.ctx, []tree.Target{k}, plan.Request{Goal: plan.Installed}, nil)
	if err != nil {
		return nil, err
	}
	err = c.worst(results)
	var f *failure.Failure
	switch {
	case !errors.As(err, &f):
		return results, nil
	case f.Status == failure.StatusHeaders:
		return results, err
	case slices.ContainsFunc(results, func(r engine.Result) bool {
		return r.Outcome == engine.Failed && r.Failure.Status != failure.StatusNoConf // nothing to try
	}):
		return results, told{&failure.Failure{What: "some packages failed", Status: failure.StatusAutoinstall}}
	}
	return results, nil // packages that do not want this kernel are no failure
}

// match installs for one kernel what is installed for another.
func (c *classicRun) match() error {
	if c.Templatekernel == "" {
		return usage(failure.StatusUsage, "match needs --templatekernel")
	}
	k, err := c.kernel()
	if err != nil {
		return err
	}
	release, arch, given := strings.Cut(c.Templatekernel, "/")
	if !given {
		arch = k.Arch
	}
	template := tree.Target{Release: release, Arch: arch}
	if template == k {
		return usage(failure.StatusNotFound, "--templatekernel and -k are the same kernel")
	}
	only, err := c.name()
	if err != nil {
		return err
	}
	unlock, err := c.e.Lock(c.ctx)
	if err != nil {
		return err
	}
	defer unlock()
	packages, err := c.e.Tree.Read()
	if err != nil {
		return err
	}
	if only.Name != "" && !slices.ContainsFunc(packages, func(p tree.Package) bool { return p.Name == only.Name }) {
		return &failure.Failure{What: only.Name + " is not in the DKMS tree", Status: failure.StatusAlready, Hint: "dkms status shows what is"}
	}
	ids := []tree.ID{}
	for _, p := range packages {
		b, _ := p.Build(template)
		if b.Installed && (only.Name == "" || p.Name == only.Name) && (only.Version == "" || p.ID.Version == only.Version) {
			ids = append(ids, p.ID)
		}
	}
	if len(ids) == 0 {
		c.text.Note("nothing is installed for " + template.String())
		return nil
	}
	results, err := c.e.Work(c.ctx, []tree.Target{k}, plan.Request{Only: ids, Goal: plan.Installed}, nil)
	if err != nil {
		return err
	}
	return c.worst(results)
}

// generateMOK makes the key that modules are signed with, where there is none.
func (c *classicRun) generateMOK() error {
	k := c.e.Target(c.e.Running)
	unlock, err := c.e.Lock(c.ctx)
	if err != nil {
		return err
	}
	defer unlock()
	key, cert, made, err := c.e.GenerateKey(k)
	if err != nil {
		return err
	}
	state := "is there already"
	if made {
		state = "made"
	}
	c.text.Note("signing key " + state + ": " + key)
	if cert != "" {
		c.text.Note(fmt.Sprintf("certificate %s: %s; to enroll it for Secure Boot: mokutil --import %[2]s", state, cert))
	}
	return nil
}

// kernelPreinst takes back, before a kernel is unpacked, what would be built
// again for it: a kernel of the same release may have been there.
func (c *classicRun) kernelPreinst() error {
	return c.takeBack(func(k tree.Target) ([]engine.Result, error) {
		packages, err := c.e.Tree.Read()
		if err != nil {
			return nil, err
		}
		var ids []tree.ID
		for _, p := range packages {
			if _, built := p.Build(k); !built || p.Source == "" {
				continue
			}
			if conf, err := c.e.Conf(p.ID, k); err == nil && conf.Autoinstall {
				ids = append(ids, p.ID)
			}
		}
		return c.e.Remove(c.ctx, ids, func(t tree.Target) bool { return t == k }, engine.Unbuild, nil)
	})
}

// kernelPrerm takes back everything for a kernel that goes.
func (c *classicRun) kernelPrerm() error {
	return c.takeBack(func(k tree.Target) ([]engine.Result, error) {
		return c.e.RemoveKernel(c.ctx, k.Release, nil)
	})
}

// takeBack is what kernelPreinst and kernelPrerm have in common.
func (c *classicRun) takeBack(remove func(tree.Target) ([]engine.Result, error)) error {
	k, err := c.kernel()
	if err != nil {
		return err
	}
	unlock, err := c.e.Lock(c.ctx)
	if err != nil {
		return err
	}
	defer unlock()
	results, err := remove(k)
	if err != nil {
		return err
	}
	if c.worst(results) != nil {
		return told{&failure.Failure{What: "some packages failed", Status: failure.StatusKernelHook}}
	}
	return nil
}

// kernelPostinst is autoinstall, but that a required package which failed ends
// with another status: the kernel hook then stops.
func (c *classicRun) kernelPostinst() error {
	results, err := c.installAll()
	for _, r := range results {
		if c.e.Settings.Required(r.Name) && missing(r) {
			c.text.Note(fmt.Sprintf("%s is required (required_packages in framework.conf)", r.ID))
			return told{&failure.Failure{What: r.ID.String() + " is required", Status: failure.StatusUsage}}
		}
	}
	return err
}
