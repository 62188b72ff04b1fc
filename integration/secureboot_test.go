// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dkms-kernel-install/internal/version"
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
	// kernels is what they do with our modules.
	kernels answers
	// first is set if kernels is about the first module alone. The others load.
	first bool
}

// answers say for each release whether its kernel loads a module: "yes" or "no". It is what kernels did when they were
// tried, and what the program has to say. Where it has to say that it does not know, "?" follows.
type answers struct{ bookworm, trixie, backports, own string }

// of returns the answer of a release, and what the program has to say.
func (a answers) of(release string) (loads, says string) {
	answer := map[string]string{"bookworm": a.bookworm, "trixie": a.trixie, "trixie-backports": a.backports, "own": a.own}[release]
	if loads, ok := strings.CutSuffix(answer, "?"); ok {
		return loads, "unknown"
	}
	return answer, answer
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
	x509Hash = "3bd2a492-96c0-4079-b420-fcf98ef103ed"
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

// enrolled returns the variables of a machine on which our key is enrolled, and more.
func enrolled(cert []byte, more ...variable) []variable {
	return append([]variable{mok("MokList", signatureList(x509Cert, cert))}, more...)
}

var (
	allLoad   = answers{"yes", "yes", "yes", "yes"}
	allRefuse = answers{"no", "no", "no", "no"}
	// Debian's kernels take keys of .platform for modules, which no option of a kernel tells.
	debianLoads = answers{"yes", "yes", "yes", "no?"}
)

var keyWorlds = []keyWorld{
	{name: "enrolled nowhere", kernels: allRefuse},
	{name: "machine owner key", kernels: allLoad, set: func(cert, _ []byte) []variable { return enrolled(cert) }},
	{name: "machine owner key not for modules", kernels: debianLoads, set: func(cert, _ []byte) []variable {
		return enrolled(cert, mok("MokListTrusted", []byte{1})) // whatever it says, that it is there takes the trust away
	}},
	{name: "in db", kernels: debianLoads, args: []string{"--add-db", shim, "/tmp/cert.pem"}},
	{name: "asked for", kernels: allRefuse, set: func(cert, _ []byte) []variable {
		asked, auth := mok("MokNew", signatureList(x509Cert, cert)), mok("MokAuth", make([]byte, sha256.Size))
		asked.Attr, auth.Attr = 7, 7
		return []variable{asked, auth}
	}},
	{name: "certificate revoked", kernels: allLoad, set: func(cert, _ []byte) []variable {
		return enrolled(cert, mok("MokListX", signatureList(x509Cert, cert)))
	}},
	{name: "hash of the certificate revoked", kernels: allLoad, set: func(cert, _ []byte) []variable {
		// With a time after it, as UEFI has it, kernels never find it.
		return enrolled(cert, mok("MokListX", signatureList(x509Hash, append(toBeSigned(cert), make([]byte, 16)...))))
	}},
	{name: "hash alone of the certificate revoked", kernels: allRefuse, set: func(cert, _ []byte) []variable {
		return enrolled(cert, mok("MokListX", signatureList(x509Hash, toBeSigned(cert))))
	}},
	{name: "module revoked", kernels: answers{"no", "no", "yes", "yes?"}, first: true, set: func(cert, file []byte) []variable {
		sum := sha256.Sum256(file)
		return enrolled(cert, mok("MokListX", signatureList(sha256Of, sum[:])))
	}},
	{name: "secure boot off", kernels: allLoad, set: func(_, _ []byte) []variable { return []variable{{"SecureBootEnable", toggle, 3, "00"}} }},
	{name: "validation off", kernels: allLoad, set: func(_, _ []byte) []variable { return []variable{mok("MokSBState", []byte{1})} }},
}

// toBeSigned returns the hash of what is signed in a certificate, by which it is revoked.
func toBeSigned(der []byte) []byte {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(c.RawTBSCertificate)
	return sum[:]
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
	name          string // of its release of Debian
	kernel        string // its release
	enrolled      []byte // the certificate that has to be in db for it to be booted, in PEM form; nil if none has
	image, initrd string // files
	cert, module  []byte // see keyWorld
}

// newBootable builds and signs the packages for the kernel of a release, and makes an initramfs with them and our program.
func newBootable(t *testing.T, rel release) (b bootable) {
	t.Helper()
	b.name = rel.name
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
efivarfs=$(modinfo -k $K -n efivarfs)
[ "$efivarfs" = '(builtin)' ] || cp $efivarfs modules/000-$(basename $efivarfs)
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

// state returns the state of a step; "" if there is none.
func state(list []link, step string) string {
	if i := slices.IndexFunc(list, func(l link) bool { return l.Step == step }); i >= 0 {
		return list[i].State
	}
	return ""
}

// examined is what doctor --json writes.
type examined struct {
	Findings []link
	Kernels  []struct{ Kernel, Loads, Rule, Is string }
}

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
	var doctor, nobody examined
	read("doctor", &doctor)
	read("nobody", &nobody)
	for _, e := range []examined{doctor, nobody} {
		if len(e.Kernels) != 1 || e.Kernels[0].Kernel != b.kernel {
			t.Fatalf("doctor tells of kernels %+v, want %s", e.Kernels, b.kernel)
		}
	}
	// Only root sees keyrings, and others are told so.
	if mine, theirs := state(doctor.Findings, "keyrings"), state(nobody.Findings, "keyrings"); mine != "ok" || theirs != "unknown" {
		t.Errorf("keyrings are %q for root and %q for nobody, want ok and unknown: %+v", mine, theirs, nobody.Findings)
	}
	for i, l := range loadable {
		loads := outcome(t, l.module, said["modprobe "+l.module])
		if i == 0 {
			if first := outcome(t, l.module, early(out, l.module)); first != loads {
				t.Errorf("%s loads before anything else ran: %s, and later: %s", l.module, first, loads)
			}
		}
		var why struct{ Chains []struct{ Links []link } }
		read("why "+l.pkg, &why)
		if len(why.Chains) != 1 {
			t.Fatalf("why %s tells of %d kernels, want 1", l.pkg, len(why.Chains))
		}
		b.judge(t, w, i, loads, doctor, nobody, why.Chains[0].Links)
	}
}

// judge compares what doctor said, to root and to nobody, and why, with what the kernel did with a module.
func (b bootable) judge(t *testing.T, w keyWorld, i int, loads string, doctor, nobody examined, why []link) {
	t.Helper()
	module, root, others := loadable[i].module, doctor.Kernels[0], nobody.Kernels[0]
	want, says := w.kernels.of(b.name)
	if w.first && i > 0 {
		want, says = allLoad.of(b.name)
	}
	t.Logf("%s: %s loads: %s; doctor: %s (%s), to nobody: %s (%s); why: %s", b.kernel, module, loads,
		root.Loads, root.Rule, others.Loads, others.Rule, state(why, "signed"))
	if version.Compare(b.kernel, "7.4") >= 0 {
		// The archive has moved on to a kernel that nobody has tried: a verdict may be unknown, and never wrong.
		if state(why, "signed") == "unknown" {
			return
		}
		want, says = loads, loads
	}
	if loads != want {
		t.Errorf("%s loads: %s, want %s", module, loads, want)
	}
	if got, want := state(why, "signed"), map[string]string{"yes": "ok", "no": "bad", "unknown": "unknown"}[says]; got != want {
		t.Errorf("why says %q of the signature of %s, want %q: %+v", got, module, want, why)
	}
	if w.first && i == 0 {
		return // doctor tells of keys, and not of modules
	}
	if root.Loads != says {
		t.Errorf("doctor says that %s loads: %s, want %s: %s", module, root.Loads, says, root.Is)
	}
	if others.Loads != "unknown" && others.Loads != loads {
		t.Errorf("doctor says to nobody that %s loads: %s, want %s or unknown: %s", module, others.Loads, loads, others.Is)
	}
}

// outcome reports whether a kernel has loaded a module, by what was printed: "yes", or "no" if its signature was refused.
// Any other failure fails the test.
func outcome(t *testing.T, module, printed string) string {
	t.Helper()
	lower := strings.ToLower(printed)
	switch {
	case strings.HasSuffix(strings.TrimSpace(lower), "loaded"):
		return "yes"
	case strings.Contains(lower, "key was rejected by service"), strings.Contains(lower, "operation not permitted"):
		return "no"
	}
	t.Errorf("%s is neither loaded nor refused for its signature: %q", module, printed)
	return ""
}

// early returns what was printed about a module that was loaded before anything else ran.
func early(out, module string) string {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "load "+module+".") {
			return strings.ReplaceAll(line, ": ok\n", ": loaded\n")
		}
	}
	return ""
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
	args := w.args
	if b.enrolled != nil {
		r.Write("/tmp/kernel.pem", string(b.enrolled), 0o644)
		args = append([]string{"--add-db", shim, "/tmp/kernel.pem"}, args...)
	}
	r.Write("/tmp/grub.cfg", "set timeout=0\nlinux /vmlinuz console=ttyS0 panic=-1 quiet\ninitrd /initrd\nboot\n", 0o644)
	r.copyIn(b.image, "/tmp/vmlinuz")
	r.copyIn(b.initrd, "/tmp/initrd")
	r.Sh(`cd /tmp
		virt-fw-vars -i /usr/share/OVMF/OVMF_VARS_4M.ms.fd --set-json vars.json ` + strings.Join(args, " ") + ` -o vars.fd
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
	return vmLines(t, out)
}
