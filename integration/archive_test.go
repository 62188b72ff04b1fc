// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestArchives checks that our program and Debian's dkms load each other's archives, and name them alike.
func TestArchives(t *testing.T) {
	t.Parallel()
	r := NewRoot(t)
	r.InstallProgram()
	m, v := r.Unpack("dkms-test-dkms")
	r.Sh("ln -s ../../share/doc/README /usr/src/" + m + "-" + v + "/README; ln -s Makefile /usr/src/" + m + "-" + v + "/Makefile.link")
	id, tarballs := m+"/"+v, "/var/lib/dkms/"+m+"/"+v+"/tarball/"
	kernels := r.Kernels()
	ours := func(args ...string) Result { return r.Run(append([]string{"dkms"}, args...)...) }
	for _, side := range []struct {
		name        string
		make, loads func(...string) Result
		// Debian's dkms 3.2.2 loads one build of an archive, even of its own, and stops: it sets a constant twice.
		onlyFirst bool
	}{
		{"ours to Debian's", ours, r.Peer, true},
		{"Debian's to ours", r.Peer, ours, false},
	} {
		t.Run(side.name, func(t *testing.T) {
			must := func(res Result) string {
				t.Helper()
				if res.Status != 0 {
					t.Fatal(res)
				}
				return res.Stdout
			}
			// What both print, whichever made the archive.
			state := func() (string, string) {
				t.Helper()
				a, b := must(ours("status")), must(r.Peer("status"))
				if a != b {
					t.Errorf("status of ours:\n%sof Debian's:\n%s", a, b)
				}
				return a, r.Sh("cd /; find usr/src/" + m + "-" + v + " var/lib/dkms/" + m + " -type f ! -name '.*' -path '*/module/*' -o -type f -path '*/src/*' | sort | xargs sha256sum")
			}
			remove := func() {
				t.Helper()
				must(ours("remove", id, "--all"))
				if r.Exists("/var/lib/dkms/" + m) {
					t.Errorf("remove left %s", r.Sh("find /var/lib/dkms"))
				}
			}
			must(side.make("add", id))
			must(side.make("build", id, "-k", kernels[0], "-k", kernels[1]))
			status, files := state()
			if strings.Count(status, ": built\n") != 2 {
				t.Fatalf("status: %s", status)
			}
			link := ""
			if side.name == "Debian's to ours" {
				// Our program does not load an archive with a link that leads out of it.
				must(side.make("mktarball", id, "--all", "--archive", "/root/link.tar.gz"))
				link = "/root/link.tar.gz"
				r.Sh("mv /usr/src/" + m + "-" + v + "/README /root")
			}

			r.Sh("rm -rf /root/archives; mkdir /root/archives")
			names := map[string]string{}
			for _, a := range []struct{ name, args string }{
				{"all", "--all"},
				{"one", "-k " + kernels[1]},
				{"both", "-k " + kernels[1] + " -k " + kernels[0] + "/x86_64"},
				{"source", "--source-only --all"},
				{"binaries", "--binaries-only --all"},
				{"named", "--all --archive named.tar.gz"},
				{"xz", "--all --archive /root/archives/xz.tar.xz"},
				{"plain", "--all --archive /root/archives/plain.tar"},
			} {
				must(side.make(append([]string{"mktarball", id}, strings.Fields(a.args)...)...))
				_, file, _ := strings.Cut(a.args, "--archive ")
				if !path.IsAbs(file) {
					made := r.Glob(tarballs + "*")
					if len(made) != 1 {
						t.Fatalf("mktarball %s made %q", a.args, made)
					}
					file = made[0]
					names[a.name] = path.Base(file)
				}
				if to := "/root/archives/" + a.name + suffix(file, names[a.name]); to != file {
					r.MustRun("mv", file, to)
				}
			}
			of := func(list ...string) string {
				name := m + "-" + v
				for _, k := range list {
					name += "-kernel" + k + "-x86_64"
				}
				return name + ".dkms.tar.gz"
			}
			want := map[string]string{
				"all": of(kernels...), "one": of(kernels[1]), "both": of(kernels[1], kernels[0]),
				"source": m + "-" + v + "-source-only.dkms.tar.gz", "binaries": of(kernels...), "named": "named.tar.gz",
			}
			if diff := cmp.Diff(want, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}

			// Everything is as it was before.
			remove()
			source := "/usr/src/" + m + "-" + v
			r.Sh("rm -rf /root/source; mv " + source + " /root/source")
			for _, file := range r.Glob("/root/archives/*") {
				name, _, _ := strings.Cut(path.Base(file), ".")
				if name == "binaries" {
					// These archives need the source to be there.
					r.Sh("cp -a /root/source " + source)
				}
				must(side.loads("ldtarball", file))
				gotStatus, gotFiles := state()
				switch name {
				case "source":
					if gotStatus != id+": added\n" {
						t.Errorf("%s: status: %s", name, gotStatus)
					}
				case "one":
					if want := fmt.Sprintf("%s, %s, x86_64: built\n", id, kernels[1]); gotStatus != want {
						t.Errorf("%s: status: %s", name, gotStatus)
					}
				default:
					status, files := status, files
					if side.onlyFirst {
						status, files = without(status, kernels[1]), without(files, kernels[1])
					}
					if gotStatus != status {
						t.Errorf("%s: status: %s", name, gotStatus)
					}
					if diff := cmp.Diff(files, gotFiles); diff != "" {
						t.Errorf("%s: files (-before +after):\n%s", name, diff)
					}
				}
				if target := r.Sh("readlink " + source + "/Makefile.link || true"); target != "Makefile\n" {
					t.Errorf("%s: a link in the source leads to %q", name, target)
				}
				if name == "one" {
					must(side.loads("install", id, "-k", kernels[1]))
					if !r.Exists("/usr/lib/modules/" + kernels[1] + "/updates/dkms/dkms_test.ko.xz") {
						t.Errorf("%s: not installed: %s", name, r.Sh("find /usr/lib/modules/*/updates"))
					}
				}
				remove()
				r.Sh("rm -rf " + source)
			}
			if link != "" {
				if res := ours("ldtarball", link); res.Status != 9 || !strings.Contains(res.Stderr, `README": it is a symbolic link to`) {
					t.Errorf("an archive with a link that leads out: %v", res)
				}
				if r.Exists(source) || r.Exists("/var/lib/dkms/"+m) {
					t.Error("it left something behind")
				}
				r.Sh("mv /root/README /root/source")
			}
			r.Sh("mv /root/source " + source)
		})
	}
}

// without returns the lines of text that do not name kernel k.
func without(text, k string) string {
	var left strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, k) {
			left.WriteString(line)
		}
	}
	return left.String()
}

// suffix returns the suffix of an archive: that of the chosen name, or if that is empty, of file.
func suffix(file, chosen string) string {
	for _, s := range []string{".tar.gz", ".tar.xz", ".tar"} {
		if strings.HasSuffix(chosen, s) || chosen == "" && strings.HasSuffix(file, s) {
			return s
		}
	}
	return ""
}
