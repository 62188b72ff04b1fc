// SPDX-License-Identifier: GPL-2.0-or-later

package secureboot

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/version"
)

// Kernel is what decides which modules a kernel loads, apart from keys.
type Kernel struct {
	Release   string
	Checks    Answer // it checks signatures (CONFIG_MODULE_SIG)
	Forced    Answer // it enforces them, with Secure Boot or without
	LocksDown Answer // it enforces them in Secure Boot
	// Enforcing is what the kernel says of itself, if it runs.
	Enforcing Answer
	// Machine is whether it trusts the keys of shim by its own configuration, AnyLeaf
	// whether it does without their being certificate authorities.
	Machine, AnyLeaf Answer
	// TakesPlatform is whether keys that shim and the firmware have only for booting count
	// for modules.
	TakesPlatform Answer
	// RefusesFiles is whether it looks for the hash of a module among what is revoked.
	RefusesFiles Answer
	// RevokesKeys is whether a certificate that is revoked counts for modules
	// (CONFIG_SYSTEM_REVOCATION_LIST).
	RevokesKeys Answer
	// Debian is whether it is one of Debian's, whose builds have no key but Debian's; Bare,
	// whether it was configured to have no key but the one that its own build made.
	Debian, Bare bool
}

var debianRelease = lazy.Regexp(`^[0-9]+\.[0-9.]+(-[0-9][0-9a-z.]*|\+[a-z0-9.+]+)-((cloud|rt)-)?(amd64|arm64)$`)

var majorMinor = lazy.Regexp(`^[0-9]+\.[0-9]+`)

// NewKernel returns what is known of a kernel by its configuration, of which option
// returns the values. Without a configuration option is nil. Distribution is the ID of
// os-release(5): Debian's kernels differ from others in what no option says.
func NewKernel(release, distribution string, option func(name string) string) Kernel {
	k := Kernel{Release: release}
	if option != nil {
		on := func(names ...string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return option("CONFIG_"+name) == "y" })
		}
		k.Checks = If(on("MODULE_SIG") || option("CONFIG_MODULE_SIG_HASH") != "")
		k.Forced = If(on("MODULE_SIG_FORCE", "LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY"))
		if k.Forced == No && on("IMA_ARCH_POLICY") && !on("EFI") {
			k.Forced = Unknown // other firmware may have a Secure Boot of its own
		}
		if on("LOCK_DOWN_IN_EFI_SECURE_BOOT", "IMA_ARCH_POLICY") {
			k.LocksDown = Yes
		}
		k.Machine, k.AnyLeaf = If(on("INTEGRITY_MACHINE_KEYRING")), If(!on("INTEGRITY_CA_MACHINE_KEYRING"))
		k.RevokesKeys = If(on("SYSTEM_REVOCATION_LIST"))
		key := option("CONFIG_MODULE_SIG_KEY")
		k.Bare = (key == "" || key == "certs/signing_key.pem") && option("CONFIG_SYSTEM_TRUSTED_KEYS") == "" && !on("SYSTEM_EXTRA_CERTIFICATE")
	}
	if v := majorMinor().FindString(release); distribution == "debian" && debianRelease().MatchString(release) && version.Compare(v, "6.1") >= 0 {
		k.Debian, k.LocksDown = true, Yes
		if version.Compare(v, "7.3") <= 0 {
			k.TakesPlatform = Yes
		}
		switch {
		case version.Compare(v, "6.12") <= 0:
			k.RefusesFiles = Yes
		case v == "7.3":
			k.RefusesFiles = No
		}
	}
	return k
}

// ReadEnforcing returns whether the running kernel enforces signatures, by the content of
// its sig_enforce and lockdown, and of lsm, which lists what is active; "" is what cannot
// be read.
func ReadEnforcing(sigEnforce, lockdown, lsm string) Answer {
	active := lsm == "" || slices.Contains(strings.Split(strings.TrimSpace(lsm), ","), "lockdown")
	switch {
	case strings.TrimSpace(sigEnforce) == "Y", strings.Contains(lockdown, "[integrity]"), strings.Contains(lockdown, "[confidentiality]"):
		return Yes
	case strings.TrimSpace(sigEnforce) == "N" && (strings.Contains(lockdown, "[none]") || !active):
		return No
	}
	return Unknown
}

// Key is the key of a module.
type Key struct {
	// Signs is whether the module has a signature that is made with the key.
	Signs Answer
	// Certificate is nil if it is not known; File is where it is, for people.
	Certificate *x509.Certificate
	File        string
	PEM         bool // it is in PEM form, which mokutil does not read
	// Ours is whether this program made it: no build of a kernel did.
	Ours bool
	// FileRevoked is whether the module itself is revoked, by the hash of its file.
	FileRevoked Answer
}

// World is all that a verdict depends on.
type World struct {
	Kernel
	*Firmware
	Key
	Rings    Rings // of the kernel, if it runs; nil if they are not known
	RingsErr error // why they are not, if it runs
}

// Verdict says whether a kernel loads a module.
type Verdict struct {
	Loads Answer
	Rule  string // its name
	Is    string // what the rule says
	Do    string // what to do, or how to find out; "" if there is nothing
}

// Decide returns the verdict of the first rule that applies.
func (w World) Decide() Verdict {
	f := w.facts()
	for _, r := range rules {
		if !r.applies(f) {
			continue
		}
		v := Verdict{r.loads, r.name, r.is, r.do}
		if r.names {
			v.Is += f.unknowns()
		}
		v.Do = strings.ReplaceAll(v.Do, "IMPORT", w.Import())
		return v
	}
	panic("the last rule always applies")
}

// Enrols reports whether what to do is to enrol the key.
func (v Verdict) Enrols() bool { return v.Rule == "not-enrolled" || v.Rule == "not-enrolled-unknown" }

// Import returns the command that asks shim to enrol the key.
func (k Key) Import() string {
	if k.PEM {
		return fmt.Sprintf("openssl x509 -in %s -outform DER -out %[1]s.der && mokutil --import %[1]s.der", k.File)
	}
	return "mokutil --import " + k.File
}

// facts are what rules ask for.
type facts struct {
	World
	enforces                   Answer
	trusted, machine, platform Answer // in the rings of the running kernel
	ringsKnown                 bool
	mok, db, waiting           Answer
	revoked, keptOut           Answer
	leaf                       Answer // the kernel lets the certificate be in .machine
	// reads is whether the kernel takes keys from shim and firmware, which needs Secure
	// Boot. Without it such keys are not needed, either, unless it enforces all the same.
	reads  Answer
	counts bool // so it loads what is signed with such a key
}

func (w World) facts() facts {
	f := facts{World: w, enforces: w.enforces(), leaf: w.AnyLeaf}
	switch {
	case w.SecureBoot == Yes && w.ValidationOff == No:
		f.reads = Yes
	case w.SecureBoot == No || w.ValidationOff == Yes:
		f.reads = No
	}
	f.counts = f.reads == Yes || f.reads == Unknown && w.Forced == No && w.Enforcing != Yes
	f.trusted = w.Rings.has(w.Certificate, ringBuiltin, ringSecondary)
	f.machine, f.platform = w.Rings.has(w.Certificate, ringMachine), w.Rings.has(w.Certificate, ringPlatform)
	f.ringsKnown = f.platform != Unknown
	if !f.ringsKnown && (w.Debian || w.Bare && w.Ours) {
		f.trusted = No
	}
	if c := w.Certificate; c != nil {
		f.mok, f.db, f.waiting = w.MOK.HasCertificate(c), w.DB.HasCertificate(c), w.Waiting.HasCertificate(c)
		f.revoked, f.keptOut = w.Revoked.HasCertificate(c), w.Revoked.hasHash(c)
	}
	return f
}

// enforces reports whether the kernel refuses what it cannot verify.
func (w World) enforces() Answer {
	switch {
	case w.Enforcing != Unknown:
		return w.Enforcing
	case w.Checks == No:
		return No
	case w.Forced == Yes:
		return Yes
	case w.SecureBoot == Yes && w.ValidationOff == No && w.LocksDown == Yes:
		return Yes
	case w.Forced == No && (w.SecureBoot == No || w.ValidationOff == Yes):
		return No
	}
	return Unknown
}

// unknowns names what keeps a verdict from being known.
func (f facts) unknowns() string {
	var list []string
	for _, err := range f.Errs {
		list = append(list, err.Error())
	}
	if f.RingsErr != nil {
		list = append(list, f.RingsErr.Error())
	}
	if f.Checks == Unknown {
		list = append(list, "the kernel has no configuration that can be read")
	}
	if f.Signs == Unknown || f.Signs == Yes && f.Certificate == nil {
		list = append(list, "the certificate of the key is not known")
	}
	if f.enforces == Unknown && f.SecureBoot == Yes && f.LocksDown == Unknown {
		list = append(list, "no option of this kernel says that it enforces signatures in Secure Boot")
	}
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf(": %s", strings.Join(list, "; "))
}
