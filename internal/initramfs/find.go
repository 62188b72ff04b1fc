// SPDX-License-Identifier: GPL-2.0-or-later

package initramfs

import (
	"bufio"
	"bytes"
	"cmp"
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

// System is where things are. The zero value is this machine's system.
type System struct {
	// Root is put before every path that is opened, also before Modules and the
	// directories in PATH. Paths that are returned are without it.
	Root string
	// Modules is the directory that has a directory of modules for each kernel;
	// /lib/modules if it is empty.
	Modules string
}

// Find returns how the initramfs of the kernel called release is made here. ok is false
// if that kernel has none, or none that a known generator makes: then none is to be made.
//
// A generator is found only if there are an image of this kernel that it may have made,
// and its program in PATH. kernel-install is in charge if it made a boot entry for the
// kernel. It may be installed without being in charge: Debian's initramfs-tools and
// dracut call it, rather than it them.
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

// finder looks for the initramfs of one kernel.
type finder struct {
	system  System
	release string
	err     error // the first one: what could not be looked at would pass for missing
}

// kernelInstall finds what kernel-install(8) made.
func (f *finder) kernelInstall() (Initramfs, bool) {
	if !f.program("kernel-install") {
		return Initramfs{}, false
	}
	images, ok := f.bootEntries()
	if !ok {
		return Initramfs{}, false
	}
	if i, ok := f.copiedInitramfs(images); ok {
		return i, true
	}
	add := []string{"kernel-install", "add", f.release}
	// Without a kernel, kernel-install takes /usr/lib/modules/RELEASE/vmlinuz, and fails
	// if that is not there.
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

// bootEntries looks for the kernel's entries of the Boot Loader Specification, type 1 or
// 2 (https://uapi-group.org/specifications/specs/boot_loader_specification), which are
// named after an entry token and the kernel. It returns the files that may be their
// images; ok is false if nothing shows that there is an entry.
func (f *finder) bootEntries() (images []string, ok bool) {
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
				// Other programs, too, put files there; these are named after
				// their content.
				ok = ok || name == "linux" || name == "initrd"
				if strings.HasPrefix(name, "initrd") {
					images = append(images, path.Join(dir, name))
				}
			}
		}
		dir := path.Join(boot, "loader/entries")
		for _, name := range f.list(dir) {
			if f.isEntry(name, ".conf", tokens) {
				ok = true
				images = append(images, f.entryImages(boot, path.Join(dir, name))...)
			}
		}
		dir = path.Join(boot, "EFI/Linux")
		for _, name := range f.list(dir) {
			if f.isEntry(name, ".efi", tokens) {
				ok = true
				images = append(images, path.Join(dir, name))
			}
		}
	}
	return images, ok
}

// copiedInitramfs finds the image in /boot that Debian's plugin copies into the boot
// entry, which has these images. A generator makes the image, and then, by a hook that
// comes with systemd-boot, the boot entry.
func (f *finder) copiedInitramfs(images []string) (Initramfs, bool) {
	made := "/boot/initrd.img-" + f.release
	if !f.copied() || !f.file(made) {
		return Initramfs{}, false
	}
	i := Initramfs{Generator: UpdateInitramfs, commands: [][]string{f.updateInitramfsCommand()}}
	if !f.program("update-initramfs") {
		i = Initramfs{Generator: Dracut, commands: [][]string{f.dracutCommand(made)}}
	}
	if !f.program(i.Generator.String()) {
		return Initramfs{}, false
	}
	if !f.file("/etc/initramfs/post-update.d/systemd-boot") || !f.program("bootctl") {
		// "-" is kernel-install's word for the usual one.
		i.commands = append(i.commands, []string{"kernel-install", "add", f.release, cmp.Or(f.kernel(), "-"), made})
	}
	i.Images = f.files(append(images, made)...)
	return i, true
}

// copied reports whether Debian's plugin that takes an image that was made before is
// there and not masked.
func (f *finder) copied() bool {
	for _, name := range f.list("/usr/lib/kernel/install.d") {
		if strings.HasSuffix(name, "-initrd.install") {
			target, err := os.Readlink(f.path(path.Join("/etc/kernel/install.d", name)))
			return err != nil || target != "/dev/null"
		}
	}
	return false
}

// kernel returns the image of the kernel; "" if it is in no usual place.
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

// entryTokens returns the tokens that kernel-install may name this system's entries
// after. Entries with others belong to other systems.
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

// isEntry reports whether name is TOKEN-RELEASE and ext. Between these it may say how
// often the entry is to be tried: +LEFT or +LEFT-DONE.
func (f *finder) isEntry(name, ext string, tokens []string) bool {
	name, ok := strings.CutSuffix(name, ext)
	return ok && slices.ContainsFunc(tokens, func(token string) bool {
		rest, ok := strings.CutPrefix(name, token+"-"+f.release)
		return ok && (rest == "" || len(rest) > 1 && rest[0] == '+' && strings.Trim(rest[1:], "0123456789-") == "")
	})
}

// entryImages returns where the images may be that an entry below boot names.
func (f *finder) entryImages(boot, entry string) []string {
	var list []string
	for line := range strings.Lines(string(f.read(entry))) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "initrd" && words[0] != "efi" && words[0] != "uki" {
			continue
		}
		for _, word := range words[1:] {
			// The path begins at the root of the file system: that is boot, or a
			// directory above it.
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

// mkinitcpio finds what mkinitcpio(8) made, by a preset if there is one: bash variables
// that name the images of a kernel's package.
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

// presetImages returns the images that a preset's variables name, also those variables
// that only older versions of mkinitcpio have.
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

// pkgbase returns the name that Arch's package of the kernel gives to files in /boot; ""
// if there is none, or if those files are another version's of the same package. The
// directories of older versions may stay, and the newer kernel must not get the older
// one's modules.
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

// failed reports whether err is an error. It keeps the first one that is not only about
// something that is not there.
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

// list returns the names in a directory, sorted.
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

// maxText is how many bytes are read of a text file.
const maxText = 1 << 20

// read returns the first maxText bytes of a text file; nil if there is none.
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

// line returns the first line of a file, without the space around it.
func (f *finder) line(name string) string {
	first, _, _ := bytes.Cut(f.read(name), []byte("\n"))
	return string(bytes.TrimSpace(first))
}

// same reports whether both files are there and have the same content.
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
