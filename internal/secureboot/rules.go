// SPDX-License-Identifier: GPL-2.0-or-later

package secureboot

// rule is one of the rules of verdicts.
type rule struct {
	name    string
	loads   Answer
	applies func(f facts) bool
	is      string // one sentence
	do      string // IMPORT stands for the command that asks for enrolment
	names   bool   // what is not known is named after the sentence
}

const (
	enrol = "run as root: IMPORT; it asks for a password, for which MokManager asks at the console at the next boot"
	try   = "find out: load a module with modprobe under this kernel, and if it is refused, see dmesg"
)

// rules are the rules; the first that applies counts. Those that say Yes say what does not
// depend on anything that is not known.
var rules = []rule{
	{"no-signatures", Yes, func(f facts) bool { return f.Checks == No && f.Enforcing != Yes },
		"this kernel checks no signatures", "", false},
	{"no-efi", Yes, func(f facts) bool { return f.enforces == No && f.EFI == No },
		"this machine has no EFI and so no Secure Boot, and this kernel does not enforce signatures by itself", "", false},
	{"secure-boot-off", Yes, func(f facts) bool { return f.enforces == No && f.SecureBoot == No },
		"Secure Boot is off, and this kernel does not enforce signatures by itself", "", false},
	{"validation-off", Yes, func(f facts) bool { return f.enforces == No && f.ValidationOff == Yes },
		"shim does not validate (MokSBStateRT), so Secure Boot is off for this kernel", "", false},
	{"not-enforcing", Yes, func(f facts) bool { return f.enforces == No },
		"the running kernel does not enforce signatures (sig_enforce, lockdown)", "", false},

	{"unsigned-no-mok", No, func(f facts) bool { return f.enforces == Yes && f.Signs == No && f.reads == No },
		"this kernel enforces signatures, and modules are not signed", "sign with a key that this kernel has: see mok_signing_key in framework.conf(5); then run: dkms-kernel-install sync", false},
	{"unsigned", No, func(f facts) bool { return f.enforces == Yes && f.Signs == No },
		"this kernel enforces signatures, and modules are not signed", "run as root: dkms generate_mok, IMPORT, and dkms-kernel-install sync; then restart: MokManager asks at the console", false},
	{"file-revoked", No, func(f facts) bool { return f.enforces == Yes && f.FileRevoked == Yes && f.RefusesFiles == Yes },
		"the hash of the module is revoked (MokListXRT, dbx), and this kernel refuses it", "take the hash back: mokutil --mokx --delete-hash; or install another version of the package", false},
	{"file-revoked-unknown", Unknown, func(f facts) bool { return f.FileRevoked != No && f.RefusesFiles != No && f.enforces != No },
		"the hash of the module is revoked (MokListXRT, dbx), or may be; it is not known whether this kernel refuses it", try, true},
	{"key-kept-out", No, func(f facts) bool { return f.enforces == Yes && !f.ringsKnown && f.trusted == No && f.keptOut == Yes },
		"the hash of the certificate is revoked (MokListXRT, dbx): kernels keep its key out of all keyrings", "sign with another key: see mok_signing_key in framework.conf(5)", false},
	{"key-revoked-unknown", Unknown, func(f facts) bool { return f.revoked == Yes && f.RevokesKeys != No },
		"the certificate is revoked (MokListXRT, dbx); it is not known what that means for modules of a kernel with CONFIG_SYSTEM_REVOCATION_LIST", try, false},

	{"trusted-ring", Yes, func(f facts) bool { return f.trusted == Yes },
		"this kernel has the key in .builtin_trusted_keys or .secondary_trusted_keys", "", false},
	{"machine-ring", Yes, func(f facts) bool { return f.machine == Yes },
		"this kernel has the key in its keyring .machine", "", false},
	{"platform-ring", Yes, func(f facts) bool { return f.platform == Yes && f.TakesPlatform == Yes },
		"this kernel has the key in its keyring .platform, which Debian's kernels take for modules", "", false},
	{"platform-ring-unknown", Unknown, func(f facts) bool { return f.platform == Yes },
		"the key is in the keyring .platform alone; whether this kernel takes it for modules is not known", try, false},

	{"mok-trusted", Yes, func(f facts) bool {
		return f.counts && !f.ringsKnown && f.mok == Yes && f.Trusted == Yes && f.Machine == Yes && f.leaf == Yes && f.keptOut == No
	}, "the key is enrolled (MokListRT), and kernels may trust it for modules (MokListTrustedRT)", "", false},
	{"enrolled-debian", Yes, func(f facts) bool {
		return f.counts && !f.ringsKnown && either(f.mok, f.db) == Yes && f.TakesPlatform == Yes && f.keptOut == No
	}, "the key is enrolled (MokListRT or db), and Debian's kernels take all enrolled keys for modules", "", false},
	{"enrolled-unknown", Unknown, func(f facts) bool { return f.reads != No && !f.ringsKnown && either(f.mok, f.db) == Yes },
		"the key is enrolled (MokListRT or db); whether this kernel takes it for modules is not known", try, true},

	{"no-mok", No, func(f facts) bool { return f.enforces == Yes && f.nowhere() && f.reads == No },
		"this kernel enforces signatures, and does not have the key; without Secure Boot it takes none from elsewhere",
		"build the kernel with the certificate in CONFIG_SYSTEM_TRUSTED_KEYS, or sign with a key that it has: see mok_signing_key in framework.conf(5)", false},
	{"waiting", No, func(f facts) bool { return f.enforces == Yes && f.nowhere() && f.waiting == Yes },
		"the key waits to be enrolled (MokNew)", "restart, and confirm it in MokManager, which waits ten seconds for a key at the console; if nobody is there, the request is lost, and must be made again", false},
	{"not-enrolled", No, func(f facts) bool { return f.enforces == Yes && f.nowhere() },
		"this kernel enforces signatures, and the key is enrolled nowhere", enrol, false},
	{"not-enrolled-unknown", Unknown, func(f facts) bool {
		return f.enforces == Yes && f.trusted == Unknown && f.reads == Yes && f.mok == No && f.db == No && f.EFI == Yes
	},
		"this kernel enforces signatures, and the key is not enrolled; whether the kernel itself brings it is not known", "if it does not, " + enrol, false},
	{"unknown", Unknown, func(facts) bool { return true },
		"not all that decides is known", "run this as root, outside of containers, with efivarfs mounted; or " + try, true},
}

// nowhere reports whether the kernel has the key from nowhere.
func (f facts) nowhere() bool {
	if f.Certificate == nil {
		return false
	}
	if f.ringsKnown {
		return f.trusted == No && f.machine == No && f.platform == No
	}
	return f.trusted == No && (f.reads == No || f.mok == No && f.db == No)
}
