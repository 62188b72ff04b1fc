// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A release is one of Debian's that our package takes the place of dkms in.
type release struct {
	name string
	set  func() made
}

var releases = []release{
	{"bookworm", sync.OnceValue(func() made { return mkroot("bookworm") })},
	{"trixie", coreSet},
	{"trixie-backports", sync.OnceValue(func() made { return mkroot("trixie-backports") })},
	{"forky", sync.OnceValue(func() made { return mkroot("forky") })},
}

// fewPackages are packages that every release has; all their kernels build them.
var fewPackages = []string{"acpi-call-dkms", "vpoll-dkms"}

// newReleaseRoot makes a root of a release in which apt installs packages and modules are signed, and returns its
// kernel's release. Lower are as of newRoot.
func newReleaseRoot(t *testing.T, rel release, lower ...string) (r *Root, k string) {
	t.Helper()
	r = newRoot(t, rel.set, lower...).forApt()
	for _, k := range r.Kernels() {
		// mkroot made it for kernel-install; before forky no package has it.
		r.Sh("dpkg -S /usr/lib/modules/" + k + "/vmlinuz 2>/dev/null || rm /usr/lib/modules/" + k + "/vmlinuz")
	}
	return r, r.newest()
}

// newest returns the release of the newest kernel for clouds, which is the smallest.
func (r *Root) newest() string {
	r.t.Helper()
	return strings.TrimSpace(r.Sh("cd /boot && ls -v vmlinuz-*cloud* | tail -n 1 | sed s/vmlinuz-//"))
}

// installAny installs, of the packages that the repository has, ten that are built for the kernel, and returns them.
// For some releases of dkms a package that is not for a kernel is one that fails. Those that do not ask to be built are
// left out: dkms 3.0 builds them when they are installed.
func (r *Root) installAny(k string) (packages []string) {
	r.t.Helper()
	for _, file := range r.Glob("/opt/repo/*-dkms.deb") {
		if len(packages) == 10 {
			break
		}
		pkg := strings.TrimSuffix(path.Base(file), ".deb")
		before := installedFor(r, k)
		if res := r.Run("apt-get", "install", pkg); res.Status == 0 && len(installedFor(r, k)) > len(before) &&
			r.Run("grep", "-q", "^AUTOINSTALL", "/usr/src/"+sourceFolder(r, pkg)+"/dkms.conf").Status == 0 {
			packages = append(packages, pkg)
			continue
		}
		r.Apt("purge", pkg)
	}
	return packages
}

// installedFor returns the names of the packages that are installed for a kernel, in order.
func installedFor(r *Root, k string) (names []string) {
	for what, state := range states(r) {
		name, _, _ := strings.Cut(what, "/")
		if strings.Contains(what, ", "+k+",") && state == "installed" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// throughKernels removes the kernel and its headers and installs them again, in both orders, and returns what the
// machine was like after each step.
func (r *Root) throughKernels(k string) map[string]machine {
	r.t.Helper()
	headers, image := []string{"linux-headers-" + k}, r.imagePackages(k)
	got := map[string]machine{"0 packages installed": inspect(r)}
	for _, step := range []struct {
		what, verb string
		packages   []string
	}{
		{"1 headers purged", "purge", headers},
		{"2 image purged", "purge", image},
		{"3 image installed", "install", image},
		{"4 headers installed", "install", headers},
		{"5 image purged first", "purge", image},
		{"6 headers purged last", "purge", headers},
		{"7 headers installed first", "install", headers},
		{"8 image installed last", "install", image},
	} {
		r.Apt(append([]string{step.verb}, step.packages...)...)
		got[step.what] = inspect(r)
	}
	// dkms builds for headers alone, and does not look there for how modules are compressed.
	delete(got, "7 headers installed first")
	last := got["8 image installed last"]
	got["8 image installed last"] = machine{last.Status, uncompressed(last.Files), uncompressed(last.Sources)}
	return got
}

// imagePackages returns the packages of the kernel, without its headers: newer kernels are several.
func (r *Root) imagePackages(k string) []string {
	r.t.Helper()
	return strings.Fields(r.Sh("dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-*-" + k + "' | sed -n 's/^installed //p' | grep -v headers"))
}

// comparable30 returns what dkms 3.0 has in common with later ones of what throughKernels returns: it forgets a package
// when the last kernel goes, and keeps the kernel's configuration, and no Module.symvers, with a build.
func comparable30(steps map[string]machine) map[string]machine {
	list := map[string]machine{}
	for what, m := range steps {
		if what[0] < '2' {
			files := maps.Clone(m.Files)
			maps.DeleteFunc(files, func(file string, _ Entry) bool {
				return strings.HasSuffix(file, "/log/.config") || strings.HasSuffix(file, "/module/Module.symvers")
			})
			list[what] = machine{m.Status, files, m.Sources}
		}
	}
	return list
}

// uncompressed returns a map by paths in which modules have no suffix of a compression.
func uncompressed[T any](list map[string]T) map[string]T {
	plain := map[string]T{}
	for file, value := range list {
		if name, _, ok := strings.Cut(path.Base(file), ".ko."); ok {
			file = path.Join(path.Dir(file), name+".ko")
		}
		plain[file] = value
	}
	return plain
}

// TestReleases puts our package in place of dkms on each release, with real packages, while its kernel and the headers
// come and go in both orders; and compares with dkms of that release. Without DKMS_TEST_ALL it does less.
func TestReleases(t *testing.T) {
	t.Parallel()
	all := os.Getenv("DKMS_TEST_ALL") != ""
	if all {
		t.Run("upgrade", upgradeRelease)
	}
	for _, rel := range releases {
		if rel.name == "trixie" && !all {
			continue // TestAptKernel has that
		}
		t.Run(rel.name, func(t *testing.T) {
			t.Parallel()
			packages := fewPackages
			var theirs map[string]machine
			if all {
				r, k := newReleaseRoot(t, rel)
				r.Apt("install", "dkms")
				packages = r.installAny(k)
				if len(packages) < 8 {
					t.Errorf("dkms of this release builds only %q", packages)
				}
				theirs = r.throughKernels(k)
			}

			r, k := newReleaseRoot(t, rel)
			if all {
				r.Apt("install", "dkms")
			}
			r.InstallDeb()
			r.Apt(append([]string{"install"}, packages...)...)
			want := installedFor(r, k)
			if len(want) != len(packages) {
				t.Errorf("of %q are installed only %q", packages, want)
			}
			wantAgain := func(when string) {
				t.Helper()
				if diff := cmp.Diff(want, installedFor(r, k)); diff != "" {
					t.Errorf("%s, installed are: %s", when, diff)
				}
			}
			if !all {
				r.Apt("purge", "linux-headers-"+k)
				r.Apt("install", "linux-headers-"+k)
				wantAgain("headers installed again")
				if image := r.imagePackages(k); len(image) > 1 {
					// The headers bring the list of this kernel's modules, but neither these nor the kernel.
					r.Apt(append([]string{"purge", "linux-headers-" + k}, image...)...)
					r.Apt("install", "linux-headers-"+k)
					if got := r.Glob("/usr/lib/modules/" + k + "/updates"); len(got) > 0 {
						t.Errorf("with headers alone, there is %q", got)
					}
					r.Apt(append([]string{"install"}, image...)...)
					wantAgain("image installed after headers")
				}
			} else {
				ours := r.throughKernels(k)
				wantAgain("image installed last")
				if rel.name == "bookworm" {
					theirs, ours = comparable30(theirs), comparable30(ours)
				}
				if diff := cmp.Diff(theirs, ours); diff != "" {
					t.Errorf("ours (+) differs from dkms of this release (-): %s", diff)
				}
			}
			t.Logf("%s: %s\n%s", k, r.MustRun("kernel-install", "--version"), strings.Join(statusLines(r), "\n"))

			r.MustRun("kernel-install", "remove", k)
			if got := installedFor(r, k); len(got) != 0 {
				t.Errorf("kernel-install remove leaves %q", got)
			}
			r.MustRun("kernel-install", "add", k, "/boot/vmlinuz-"+k)
			wantAgain("after kernel-install add")
		})
	}
}

// upgradeRelease upgrades bookworm to trixie with our package in it: each package is installed for the new kernel, and
// for the old one as before.
func upgradeRelease(t *testing.T) {
	t.Parallel()
	bookworm := release{"bookworm", sync.OnceValue(func() made { return mkroot("bookworm", "--next") })}
	upgrade := func(t *testing.T, install func(r *Root, k string) (packages []string)) (before, old, now []string) {
		r, k := newReleaseRoot(t, bookworm, filepath.Join(get(t, bookworm.set).dir, "next"))
		packages := install(r, k)
		t.Logf("%q", packages)
		before = installedFor(r, k)
		r.Write("/etc/apt/sources.list.d/next.list", "deb [trusted=yes] file:/opt/next ./\n", 0o644)
		r.MustRun("apt-get", "update")
		t.Log(r.Apt("dist-upgrade"))
		if newest := r.newest(); newest == k {
			t.Fatalf("no new kernel beside %s", k)
		}
		t.Logf("%s", strings.Join(statusLines(r), "\n"))
		if got := r.MustRun("sed", "-n", "s/^VERSION_CODENAME=//p", "/etc/os-release"); got != "trixie\n" {
			t.Fatalf("upgraded to %s", got)
		}
		return before, installedFor(r, k), installedFor(r, r.newest())
	}
	_, oldOfTheirs, newOfTheirs := upgrade(t, func(r *Root, k string) []string { r.Apt("install", "dkms"); return r.installAny(k) })
	before, old, now := upgrade(t, func(r *Root, k string) []string { r.InstallDeb(); return r.installAny(k) })
	if len(before) < 8 {
		t.Errorf("only %q were installed", before)
	}
	lacks := func(what string, got, want []string) {
		for _, pkg := range want {
			if !slices.Contains(got, pkg) {
				t.Errorf("%s lacks %s", what, pkg)
			}
		}
	}
	lacks("the old kernel", old, oldOfTheirs)
	lacks("the new kernel", now, newOfTheirs)
	lacks("the new kernel", now, before)
}
