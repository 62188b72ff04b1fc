// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// virtualMachine is a root file system with a virtual machine that has Secure Boot.
var virtualMachine = sync.OnceValue(func() made { return mkroot("vm") })

// oneMachine is held while a virtual machine runs: two at once take more than twice the time.
var oneMachine sync.Mutex

// loadable are packages of which each kernel loads the module without hardware and parameters, by its name. The first is
// loaded from the initramfs, before anything else runs.
var loadable = []struct{ pkg, module string }{{"acpi-call", "acpi_call"}, {"vpoll", "vpoll"}, {"langford", "langford"}}

// keyWorld is a state of the firmware's and shim's variables.
type keyWorld struct {
	name string
	// set are the variables, and args options of virt-fw-vars; cert is the certificate of our key in DER form, and file
	// the first module, signed and not compressed.
	set  func(cert, file []byte) []variable
	args []string
	// loads says what every kernel does, if all do the same: "yes" or "no". Unknown reports whether nobody can tell
	// what a kernel that is not Debian's does.
	loads   string
	unknown bool
}

// variable is a variable of EFI in the form that virt-fw-vars reads.
type variable struct {
	Name string `json:"name"`
	GUID string `json:"guid"`
	Attr int    `json:"attr"`
	Data string `json:"data"` // hex
}

// Identifiers of the UEFI specification, and of shim.
const (
	shim     = "605dab50-e046-4300-abb6-3dd810dd8b23"
	toggle   = "f0a30bc7-af08-4556-99c4-001009c93a44" // SecureBootEnable
	x509Cert = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"
	sha256Of = "c1c41626-504c-4092-aca9-41f936934328"
)

// mok returns a variable of shim's, which it reads at boot.
func mok(name string, data []byte) variable {
	return variable{name, shim, 3, hex.EncodeToString(data)}
}

// signatureList returns an EFI_SIGNATURE_LIST with one signature.
func signatureList(kind string, data []byte) []byte {
	list := guid(kind)
	for _, n := range []int{28 + 16 + len(data), 0, 16 + len(data)} {
		list = binary.LittleEndian.AppendUint32(list, uint32(n))
	}
	return slices.Concat(list, guid(shim), data)
}

// guid returns the binary form of a GUID: its first three parts are little-endian.
func guid(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil {
		panic(err)
	}
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return b
}

var keyWorlds = []keyWorld{
	{"enrolled nowhere", nil, nil, "no", false},
	{"machine owner key", func(cert, _ []byte) []variable {
		return []variable{mok("MokList", signatureList(x509Cert, cert))}
	}, nil, "yes", false},
	{"machine owner key not for modules", func(cert, _ []byte) []variable {
		return []variable{mok("MokList", signatureList(x509Cert, cert)), mok("MokListTrusted", []byte{1})}
	}, nil, "", true},
	{"in db", nil, []string{"--add-db", shim, "/tmp/cert.pem"}, "", true},
	{"asked for", func(cert, _ []byte) []variable {
		asked := mok("MokNew", signatureList(x509Cert, cert))
		auth := mok("MokAuth", make([]byte, sha256.Size))
		asked.Attr, auth.Attr = 7, 7
		return []variable{asked, auth}
	}, nil, "no", false},
	{"certificate revoked", func(cert, _ []byte) []variable {
		return []variable{mok("MokList", signatureList(x509Cert, cert)), mok("MokListX", signatureList(x509Cert, cert))}
	}, nil, "", false},
	{"module revoked", func(cert, file []byte) []variable {
		sum := sha256.Sum256(file)
		return []variable{mok("MokList", signatureList(x509Cert, cert)), mok("MokListX", signatureList(sha256Of, sum[:]))}
	}, nil, "", false},
	{"secure boot off", func(_, _ []byte) []variable { return []variable{{"SecureBootEnable", toggle, 3, "00"}} }, nil, "yes", false},
	{"validation off", func(_, _ []byte) []variable { return []variable{mok("MokSBState", []byte{1})} }, nil, "yes", false},
}

// TestSecureBoot asks doctor and why in virtual machines, for each state of the keys, whether the kernel will load what
// is placed, and then has it do so. Without DKMS_TEST_ALL there are two of the states, and one kernel.
func TestSecureBoot(t *testing.T) {
	t.Parallel()
	all := os.Getenv("DKMS_TEST_ALL") != ""
	own := release{"own", sync.OnceValue(func() made { return mkroot("own") })}
	for _, rel := range append(slices.Clone(releases), own) {
		if rel.name != "trixie" && (!all || rel.name == "forky") {
			continue
		}
		t.Run(rel.name, func(t *testing.T) {
			b := newBootable(t, rel)
			for i, w := range keyWorlds {
				if i < 2 || all {
					t.Run(w.name, func(t *testing.T) { b.check(t, w) })
				}
			}
		})
	}
}

// bootable is what a virtual machine boots.
type bootable struct {
	kernel        string // its release
	enrolled      []byte // the certificate that has to be in db for it to be booted, in PEM form; nil if none has
	image, initrd string // files
	cert, module  []byte // see keyWorld
}

// newBootable builds and signs the packages for the kernel of a release, and makes an initramfs with them and our program.
func newBootable(t *testing.T, rel release) (b bootable) {
	t.Helper()
	r := newRoot(t, rel.set)
	r.InstallProgram()
	r.Write("/etc/dkms/framework.conf.d/test.conf", "try_sign_modules=true\n", 0o644)
	b.kernel = strings.TrimSpace(r.Sh("cd /boot && ls -v vmlinuz-* | grep -e cloud -e own | tail -n 1 | sed s/vmlinuz-//"))
	if r.Exists("/root/db.pem") {
		b.enrolled = []byte(r.Read("/root/db.pem"))
	}
	for _, l := range loadable {
		r.Sh(`dpkg -x /opt/repo/` + l.pkg + `-dkms.deb / && dkms add $(cd /usr/src && echo ` + l.pkg + `-* | sed 's/\(.*\)-/\1\//')`)
	}
	t.Log(r.MustRun("dkms-kernel-install", "add", b.kernel))
	init, err := vmInit()
	r.check(err)
	r.Write("/root/i/init", string(init), 0o755)
	r.Write("/root/i/test", inside, 0o755)
	r.Sh("K=" + b.kernel + "\nMODULES='" + moduleNames() + "'\nFIRST=" + loadable[0].module + "\n" + assemble)
	b.image, b.initrd = filepath.Join(r.Dir, "boot/vmlinuz-"+b.kernel), filepath.Join(r.Dir, "root/initrd")
	b.cert, b.module = []byte(r.Read("/var/lib/dkms/mok.pub")), []byte(r.Read("/root/first.ko"))
	return b
}

// assemble is a script that makes /root/initrd of /root/i, of our program and its tree, and of what runs it.
const assemble = `cd /root/i
mkdir -p proc sys dev tmp run root modules usr/bin usr/sbin usr/lib usr/lib64 usr/src var/lib var/cache etc boot usr/lib/modules/$K usr/lib/kernel/install.d
for d in bin sbin lib lib64; do ln -s usr/$d $d; done
cp -a /usr/lib/kernel/install.d/40-dkms.install usr/lib/kernel/install.d
ln -s ../lib/kernel/install.d/40-dkms.install usr/sbin/dkms-kernel-install
cp -a /var/lib/dkms var/lib
cp -a /etc/dkms /etc/os-release /etc/passwd /etc/group etc
cp -a /usr/lib/os-release usr/lib
cp /boot/config-$K boot || cp /usr/lib/modules/$K/config usr/lib/modules/$K
for m in $MODULES; do cp -a $(readlink -f /var/lib/dkms/$(echo $m | tr _ -)/*/source) usr/src; done
for p in bash cat modprobe setpriv; do
	f=$(readlink -f $(command -v $p))
	cp --parents $f $(ldd $f | grep -o '/[^ ]*') .
	[ -e .$(command -v $p) ] || ln -s $f .$(command -v $p)
done
cp --parents /usr/lib/*/liblzma.so.5 .
cp /usr/lib/modules/$K/modules.* usr/lib/modules/$K
for m in efivarfs $MODULES; do modprobe -S $K --show-depends $m | sed -n 's/^insmod *\([^ ]*\).*/\1/p'; done | sort -u | xargs -I{} cp --parents {} .
first=$(modinfo -k $K -n $FIRST)
cp $(modinfo -k $K -n efivarfs) modules/000-$(basename $(modinfo -k $K -n efivarfs))
cp $first modules/001-$(basename $first)
case $first in *.xz) xz -dc $first ;; *.zst) zstd -dcq $first ;; *) cat $first ;; esac >/root/first.ko
find . | cpio --quiet -o -H newc >/root/initrd`

// inside is what runs in the virtual machine.
var inside = `#!/bin/bash
export PATH=/usr/sbin:/usr/bin
echo "= doctor"; dkms-kernel-install doctor --json
echo "= nobody"; setpriv --reuid=65534 --regid=65534 --clear-groups dkms-kernel-install doctor --json
for p in` + packageNames() + `; do echo "= why $p"; dkms-kernel-install why $p --json; done
for m in` + moduleNames() + `; do echo "= modprobe $m"; modprobe $m && echo loaded; done
`

func packageNames() (names string) {
	for _, l := range loadable {
		names += " " + l.pkg
	}
	return names
}

func moduleNames() (names string) {
	for _, l := range loadable {
		names += " " + l.module
	}
	return names
}

// link is what why and doctor say of one thing.
type link struct{ Step, State, Is string }

// check boots the machine in a world, and compares what was said with what came of it.
func (b bootable) check(t *testing.T, w keyWorld) {
	out := b.boot(t, w)
	defer func() {
		if t.Failed() {
			t.Log(out)
		}
	}()
	said := sections(out)
	read := func(section string, v any) {
		t.Helper()
		if err := json.Unmarshal([]byte(said[section]), v); err != nil {
			t.Fatalf("%s: %v", section, err)
		}
	}
	var doctor, nobody struct {
		Findings []link
		Kernels  []struct{ Kernel, Loads, Rule, Is string }
	}
	read("doctor", &doctor)
	read("nobody", &nobody)
	if len(doctor.Kernels) != 1 || doctor.Kernels[0].Kernel != b.kernel {
		t.Fatalf("kernels: %+v", doctor.Kernels)
	}
	if !slices.ContainsFunc(nobody.Findings, func(l link) bool { return l.Step == "keyrings" && l.State == "unknown" }) {
		t.Errorf("an ordinary user is told of keyrings: %+v", nobody.Findings)
	}
	verdict := doctor.Kernels[0]
	t.Logf("%s: doctor says %s: %s (%s)", b.kernel, verdict.Loads, verdict.Is, verdict.Rule)
	for i, l := range loadable {
		var why struct{ Chains []struct{ Links []link } }
		read("why "+l.pkg, &why)
		signed := ""
		for _, link := range why.Chains[0].Links {
			if link.Step == "signed" {
				signed = map[string]string{"ok": "yes", "bad": "no", "unknown": "unknown"}[link.State]
			}
		}
		loads, tried := "no", said["modprobe "+l.module]
		if strings.HasSuffix(strings.TrimSpace(tried), "loaded") {
			loads = "yes"
		}
		if i == 0 && (loads == "yes") != early(out, l.module) {
			t.Errorf("before anything ran, %s was otherwise than after", l.module)
		}
		b.judge(t, w, l.module, verdict.Loads, signed, loads, i == 0)
	}
}

// judge compares what doctor and why said of a module with what the kernel did. First reports whether it is the one that
// may be revoked by itself, of which doctor does not know.
func (b bootable) judge(t *testing.T, w keyWorld, module, doctor, why, loads string, first bool) {
	t.Helper()
	if w.unknown && b.enrolled != nil {
		if doctor != "unknown" || why != "unknown" {
			t.Errorf("%s, of a kernel that is not known: doctor says %s, why %s", module, doctor, why)
		}
		t.Logf("%s: the kernel says %s", module, loads)
		return
	}
	if why != loads {
		t.Errorf("why says %s of %s, the kernel %s", why, module, loads)
	}
	if doctor != loads && !(first && w.name == "module revoked") {
		t.Errorf("doctor says %s of %s, the kernel %s", doctor, module, loads)
	}
	if w.loads != "" && w.loads != loads {
		t.Errorf("the kernel says %s of %s, want %s", loads, module, w.loads)
	}
}

// early reports whether the module was loaded before anything else ran.
func early(out, module string) bool {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "load "+module) {
			return strings.HasSuffix(line, ": ok\n")
		}
	}
	return false
}

// sections returns what the script inside printed, by its headlines.
func sections(out string) map[string]string {
	list, name := map[string]string{}, ""
	for line := range strings.Lines(out) {
		text, ok := strings.CutPrefix(line, "test ")
		if head, is := strings.CutPrefix(text, "= "); is && ok {
			name = strings.TrimSpace(head)
		} else if ok {
			list[name] += text
		}
	}
	return list
}

// boot boots the machine in a world, and returns what vminit printed.
func (b bootable) boot(t *testing.T, w keyWorld) string {
	t.Helper()
	oneMachine.Lock()
	defer oneMachine.Unlock()
	r := newRoot(t, virtualMachine)
	r.Timeout = 15 * time.Minute
	vars := []variable{}
	if w.set != nil {
		vars = w.set(b.cert, b.module)
	}
	set, err := json.Marshal(map[string]any{"version": 2, "variables": vars})
	r.check(err)
	r.Write("/tmp/vars.json", string(set), 0o644)
	r.Write("/tmp/cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.cert})), 0o644)
	if args := w.args; b.enrolled != nil {
		r.Write("/tmp/kernel.pem", string(b.enrolled), 0o644)
		w.args = append([]string{"--add-db", shim, "/tmp/kernel.pem"}, args...)
	}
	r.Write("/tmp/grub.cfg", "set timeout=0\nlinux /vmlinuz console=ttyS0 panic=-1 quiet\ninitrd /initrd\nboot\n", 0o644)
	r.copyIn(b.image, "/tmp/vmlinuz")
	r.copyIn(b.initrd, "/tmp/initrd")
	r.Sh(`cd /tmp
		virt-fw-vars -i /usr/share/OVMF/OVMF_VARS_4M.ms.fd --set-json vars.json ` + strings.Join(w.args, " ") + ` -o vars.fd
		truncate -s 192M esp && mformat -i esp -F :: && mmd -i esp ::/EFI ::/EFI/BOOT ::/EFI/debian
		mcopy -i esp /usr/lib/shim/shimx64.efi.signed ::/EFI/BOOT/BOOTX64.EFI
		mcopy -i esp /usr/lib/shim/mmx64.efi.signed ::/EFI/BOOT/mmx64.efi
		mcopy -i esp /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed ::/EFI/BOOT/grubx64.efi
		mcopy -i esp grub.cfg ::/EFI/debian/grub.cfg
		mcopy -i esp vmlinuz initrd ::/`)
	out := r.MustRun("qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-machine", "q35,smm=on", "-nodefaults", "-no-reboot",
		"-global", "driver=cfi.pflash01,property=secure,value=on", "-display", "none", "-serial", "stdio",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
		"-drive", "if=pflash,unit=1,format=raw,file=/tmp/vars.fd",
		"-drive", "if=none,id=esp,format=raw,file=/tmp/esp", "-device", "virtio-blk-pci,drive=esp")
	return fmt.Sprint(vmLines(t, out))
}
