// SPDX-License-Identifier: GPL-2.0-or-later

package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// System says where things are. The zero value is this machine's system.
type System struct {
	// Root goes before every path that is opened, those of the fields below and of PATH among them. What is
	// returned is without it. Tests have one.
	Root string
	// Modules is the directory that has a directory of modules for each kernel; empty: /lib/modules.
	Modules string
}

// Find returns how the initramfs of the kernel called release is made here. ok is false where that kernel has none,
// or none that a known generator makes: then none is to be made.
//
// A generator is only found with an image of this kernel's that it may have made, and its program in PATH.
// kernel-install is in charge where it made a boot entry for the kernel. It may be installed and not be: Debian's
// initramfs-tools and dracut call it, rather than it them.
func (s System) Find(release string) (i Initramfs, ok bool, err error) {
	if release == "" || release == "." || release == ".." || strings.ContainsAny(release, "/\x00\n") || release[0] == '-' {
		return Initramfs{}, false, fmt.Errorf("%q is not the release of a kernel", release)
	}
	if s.Modules == "" {
		s.Modules = "/lib/modules"
	}
	f := finder{system: s, release: release}
	for _, find := range []func() (Initramfs, bool){
		f.kernelInstall, f.updateInitramfs, f.dracut, f.mkinitcpio, f.booster,
	} {
		i, ok = find()
		if f.err != nil {
			return Initramfs{}, false, fmt.Errorf("cannot tell how the initramfs of kernel %s is made: %w", release, f.err)
		}
		if ok {
			break
		}
	}
	if !ok {
		return Initramfs{}, false, nil
	}
	i.Release, i.root = release, s.Root
	return i, true, nil
}

// finder looks around for one kernel.
type finder struct {
	system  System
	release string
	err     error // the first of any look: what is not seen for it would be taken for not there
}

// kernelInstall finds what kernel-install(8) made: an entry of the Boot Loader Specification, type 1 or 2
// (https://uapi-group.org/specifications/specs/boot_loader_specification), named after an entry token and the kernel.
func (f *finder) kernelInstall() (Initramfs, bool) {
	if !f.program("kernel-install") {
		return Initramfs{}, false
	}
	var images []string
	evident := false
	conf, _ := f.assignments("/etc/kernel/install.conf", "/run/kernel/install.conf",
		"/usr/local/lib/kernel/install.conf", "/usr/lib/kernel/install.conf")
	boots := []string{"/efi", "/boot", "/boot/efi"}
	if b := last(conf["BOOT_ROOT"]); path.IsAbs(b) && !slices.Contains(boots, path.Clean(b)) {
		boots = append(boots, path.Clean(b))
	}
	tokens := f.entryTokens(last(conf["MACHINE_ID"]))
	for _, boot := range boots {
		for _, token := range tokens {
			dir := path.Join(boot, token, f.release)
			for _, name := range f.list(dir) {
				// Other programs name what they put there after its content too.
				evident = evident || name == "linux" || name == "initrd"
				if strings.HasPrefix(name, "initrd") {
					images = append(images, path.Join(dir, name))
				}
			}
		}
		dir := path.Join(boot, "loader/entries")
		for _, name := range f.list(dir) {
			if f.isEntry(name, ".conf", tokens) {
				evident = true
				images = append(images, f.entryImages(boot, path.Join(dir, name))...)
			}
		}
		dir = path.Join(boot, "EFI/Linux")
		for _, name := range f.list(dir) {
			if f.isEntry(name, ".efi", tokens) {
				evident = true
				images = append(images, path.Join(dir, name))
			}
		}
	}
	if !evident {
		return Initramfs{}, false
	}
	add := []string{"kernel-install", "add", f.release}

	// Debian's plugin takes what its generators made in /boot before. They make it, then, and have the boot entry
	// made from it, by a hook that comes with systemd-boot.
	made := "/boot/initrd.img-" + f.release
	if f.copied() && f.file(made) {
		i := Initramfs{Generator: UpdateInitramfs, commands: [][]string{f.updateInitramfsCommand()}}
		if !f.program("update-initramfs") {
			i = Initramfs{Generator: Dracut, commands: [][]string{f.dracutCommand(made)}}
		}
		if f.program(i.Generator.String()) {
			if !f.file("/etc/initramfs/post-update.d/systemd-boot") || !f.program("bootctl") {
				kernel := f.kernel()
				if kernel == "" {
					kernel = "-" // kernel-install's word for the usual one
				}
				i.commands = append(i.commands, append(add, kernel, made))
			}
			i.Images = f.files(append(images, made)...)
			return i, true
		}
	}

	// Without, kernel-install takes /usr/lib/modules/RELEASE/vmlinuz, and says so when that is not there.
	if kernel := f.kernel(); kernel != "" {
		add = append(add, kernel)
	}
	i := Initramfs{
		Generator: KernelInstall,
		Images:    f.files(append(images, "/boot/initramfs-"+f.release+".img")...), // Fedora's
		commands:  [][]string{add},
	}
	return i, len(i.Images) > 0
}

// copied reports whether there is Debian's plugin that takes an image that was made before, and that it is not masked.
func (f *finder) copied() bool {
	for _, name := range f.list("/usr/lib/kernel/install.d") {
		if strings.HasSuffix(name, "-initrd.install") {
			target, err := os.Readlink(f.path(path.Join("/etc/kernel/install.d", name)))
			return err != nil || target != "/dev/null"
		}
	}
	return false
}

// kernel returns the image of the kernel; "" where it is in no usual place.
func (f *finder) kernel() string {
	for _, file := range []string{
		path.Join(f.system.Modules, f.release, "vmlinuz"),
		"/boot/vmlinuz-" + f.release, "/boot/vmlinux-" + f.release, "/boot/kernel-" + f.release,
	} {
		if f.file(file) {
			return file
		}
	}
	return ""
}

// entryTokens returns what kernel-install may name this system's entries after. Entries of other systems are none of
// its.
func (f *finder) entryTokens(machineID string) []string {
	release, _ := f.assignments("/etc/os-release", "/usr/lib/os-release")
	list := []string{
		f.line("/etc/kernel/entry-token"), machineID, f.line("/etc/machine-id"),
		last(release["IMAGE_ID"]), last(release["ID"]), "Default",
	}
	return slices.DeleteFunc(list, func(token string) bool {
		return token == "" || token == "." || token == ".." || strings.ContainsAny(token, "/\x00")
	})
}

// isEntry reports whether a file is called TOKEN-RELEASE and ext; before ext it may have how often the entry is to be tried:
// +LEFT or +LEFT-DONE.
func (f *finder) isEntry(name, ext string, tokens []string) bool {
	name, ok := strings.CutSuffix(name, ext)
	return ok && slices.ContainsFunc(tokens, func(token string) bool {
		rest, ok := strings.CutPrefix(name, token+"-"+f.release)
		return ok && (rest == "" || len(rest) > 1 && rest[0] == '+' && strings.Trim(rest[1:], "0123456789-") == "")
	})
}

// entryImages returns the images that an entry names, in whose file system boot is.
func (f *finder) entryImages(boot, entry string) []string {
	var list []string
	for line := range strings.Lines(string(f.read(entry))) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "initrd" && words[0] != "efi" && words[0] != "uki" {
			continue
		}
		for _, word := range words[1:] {
			// From the root of its file system, which boot is, or which boot is a directory of.
			list = append(list, path.Join(boot, word), path.Join("/", word))
		}
	}
	return list
}

// updateInitramfs finds what Debian's initramfs-tools made.
func (f *finder) updateInitramfs() (Initramfs, bool) {
	image := "/boot/initrd.img-" + f.release
	if !f.program("update-initramfs") || !f.file(image) {
		return Initramfs{}, false
	}
	return Initramfs{Generator: UpdateInitramfs, Images: []string{image}, commands: [][]string{f.updateInitramfsCommand()}}, true
}

func (f *finder) updateInitramfsCommand() []string {
	return []string{"update-initramfs", "-u", "-k", f.release}
}

// dracut finds what dracut(8) made when a distribution's own scripts called it.
func (f *finder) dracut() (Initramfs, bool) {
	if !f.program("dracut") {
		return Initramfs{}, false
	}
	names := []string{
		"/boot/initramfs-" + f.release + ".img", // Fedora, Gentoo, Void
		"/boot/initrd-" + f.release,             // SUSE
		"/boot/initrd-" + f.release + ".img",    // Mageia
		"/boot/initrd.img-" + f.release,         // Debian
	}
	if base := f.pkgbase(); base != "" && !f.program("mkinitcpio") {
		names = append(names, "/boot/initramfs-"+base+".img") // Arch, with scripts of the administrator's
	}
	i := Initramfs{Generator: Dracut, Images: f.files(names...)}
	for _, image := range i.Images {
		i.commands = append(i.commands, f.dracutCommand(image))
	}
	// Unified kernel images, as dracut --uefi names them.
	if id := f.line("/etc/machine-id"); id != "" {
		stem := "linux-" + f.release + "-" + id
		for _, boot := range []string{"/efi", "/boot", "/boot/efi"} {
			dir := path.Join(boot, "EFI/Linux")
			for _, name := range f.list(dir) {
				if name == stem+".efi" || strings.HasPrefix(name, stem+"-") && strings.HasSuffix(name, ".efi") {
					image := path.Join(dir, name)
					i.Images = append(i.Images, image)
					i.commands = append(i.commands, []string{"dracut", "--force", "--uefi", "--kver", f.release, image})
				}
			}
		}
	}
	return i, len(i.Images) > 0
}

func (f *finder) dracutCommand(image string) []string {
	return []string{"dracut", "--force", "--kver", f.release, image}
}

// mkinitcpio finds what mkinitcpio(8) made, by a preset where there is one: bash variables that say which images there
// are of a kernel's package.
func (f *finder) mkinitcpio() (Initramfs, bool) {
	if !f.program("mkinitcpio") {
		return Initramfs{}, false
	}
	base := f.line(path.Join(f.system.Modules, f.release, "pkgbase"))
	if base != "" && !strings.Contains(base, "/") && base[0] != '-' {
		preset := "/etc/mkinitcpio.d/" + base + ".preset"
		if f.file(preset) {
			values, all := f.assignments(preset)
			i := Initramfs{
				Generator: Mkinitcpio,
				Images:    f.files(presetImages(base, values)...),
				commands:  [][]string{{"mkinitcpio", "-p", base}},
			}
			if !all {
				i.hidden = fmt.Errorf("cannot make out all images of %s: it is more than assignments of words", preset)
			}
			if len(i.Images) > 0 || !all {
				return i, true
			}
		}
	}
	names := []string{"/boot/initramfs-" + f.release + ".img", "/boot/initrd.img-" + f.release}
	if base := f.pkgbase(); base != "" {
		names = append(names, "/boot/initramfs-"+base+".img")
	}
	i := Initramfs{Generator: Mkinitcpio, Images: f.files(names...)}
	for _, image := range i.Images {
		i.commands = append(i.commands, []string{"mkinitcpio", "-k", f.release, "-g", image})
	}
	return i, len(i.Images) > 0
}

// presetImages returns the images that a preset's variables name, those of the older mkinitcpio too.
func presetImages(base string, values map[string][]string) []string {
	presets, ok := values["PRESETS"]
	if !ok {
		return []string{
			"/boot/initramfs-" + base + ".img", "/boot/initramfs-" + base + "-fallback.img",
			"/efi/EFI/Linux/arch-" + base + ".efi", "/efi/EFI/Linux/arch-" + base + "-fallback.efi",
		}
	}
	var list []string
	for _, preset := range presets {
		for _, kind := range []string{"_image", "_uki", "_efi_image"} {
			image := last(values[preset+kind])
			if image == "" {
				image = last(values["ALL"+kind])
			}
			if path.IsAbs(image) {
				list = append(list, path.Clean(image))
			}
		}
	}
	return list
}

// booster finds what booster(1) made.
func (f *finder) booster() (Initramfs, bool) {
	if !f.program("booster") {
		return Initramfs{}, false
	}
	names := []string{"/boot/booster-" + f.release + ".img", "/boot/initramfs-" + f.release + ".img"}
	if base := f.pkgbase(); base != "" {
		names = append(names, "/boot/booster-"+base+".img")
	}
	i := Initramfs{Generator: Booster, Images: f.files(names...)}
	for _, image := range i.Images {
		i.commands = append(i.commands, []string{"booster", "build", "--force", "--kernel-version", f.release, image})
	}
	return i, len(i.Images) > 0
}

// pkgbase returns the name that Arch's package of the kernel gives to files in /boot; "" where there is none, or where
// those files are of another version of the same package: directories of older ones may stay, and the newer kernel must
// not get the older one's modules.
func (f *finder) pkgbase() string {
	name := func(release string) string { return f.line(path.Join(f.system.Modules, release, "pkgbase")) }
	base := name(f.release)
	if base == "" || strings.Contains(base, "/") {
		return ""
	}
	for _, other := range f.list(f.system.Modules) {
		if other != f.release && name(other) == base {
			if !f.same(path.Join(f.system.Modules, f.release, "vmlinuz"), "/boot/vmlinuz-"+base) {
				return ""
			}
			break
		}
	}
	return base
}

func (f *finder) path(name string) string { return filepath.Join(f.system.Root, name) }

// failed keeps err, unless it only says that something is not there.
func (f *finder) failed(err error) bool {
	if err == nil {
		return false
	}
	if f.err == nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		f.err = err
	}
	return true
}

// program reports whether there is a program of this name in PATH.
func (f *finder) program(name string) bool {
	return slices.ContainsFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool {
		if !path.IsAbs(dir) {
			return false
		}
		st, err := os.Stat(f.path(path.Join(dir, name)))
		return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
	})
}

// file reports whether name is a file.
func (f *finder) file(name string) bool {
	st, err := os.Stat(f.path(name))
	return !f.failed(err) && st.Mode().IsRegular()
}

// files returns those of names that are files, each once.
func (f *finder) files(names ...string) []string {
	var list []string
	for _, name := range names {
		if !slices.Contains(list, name) && f.file(name) {
			list = append(list, name)
		}
	}
	return list
}

// list returns the names of what is in a directory, in order.
func (f *finder) list(dir string) []string {
	entries, err := os.ReadDir(f.path(dir))
	if f.failed(err) {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// maxText is how many bytes are read of a small text file.
const maxText = 1 << 20

// read returns the content of a small text file; nil where there is none.
func (f *finder) read(name string) []byte {
	if !f.file(name) {
		return nil
	}
	file, err := os.Open(f.path(name))
	if f.failed(err) {
		return nil
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxText))
	f.failed(err)
	return b
}

// line returns the first line of a file, without space around it.
func (f *finder) line(name string) string {
	first, _, _ := bytes.Cut(f.read(name), []byte("\n"))
	return string(bytes.TrimSpace(first))
}

// same reports whether two files are there and have the same content.
func (f *finder) same(a, b string) bool {
	if !f.file(a) || !f.file(b) {
		return false
	}
	one, err := os.Open(f.path(a))
	if f.failed(err) {
		return false
	}
	defer one.Close()
	two, err := os.Open(f.path(b))
	if f.failed(err) {
		return false
	}
	defer two.Close()
	x, y := bufio.NewReaderSize(one, 64<<10), bufio.NewReaderSize(two, 64<<10)
	for {
		p, errX := x.Peek(4096)
		q, errY := y.Peek(4096)
		if !bytes.Equal(p, q) {
			return false
		}
		if errX != nil || errY != nil {
			return errX == io.EOF && errY == io.EOF
		}
		x.Discard(len(p))
		y.Discard(len(q))
	}
}
