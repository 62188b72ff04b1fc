// SPDX-License-Identifier: GPL-2.0-or-later

package secureboot

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"
)

// certificate returns a certificate with that name.
func certificate(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, SubjectKeyId: []byte(name),
		NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The kernels that were tried in a virtual machine, and others. All check signatures.
const (
	bookworm  = "6.1.0-40-amd64"
	trixie    = "6.12.43+deb13-cloud-amd64"
	backports = "7.3.4+deb13-amd64"
	plain     = "6.12.43" // without Debian's changes
)

var options = map[string]string{
	"CONFIG_MODULE_SIG": "y", "CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT": "y", "CONFIG_INTEGRITY_MACHINE_KEYRING": "y",
}

// TestDecide has a row for each world in which loading a module was tried, and for what is
// not known. A row begins with Secure Boot on, our key nowhere, and rings not to be seen.
func TestDecide(t *testing.T) {
	c, other := certificate(t, "ours"), certificate(t, "other")
	x509Of := func(list ...*x509.Certificate) (l List) {
		for _, c := range list {
			l.Entries = append(l.Entries, Entry{kindX509, c.Raw})
		}
		return l
	}
	tbs := sha256.Sum256(c.RawTBSCertificate)
	bad := errors.New("cut off")
	trusted := func(w *World) { w.MOK, w.Trusted = x509Of(other, c), Yes }
	untrusted := func(w *World) { w.MOK, w.Trusted = x509Of(c), No }
	db := func(w *World) { w.DB = x509Of(c) }
	nowhere := func(*World) {}
	ring := func(name string) func(*World) {
		return func(w *World) {
			w.Enforcing, w.Rings = Yes, Rings{ringBuiltin: {{"build", "00"}}, name: {{"ours", KeyID(c)}}}
		}
	}
	for _, row := range []struct {
		world    string
		kernels  []string
		set      func(*World)
		want     Answer
		wantRule string
	}{
		{"(a) db", []string{bookworm, trixie, backports}, db, Yes, "enrolled-debian"},
		{"(a) db", []string{plain}, db, Unknown, "enrolled-unknown"},
		{"(a) db, seen in its ring", []string{trixie}, ring(ringPlatform), Yes, "platform-ring"},
		{"(a) db, seen in its ring", []string{plain}, ring(ringPlatform), Unknown, "platform-ring-unknown"},
		{"(b) MOK, trusted", []string{bookworm, trixie, backports, plain}, trusted, Yes, "mok-trusted"},
		{"(b) MOK, seen in its ring", []string{bookworm, plain}, ring(ringMachine), Yes, "machine-ring"},
		{"(c) MOK, not trusted", []string{bookworm, trixie, backports}, untrusted, Yes, "enrolled-debian"},
		{"(c) MOK, not trusted", []string{plain}, untrusted, Unknown, "enrolled-unknown"},
		{"(d) nowhere", []string{bookworm, trixie, backports, plain}, nowhere, No, "not-enrolled"},
		{"(d) nowhere, rings seen", []string{trixie, plain}, func(w *World) {
			w.Enforcing, w.Rings = Yes, Rings{ringBuiltin: {{"build", "00"}}, ringMachine: {{"other", "01"}}}
		}, No, "not-enrolled"},
		{"(e) revoked by its certificate", []string{bookworm, trixie, backports, plain},
			func(w *World) { trusted(w); w.Revoked = x509Of(c) }, Yes, "mok-trusted"},
		{"(e) revoked by its certificate, which counts", []string{trixie},
			func(w *World) { trusted(w); w.Revoked, w.RevokesKeys = x509Of(c), Yes }, Unknown, "key-revoked-unknown"},
		{"(e) hash of the file", []string{bookworm, trixie}, func(w *World) { trusted(w); w.FileRevoked = Yes }, No, "file-revoked"},
		{"(e) hash of the file", []string{backports}, func(w *World) { trusted(w); w.FileRevoked = Yes }, Yes, "mok-trusted"},
		{"(e) hash of the file", []string{plain}, func(w *World) { trusted(w); w.FileRevoked = Yes }, Unknown, "file-revoked-unknown"},
		{"(e) hash of the certificate with a time", []string{trixie},
			func(w *World) {
				trusted(w)
				w.Revoked.Entries = []Entry{{kindX509Hash, append(tbs[:], make([]byte, 16)...)}}
			}, Yes, "mok-trusted"},
		{"(e) hash of the certificate alone", []string{trixie},
			func(w *World) { trusted(w); w.Revoked.Entries = []Entry{{kindX509Hash, tbs[:]}} }, No, "key-kept-out"},
		{"asked for", []string{trixie, plain}, func(w *World) { w.Waiting = x509Of(c) }, No, "waiting"},
		{"(f) Secure Boot off", []string{bookworm, trixie, plain}, func(w *World) { trusted(w); w.SecureBoot = No }, Yes, "secure-boot-off"},
		{"(f) Secure Boot off, running", []string{trixie}, func(w *World) { w.SecureBoot, w.Enforcing = No, No }, Yes, "secure-boot-off"},
		{"validation off", []string{trixie, plain}, func(w *World) { w.ValidationOff = Yes }, Yes, "validation-off"},

		{"no EFI", []string{trixie, plain}, func(w *World) { *w.Firmware = Firmware{EFI: No, SecureBoot: No, ValidationOff: No, Trusted: No} }, Yes, "no-efi"},
		{"no EFI, enforced", []string{trixie, plain},
			func(w *World) {
				*w.Firmware = Firmware{EFI: No, SecureBoot: No, ValidationOff: No, Trusted: No}
				w.Forced = Yes
			}, No, "no-mok"},
		{"Secure Boot off, enforced: no MOK is read", []string{trixie}, func(w *World) { trusted(w); w.SecureBoot, w.Forced = No, Yes }, No, "no-mok"},
		{"Secure Boot not known, enrolled", []string{trixie, plain}, func(w *World) { trusted(w); w.SecureBoot = Unknown }, Yes, "mok-trusted"},
		{"Secure Boot not known, enforced, enrolled", []string{trixie, plain}, func(w *World) { trusted(w); w.SecureBoot, w.Forced = Unknown, Yes }, Unknown, "enrolled-unknown"},
		{"unsigned", []string{trixie, plain}, func(w *World) { w.Signs, w.Certificate = No, nil }, No, "unsigned"},
		{"unsigned, no EFI", []string{plain},
			func(w *World) { *w.Firmware, w.Signs, w.Forced = Firmware{EFI: No, SecureBoot: No}, No, Yes }, No, "unsigned-no-mok"},
		{"the certificate cannot be read", []string{trixie}, func(w *World) { w.Signs, w.Certificate = Unknown, nil }, Unknown, "unknown"},
		{"variables that cannot be read", []string{trixie}, func(w *World) { *w.Firmware = Firmware{EFI: Yes, MOK: List{Err: bad}, DB: List{Err: bad}} }, Unknown, "unknown"},
		{"MokListRT cut off", []string{trixie, plain}, func(w *World) { w.MOK.Err = bad }, Unknown, "unknown"},
		{"MokListXRT cut off", []string{trixie}, func(w *World) { trusted(w); w.Revoked.Err = bad }, Unknown, "enrolled-unknown"},
		{"MokListXRT cut off, for a module", []string{trixie}, func(w *World) { trusted(w); w.FileRevoked = Unknown }, Unknown, "file-revoked-unknown"},
		{"no configuration", []string{"6.12"}, func(w *World) { w.Kernel = NewKernel("6.12", "debian", nil) }, Unknown, "unknown"},
		{"no configuration, and it does not enforce", []string{"6.12"}, func(w *World) { w.Kernel = NewKernel("6.12", "debian", nil); w.Enforcing = No }, Yes, "not-enforcing"},
		{"no signatures", []string{"6.12"}, func(w *World) { w.Checks = No }, Yes, "no-signatures"},
		{"nothing says that Secure Boot counts", []string{plain}, func(w *World) { w.LocksDown = Unknown }, Unknown, "unknown"},
		{"only authorities", []string{plain}, func(w *World) { trusted(w); w.AnyLeaf = No }, Unknown, "enrolled-unknown"},
		{"built in, maybe", []string{plain}, func(w *World) { w.Bare = false }, Unknown, "not-enrolled-unknown"},
		{"built in", []string{plain}, ring(ringBuiltin), Yes, "trusted-ring"},
	} {
		for _, release := range row.kernels {
			w := World{
				Kernel:   NewKernel(release, "debian", func(name string) string { return options[name] }),
				Firmware: &Firmware{EFI: Yes, SecureBoot: Yes, ValidationOff: No, Trusted: Yes},
				Key:      Key{Signs: Yes, Certificate: c, File: "/mok.pub", FileRevoked: No, Ours: true},
			}
			row.set(&w)
			if v := w.Decide(); v.Loads != row.want || v.Rule != row.wantRule {
				t.Errorf("%s, %s: %v by %s, want %v by %s", row.world, release, v.Loads, v.Rule, row.want, row.wantRule)
			} else if v.Is == "" || v.Do == "" && v.Loads != Yes {
				t.Errorf("%s, %s: it says nothing: %+v", row.world, release, v)
			}
		}
	}
}

// TestRules checks that the rules have names of their own, and that the last one always
// applies.
func TestRules(t *testing.T) {
	var names []string
	for _, r := range rules {
		if slices.Contains(names, r.name) {
			t.Errorf("two rules are called %s", r.name)
		}
		names = append(names, r.name)
	}
	if v := (World{Firmware: &Firmware{}}).Decide(); v.Loads != Unknown {
		t.Errorf("nothing is known, and the verdict is %+v", v)
	}
}

func TestNewKernel(t *testing.T) {
	for _, row := range []struct {
		release, distribution string
		want                  bool
	}{
		{bookworm, "debian", true}, {trixie, "debian", true}, {backports, "debian", true},
		{"6.1.0-0.deb11.13-amd64", "debian", true}, {"6.12.9+bpo-amd64", "debian", true}, {"6.12.43+deb13-rt-arm64", "debian", true},
		{"6.12.43-amd64", "debian", false}, {plain, "debian", false}, {"6.8.12-1-pve", "debian", false}, {"5.10.0-30-amd64", "debian", false},
		{trixie, "ubuntu", false}, {"6.8.0-31-generic", "ubuntu", false},
	} {
		if got := NewKernel(row.release, row.distribution, nil).Debian; got != row.want {
			t.Errorf("%s on %s is Debian's: %v", row.release, row.distribution, got)
		}
	}
	for name, want := range map[string]Answer{"CONFIG_MODULE_SIG_FORCE": Yes, "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY": Yes, "CONFIG_IMA_ARCH_POLICY": Unknown, "CONFIG_EFI": No} {
		set := func(option string) string { return map[string]string{name: "y"}[option] }
		if got := NewKernel(plain, "debian", set).Forced; got != want {
			t.Errorf("with %s, signatures are enforced: %v", name, got)
		}
	}
	if k := NewKernel("8.0.1+deb14-amd64", "debian", nil); k.TakesPlatform != Unknown || k.RefusesFiles != Unknown {
		t.Errorf("of a later kernel more is known than can be: %+v", k)
	}
}

func TestReadEnforcing(t *testing.T) {
	for _, row := range []struct {
		sigEnforce, lockdown, lsm string
		want                      Answer
	}{
		{"Y\n", "", "", Yes}, {"N\n", "none [integrity] confidentiality\n", "", Yes}, {"", "none integrity [confidentiality]\n", "", Yes},
		{"N\n", "[none] integrity confidentiality\n", "", No}, {"N\n", "", "", Unknown}, {"", "[none] integrity confidentiality\n", "", Unknown}, {"", "", "", Unknown},
		{"N\n", "", "capability,yama", No}, {"N\n", "", "lockdown,capability", Unknown}, {"", "", "capability", Unknown},
	} {
		if got := ReadEnforcing(row.sigEnforce, row.lockdown, row.lsm); got != row.want {
			t.Errorf("%q, %q, %q: %v", row.sigEnforce, row.lockdown, row.lsm, got)
		}
	}
}
