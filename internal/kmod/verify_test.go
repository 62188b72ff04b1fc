// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"testing"
)

func TestVerify(t *testing.T) {
	module := []byte("a module")
	for _, key := range []crypto.Signer{rsaKey(), p256Key(), p384Key()} {
		for hash := range signatureHashes {
			der := testCert(key)
			paths := writeFiles(t, pkcs8(key), der)
			s, err := LoadSigner(paths[0], paths[1], hash)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := s.Sign(bytes.Clone(module))
			if err != nil {
				t.Fatal(err)
			}
			cert := must(x509.ParseCertificate(der))
			if err := Verify(signed, cert); err != nil {
				t.Errorf("%T, %s: %v", key, hash, err)
			}
			changed := bytes.Clone(signed)
			for i := range changed {
				changed[i] ^= 1
				if err := Verify(changed, cert); err == nil || i < len(module) && errors.Is(err, ErrForm) {
					t.Errorf("%T, %s, with byte %d changed: %v", key, hash, i, err)
				}
				changed[i] ^= 1
			}
			other := must(x509.ParseCertificate(testCert(otherKey(key))))
			if err := Verify(signed, other); err == nil {
				t.Errorf("%T, %s: another key verifies it", key, hash)
			}
		}
	}
	cert := must(x509.ParseCertificate(testCert(rsaKey())))
	if err := Verify(module, cert); err == nil {
		t.Error("there is no signature, and it verifies")
	}
	if err := Verify(appendSignature(bytes.Clone(module), []byte("nonsense")), cert); !errors.Is(err, ErrForm) {
		t.Errorf("nonsense: %v", err)
	}
}

// otherKey returns a key of the tests that is not key.
func otherKey(key crypto.Signer) crypto.Signer {
	if key == crypto.Signer(p256Key()) {
		return p384Key()
	}
	return p256Key()
}

// FuzzVerify checks that no signature makes it panic, or verifies a module that was changed.
func FuzzVerify(f *testing.F) {
	paths := make([]string, 2)
	dir := f.TempDir()
	paths[0], paths[1] = dir+"/key", dir+"/cert"
	if err := GenerateKey(paths[0], paths[1]); err != nil {
		f.Fatal(err)
	}
	s := must(LoadSigner(paths[0], paths[1], "sha256"))
	signed := must(s.Sign([]byte("a module")))
	f.Add(signed)
	f.Fuzz(func(t *testing.T, module []byte) {
		if Verify(module, s.cert) == nil && !bytes.Equal(StripSignature(module), StripSignature(signed)) {
			t.Errorf("%q verifies", module)
		}
	})
}
