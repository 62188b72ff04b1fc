// SPDX-License-Identifier: GPL-2.0-or-later

package initramfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// root is a system that a test makes: files by path, with their content. Programs are in /usr/bin, links have a content
// that begins with "-> ".
type root map[string]string

func (r root) make(t testing.TB) System {
	t.Helper()
	t.Setenv("PATH", "/usr/local/bin::relative:/usr/bin")
	s := System{Root: t.TempDir()}
	for name, content := range r {
		file := filepath.Join(s.Root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, file)
		} else if strings.HasPrefix(name, "/usr/bin/") {
			err = os.WriteFile(file, nil, 0o755)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(file, 0o755)
		} else {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

const (
	image    = "an image"
	token    = "0123456789abcdef0123456789abcdef"
	vmlinuz  = "/lib/modules/" + k + "/vmlinuz"
	pkgbase  = "/lib/modules/" + k + "/pkgbase"
	initrd   = "/boot/initrd.img-" + k
	fedoras  = "/boot/initramfs-" + k + ".img"
	entryDir = "/boot/" + token + "/" + k
)

var every = root{
	"/usr/bin/kernel-install": "", "/usr/bin/update-initramfs": "", "/usr/bin/dracut": "", "/usr/bin/mkinitcpio": "", "/usr/bin/booster": "",
}

const preset = `# mkinitcpio preset file for the 'linux' package

#ALL_config="/etc/mkinitcpio.conf"
ALL_kver="/boot/vmlinuz-linux"

PRESETS=('default' 'fallback')

#default_config="/etc/mkinitcpio.conf"
default_image="/boot/initramfs-linux.img"
default_uki=/efi/EFI/Linux/arch-linux.efi  # both
#default_options="--splash /usr/share/systemd/bootctl/splash-arch.bmp"
fallback_image='/boot/initramfs-linux-fallback.img'
fallback_options="-S autodetect"
`

func TestFind(t *testing.T) {
	type made struct {
		Generator Generator
		Images    []string
		Commands  [][]string
	}
	ki := func(args ...string) []string { return append([]string{"kernel-install", "add", k}, args...) }
	ui := []string{"update-initramfs", "-u", "-k", k}
	dr := func(image string) []string { return []string{"dracut", "--force", "--kver", k, image} }
	for name, c := range map[string]struct {
		root root
		add  root // to it
		want *made
	}{
		"nothing at all":                {root: root{}},
		"programs only":                 {root: every},
		"an image, and no program":      {root: root{initrd: image, fedoras: image}},
		"of another kernel":             {root: every, add: root{initrd + "-x": image, "/boot/initrd.img-6.12.1": image, "/boot/initramfs-" + k + ".img.old": image}},
		"a program that cannot run":     {root: root{"/usr/local/bin/dracut": "", fedoras: image}},
		"a program not in PATH":         {root: root{"/opt/dracut": "", fedoras: image}},
		"a directory, called as images": {root: every, add: root{initrd + "/": "", fedoras + "/": ""}},

		"kernel-install: entry with initrd": {
			root: every,
			add: root{
				"/etc/machine-id": token + "\n", vmlinuz: "", initrd: image,
				"/boot/loader/entries/" + token + "-" + k + ".conf": "title x\nlinux /" + token + "/" + k + "/linux\ninitrd   /microcode.img\ninitrd /" + token + "/" + k + "/initrd /gone\n",
				entryDir + "/linux": "", entryDir + "/initrd": image, "/boot/microcode.img": image,
			},
			want: &made{KernelInstall, []string{entryDir + "/initrd", "/boot/microcode.img"}, [][]string{ki(vmlinuz)}},
		},
		"kernel-install: directory only, token of a file": {
			root: every,
			add:  root{"/etc/kernel/entry-token": "mine\n", "/efi/mine/" + k + "/linux": "", "/efi/mine/" + k + "/initrd-2": image, "/boot/vmlinuz-" + k: ""},
			want: &made{KernelInstall, []string{"/efi/mine/" + k + "/initrd-2"}, [][]string{ki("/boot/vmlinuz-" + k)}},
		},
		"kernel-install: named after os-release, no kernel": {
			root: every,
			add:  root{"/usr/lib/os-release": "NAME=\"A $ B\"\nID=debian\n", "/boot/efi/debian/" + k + "/initrd": image},
			want: &made{KernelInstall, []string{"/boot/efi/debian/" + k + "/initrd"}, [][]string{ki()}},
		},
		"kernel-install: $BOOT is a directory of the root file system": {
			root: every,
			add: root{"/etc/machine-id": token, vmlinuz: "", entryDir + "/initrd": image,
				"/boot/loader/entries/" + token + "-" + k + ".conf": "initrd " + entryDir + "/initrd\n"},
			want: &made{KernelInstall, []string{entryDir + "/initrd"}, [][]string{ki(vmlinuz)}},
		},
		"kernel-install: Fedora's entry": {
			root: every,
			add: root{"/etc/machine-id": token, vmlinuz: "", fedoras: image,
				"/boot/loader/entries/" + token + "-" + k + ".conf": "initrd /initramfs-" + k + ".img $tuned_initrd\n"},
			want: &made{KernelInstall, []string{fedoras}, [][]string{ki(vmlinuz)}},
		},
		"kernel-install: counted entry": {
			root: every,
			add: root{"/etc/machine-id": token, vmlinuz: "", "/efi/x.img": image,
				"/efi/loader/entries/" + token + "-" + k + "+2-1.conf": "initrd /x.img\n"},
			want: &made{KernelInstall, []string{"/efi/x.img"}, [][]string{ki(vmlinuz)}},
		},
		"kernel-install: unified": {
			root: every,
			add:  root{"/etc/machine-id": token, vmlinuz: "", "/efi/EFI/Linux/" + token + "-" + k + "+3.efi": image},
			want: &made{KernelInstall, []string{"/efi/EFI/Linux/" + token + "-" + k + "+3.efi"}, [][]string{ki(vmlinuz)}},
		},
		"kernel-install: BOOT_ROOT and MACHINE_ID of install.conf": {
			root: every,
			add: root{"/etc/kernel/install.conf": "layout=bls\nBOOT_ROOT=/mnt/esp/\nMACHINE_ID=abc\n", "/usr/lib/kernel/install.conf": "BOOT_ROOT=/x",
				"/mnt/esp/abc/" + k + "/linux": "", "/mnt/esp/abc/" + k + "/initrd": image, vmlinuz: ""},
			want: &made{KernelInstall, []string{"/mnt/esp/abc/" + k + "/initrd"}, [][]string{ki(vmlinuz)}},
		},
		"kernel-install: entry without initrd": {
			root: every,
			add:  root{"/etc/machine-id": token, vmlinuz: "", "/boot/loader/entries/" + token + "-" + k + ".conf": "linux /x\n"},
		},
		"entries of other kernels, systems and programs": {
			root: every,
			add: root{
				"/etc/machine-id": token, vmlinuz: "", fedoras: image,
				"/boot/loader/entries/" + token + "-" + k + "-cloud.conf":       "initrd /other.img\n",
				"/boot/loader/entries/" + token + "-" + k + "+deb13-amd64.conf": "initrd /other.img\n",
				"/boot/loader/entries/" + token + "-" + k + "+.conf":            "initrd /other.img\n",
				"/boot/loader/entries/" + token + "-6.12.1.conf":                "initrd /other.img\n",
				"/boot/loader/entries/fedc-" + k + ".conf":                      "initrd /other.img\n",
				"/boot/other.img":                  image,
				"/boot/" + token + "/6.12.1/linux": "",
				"/boot/fedc/" + k + "/linux":       "",
				entryDir + "/linux-0123abc":        "",
				entryDir + "/initrd-0123abc":       image,
			},
			want: &made{Dracut, []string{fedoras}, [][]string{dr(fedoras)}},
		},
		"kernel-install is not there": {
			root: root{"/usr/bin/dracut": "", "/etc/machine-id": token, entryDir + "/linux": "", entryDir + "/initrd": image, fedoras: image},
			want: &made{Dracut, []string{fedoras}, [][]string{dr(fedoras)}},
		},

		"Debian: systemd-boot and initramfs-tools": {
			root: root{"/usr/bin/kernel-install": "", "/usr/bin/bootctl": "", "/usr/bin/update-initramfs": "",
				"/usr/lib/kernel/install.d/55-initrd.install": "", "/etc/initramfs/post-update.d/systemd-boot": "", "/etc/machine-id": token,
				initrd: image, entryDir + "/linux": "", entryDir + "/initrd.img-" + k: image},
			want: &made{UpdateInitramfs, []string{entryDir + "/initrd.img-" + k, initrd}, [][]string{ui}},
		},
		"Debian: systemd-boot and dracut": {
			root: root{"/usr/bin/kernel-install": "", "/usr/bin/bootctl": "", "/usr/bin/dracut": "",
				"/usr/lib/kernel/install.d/55-initrd.install": "", "/etc/initramfs/post-update.d/systemd-boot": "", "/etc/machine-id": token,
				initrd: image, entryDir + "/linux": "", entryDir + "/initrd.img-" + k: image},
			want: &made{Dracut, []string{entryDir + "/initrd.img-" + k, initrd}, [][]string{dr(initrd)}},
		},
		"Debian: kernel-install copies, and nothing calls it": {
			root: root{"/usr/bin/kernel-install": "", "/usr/bin/update-initramfs": "", "/usr/lib/kernel/install.d/85-initrd.install": "",
				"/etc/machine-id": token, "/boot/vmlinuz-" + k: "", initrd: image, entryDir + "/linux": "", entryDir + "/initrd.img-" + k: image},
			want: &made{UpdateInitramfs, []string{entryDir + "/initrd.img-" + k, initrd}, [][]string{ui, ki("/boot/vmlinuz-"+k, initrd)}},
		},
		"Debian: the copying plugin is masked": {
			root: root{"/usr/bin/kernel-install": "", "/usr/bin/dracut": "", "/usr/lib/kernel/install.d/55-initrd.install": "",
				"/etc/kernel/install.d/55-initrd.install": "-> /dev/null",
				"/etc/machine-id":                         token, vmlinuz: "", initrd: image, entryDir + "/linux": "", entryDir + "/initrd": image},
			want: &made{KernelInstall, []string{entryDir + "/initrd"}, [][]string{ki(vmlinuz)}},
		},
		"Debian: nothing was made to be copied": {
			root: root{"/usr/bin/kernel-install": "", "/usr/bin/dracut": "", "/usr/lib/kernel/install.d/55-initrd.install": "",
				"/etc/machine-id": token, vmlinuz: "", entryDir + "/linux": "", entryDir + "/initrd": image},
			want: &made{KernelInstall, []string{entryDir + "/initrd"}, [][]string{ki(vmlinuz)}},
		},

		"update-initramfs": {
			root: every, add: root{initrd: image, vmlinuz: "", fedoras: image},
			want: &made{UpdateInitramfs, []string{initrd}, [][]string{ui}},
		},
		"dracut: Debian":  {root: root{"/usr/bin/kernel-install": "", "/usr/bin/dracut": "", initrd: image}, want: &made{Dracut, []string{initrd}, [][]string{dr(initrd)}}},
		"dracut: SUSE":    {root: every, add: root{"/boot/initrd-" + k: image}, want: &made{Dracut, []string{"/boot/initrd-" + k}, [][]string{dr("/boot/initrd-" + k)}}},
		"dracut: several": {root: root{"/usr/bin/dracut": "", initrd: image, fedoras: image}, want: &made{Dracut, []string{fedoras, initrd}, [][]string{dr(fedoras), dr(initrd)}}},
		"dracut: unified": {
			root: every,
			add: root{"/etc/machine-id": token, "/boot/EFI/Linux/linux-" + k + "-" + token + "-7.efi": image,
				"/boot/EFI/Linux/linux-" + k + "-x-" + token + ".efi": image},
			want: &made{Dracut, []string{"/boot/EFI/Linux/linux-" + k + "-" + token + "-7.efi"},
				[][]string{{"dracut", "--force", "--uefi", "--kver", k, "/boot/EFI/Linux/linux-" + k + "-" + token + "-7.efi"}}},
		},
		"dracut: Arch": {
			root: root{"/usr/bin/dracut": "", pkgbase: "linux\n", "/boot/initramfs-linux.img": image},
			want: &made{Dracut, []string{"/boot/initramfs-linux.img"}, [][]string{dr("/boot/initramfs-linux.img")}},
		},

		"mkinitcpio: preset": {
			root: every,
			add: root{pkgbase: "linux\n", "/etc/mkinitcpio.d/linux.preset": preset,
				"/boot/initramfs-linux.img": image, "/boot/initramfs-linux-fallback.img": image, "/efi/EFI/Linux/arch-linux.efi": image},
			want: &made{Mkinitcpio, []string{"/boot/initramfs-linux.img", "/efi/EFI/Linux/arch-linux.efi", "/boot/initramfs-linux-fallback.img"},
				[][]string{{"mkinitcpio", "-p", "linux"}}},
		},
		"mkinitcpio: preset with nothing in it": {
			root: every,
			add: root{pkgbase: "linux", "/etc/mkinitcpio.d/linux.preset": "#\n", "/boot/initramfs-linux.img": image,
				"/efi/EFI/Linux/arch-linux-fallback.efi": image},
			want: &made{Mkinitcpio, []string{"/boot/initramfs-linux.img", "/efi/EFI/Linux/arch-linux-fallback.efi"}, [][]string{{"mkinitcpio", "-p", "linux"}}},
		},
		"mkinitcpio: preset, no images": {root: every, add: root{pkgbase: "linux", "/etc/mkinitcpio.d/linux.preset": preset}},
		"mkinitcpio: no preset": {
			root: root{"/usr/bin/mkinitcpio": "", pkgbase: "linux", "/boot/initramfs-linux.img": image, fedoras: image},
			want: &made{Mkinitcpio, []string{fedoras, "/boot/initramfs-linux.img"},
				[][]string{{"mkinitcpio", "-k", k, "-g", fedoras}, {"mkinitcpio", "-k", k, "-g", "/boot/initramfs-linux.img"}}},
		},
		"booster": {
			root: every, add: root{pkgbase: "linux-lts", "/boot/booster-linux-lts.img": image, "/boot/booster-linux.img": image},
			want: &made{Booster, []string{"/boot/booster-linux-lts.img"}, [][]string{{"booster", "build", "--force", "--kernel-version", k, "/boot/booster-linux-lts.img"}}},
		},
		"booster: two versions of a package, the newer in use": {
			root: every, add: root{pkgbase: "linux", vmlinuz: "old", "/lib/modules/6.13/pkgbase": "linux\n", "/lib/modules/6.13/vmlinuz": "new",
				"/boot/vmlinuz-linux": "new", "/boot/booster-linux.img": image},
		},
		"booster: two versions of a package, this one in use": {
			root: every, add: root{pkgbase: "linux", vmlinuz: "new", "/lib/modules/6.11/pkgbase": "linux\n", "/lib/modules/6.11/vmlinuz": "old",
				"/boot/vmlinuz-linux": "new", "/boot/booster-linux.img": image},
			want: &made{Booster, []string{"/boot/booster-linux.img"}, [][]string{{"booster", "build", "--force", "--kernel-version", k, "/boot/booster-linux.img"}}},
		},
		"a package's name that leads elsewhere": {
			root: every, add: root{pkgbase: "../x", "/boot/x.img": image, "/etc/x.preset": preset, "/boot/booster-/": "", "/boot/initramfs-linux.img": image},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := root{}
			for _, m := range []root{c.root, c.add} {
				for file, content := range m {
					r[file] = content
				}
			}
			i, ok, err := r.make(t).Find(k)
			if err != nil {
				t.Fatal(err)
			}
			var got *made
			if ok {
				got = &made{i.Generator, i.Images, i.Commands()}
				if i.Release != k {
					t.Errorf("release %q", i.Release)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestFindAndLook shows that images are looked for and into below Root.
func TestFindAndLook(t *testing.T) {
	s := root{"/usr/bin/dracut": "", fedoras: string(gzipped(archive()))}.make(t)
	i, ok, err := s.Find(k)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if carries, err := i.Carries([]string{"acpi-call"}); !carries || err != nil {
		t.Errorf("carries: %v, %v", carries, err)
	}
	if list, err := modulesOf(i); !slices.Equal(list, names(archiveModules)) || err != nil {
		t.Errorf("modules: %q, %v", list, err)
	}
}

// TestHiddenImages shows that a preset that only bash can read does not make an image pass for one that carries nothing.
func TestHiddenImages(t *testing.T) {
	s := root{"/usr/bin/mkinitcpio": "", pkgbase: "linux", "/etc/mkinitcpio.d/linux.preset": "PRESETS=(a)\na_image=\"/boot/$x.img\"\n"}.make(t)
	i, ok, err := s.Find(k)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if carries, err := i.Carries([]string{"zfs"}); carries || err == nil || !strings.Contains(err.Error(), "linux.preset") {
		t.Errorf("carries: %v, %v", carries, err)
	}
}

func TestModulesFolder(t *testing.T) {
	s := root{"/usr/bin/kernel-install": "", "/opt/modules/" + k + "/vmlinuz": "", "/boot/Default/" + k + "/initrd": image}.make(t)
	s.Modules = "/opt/modules"
	i, ok, err := s.Find(k)
	if want := [][]string{{"kernel-install", "add", k, "/opt/modules/" + k + "/vmlinuz"}}; err != nil || !ok || cmp.Diff(want, i.Commands()) != "" {
		t.Errorf("%v, %v, %v", i.Commands(), ok, err)
	}
}

func TestFindErrors(t *testing.T) {
	for _, release := range []string{"", ".", "..", "a/b", "../x", "-k", "a\x00b", "a\nb"} {
		if _, ok, err := (System{Root: t.TempDir()}).Find(release); ok || err == nil {
			t.Errorf("%q: %v, %v", release, ok, err)
		}
	}
	// What cannot be looked at is not taken for not there.
	s := root{"/usr/bin/kernel-install": "", "/usr/bin/dracut": "", fedoras: image, "/boot/loader/entries": "-> entries"}.make(t)
	if _, ok, err := s.Find(k); ok || err == nil || !strings.Contains(err.Error(), "cannot tell how the initramfs of kernel "+k+" is made: ") {
		t.Errorf("%v, %v", ok, err)
	}
}

func TestCommandsAreCopies(t *testing.T) {
	s := root{"/usr/bin/dracut": "", fedoras: image}.make(t)
	i, _, _ := s.Find(k)
	i.Commands()[0][0] = "rm"
	if got := i.Commands()[0][0]; got != "dracut" {
		t.Error(got)
	}
}

func TestGeneratorString(t *testing.T) {
	for g, want := range map[Generator]string{
		KernelInstall: "kernel-install", UpdateInitramfs: "update-initramfs", Dracut: "dracut", Mkinitcpio: "mkinitcpio", Booster: "booster",
		Generator(0): "Generator(0)",
	} {
		if got := g.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestParseAssignments(t *testing.T) {
	for text, c := range map[string]struct {
		want map[string][]string
		all  bool
	}{
		"":                                   {nil, true},
		"# a=b\n\n \t# c\n":                  {nil, true},
		"a=b\n  c='d e'\n":                   {map[string][]string{"a": {"b"}, "c": {"d e"}}, true},
		"a=b":                                {map[string][]string{"a": {"b"}}, true},
		"a=\n":                               {map[string][]string{"a": {""}}, true},
		"a=x\"y z\"'$w'\n":                   {map[string][]string{"a": {"xy z$w"}}, true},
		"a=b # c\nd=e#f\n":                   {map[string][]string{"a": {"b"}, "d": {"e#f"}}, true},
		"a=b\na=c\n":                         {map[string][]string{"a": {"c"}}, true},
		"a=()\n":                             {map[string][]string{"a": nil}, true},
		"a=('b' \"c d\" e) # f\ng=h\n":       {map[string][]string{"a": {"b", "c d", "e"}, "g": {"h"}}, true},
		"a=(\n  b # it's\n  c\n)\nd=e\n":     {map[string][]string{"a": {"b", "c"}, "d": {"e"}}, true},
		"a=(b) c=d\ne=f\n":                   {map[string][]string{"a": {"b"}, "e": {"f"}}, false},
		"a=(b\nc=d\n":                        {map[string][]string{"c": {"d"}}, false},
		"a=$b\nc=d\n":                        {map[string][]string{"c": {"d"}}, false},
		"a=x\na=\"$b\"\n":                    {nil, false},
		"a=\"\x00\"\n":                       {nil, false},
		"a= b\n":                             {nil, false},
		"a=#b\nc= # d\n":                     {map[string][]string{"a": {"#b"}, "c": {""}}, true},
		"a=b\r\n":                            {nil, false},
		"a=(b)#c\n":                          {map[string][]string{"a": {"b"}}, false},
		"a=`b`\n":                            {nil, false},
		"a='b\n":                             {nil, false},
		"a=b c\n":                            {nil, false},
		"a=b; c=d\n":                         {nil, false},
		"a=b\\\n":                            {nil, false},
		". /etc/x\nexport a=b\nif c; then\n": {nil, false},
		"1a=b\nA_1=c\n=d\na-b=c\n":           {map[string][]string{"A_1": {"c"}}, false},
		"a+=b\na[1]=c\n":                     {nil, false},
	} {
		got, all := parseAssignments(text)
		if len(got) == 0 {
			got = nil
		}
		if diff := cmp.Diff(c.want, got); diff != "" || all != c.all {
			t.Errorf("%q: all %v (-want +got):\n%s", text, all, diff)
		}
	}
}

// FuzzParseAssignments compares with what bash reads: a text that is called plain says the same there.
func FuzzParseAssignments(f *testing.F) {
	for _, s := range []string{preset, "a=(b\n'c'\nd)#e\n", "a=\"b", "a=(#\n)\n", "x=y#z", "a=b\r\n", "a=(b)c\n", "a=b=c\n", "a='b'\"c\"d\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, all := parseAssignments(text)
		if !all {
			return
		}
		for name, words := range values {
			if name == "_" || len(name) > 2 && strings.ToLower(name) != name {
				continue // bash has its own ideas of these
			}
			// In an empty environment there is no program to run, should this not be plain after all.
			bash := exec.Command("/bin/bash", "-r", "-c", `eval "$1" && for w in "${`+name+`[@]}"; do printf '%s\0' "$w"; done`, "bash", text)
			bash.Env = []string{"PATH="}
			out, err := bash.Output()
			if err != nil {
				t.Fatalf("%q: bash: %v", text, err)
			}
			var want string
			for _, w := range words {
				want += w + "\x00"
			}
			if string(out) != want {
				t.Errorf("%s of %q is %q, in bash %q", name, text, want, out)
			}
		}
	})
}
