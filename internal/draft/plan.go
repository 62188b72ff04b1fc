// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Plan finds out how the modules of specs are built, and says in notes what it had to
// decide.
//
// The directory's Makefile builds a module, with the target of the spec or else the
// first of modules, module, NAME.ko, default and all that it has a rule for, which is
// the eclass's order. If nothing is said of how, neither target nor args, and the
// directory's Kbuild file has the module in obj-m, kbuild builds it: Makefiles tend to
// build for the kernel that runs, and kbuild for the one it is called for.
func Plan(root *os.Root, specs []Spec, args []string) (c Conf, notes []string, err error) {
	t, end, err := open(root, args)
	if err != nil {
		return c, nil, err
	}
	defer end()
	c.Args = args
	for _, s := range specs {
		if slices.ContainsFunc(c.Modules, func(m Module) bool { return m.Name == s.Name }) {
			return c, nil, fmt.Errorf("module %s is there twice", s.Name)
		}
		step, asks, err := t.step(s, len(args) > 0)
		if err != nil {
			return c, nil, err
		}
		makefile := path.Join(s.Source, "Makefile")
		if asks && !c.NoKernelRelease {
			c.NoKernelRelease = true
			notes = append(notes, makefile+": what it does depends on KERNELRELEASE, which make is therefore not given")
		}
		if !step.Kbuild && !slices.ContainsFunc(args, hasReference) {
			notes = append(notes, makefile+": no argument of make says which kernel to build for, so that is up to it; compare: --make-arg KDIR='${kernel_source_dir}'")
		}
		if !slices.Contains(c.Steps, step) {
			c.Steps = append(c.Steps, step)
		}
		c.Modules = append(c.Modules, s.Module)
	}
	return c, slices.Compact(notes), nil
}

var (
	asksRelease = regexp.MustCompile(`(?m)^[ \t]*(?:else[ \t]+)?if(?:n?eq|n?def)\b.*\bKERNELRELEASE\b`)
	ruleLine    = regexp.MustCompile(`(?m)^([A-Za-z0-9_.][^:=#\n]*?)[ \t]*::?(?:[^:=]|$)`)
)

// step finds out how a module is built, and whether the Makefile asks for
// KERNELRELEASE.
func (t *tree) step(s Spec, args bool) (step Step, asks bool, err error) {
	t.entry = s.Source
	modules, lists := t.dir(s.Source, nil)
	known := slices.ContainsFunc(modules, func(m Module) bool { return m.Name == s.Name && m.Dir == s.Dir })
	_, text, err := first(t.root, s.Source, "GNUmakefile", "makefile", "Makefile")
	if known && !args && s.Target == "" || lists && err != nil {
		return Step{Dir: s.Source, Kbuild: true, Target: cmp.Or(s.Target, "modules")}, false, nil
	}
	if err != nil {
		return step, false, fmt.Errorf("module %s: %s has no Makefile", s.Name, s.Source)
	}
	var rules []string
	for _, m := range ruleLine.FindAllStringSubmatch(text, -1) {
		rules = append(rules, strings.Fields(m[1])...)
	}
	step = Step{Dir: s.Source, Target: s.Target}
	for _, target := range []string{"modules", "module", s.Name + ".ko", "default", "all"} {
		if step.Target == "" && slices.Contains(rules, target) {
			step.Target = target
		}
	}
	return step, asksRelease.MatchString(text), nil
}
