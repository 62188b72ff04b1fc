// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dkms-kernel-install/internal/testskip"
)

// The keys of the tests, made once.
var (
	rsaKey  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384Key = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func pemBlock(label string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
}

func pkcs8(key any) []byte { return must(x509.MarshalPKCS8PrivateKey(key)) }

// testCert returns a certificate in DER form with an issuer of several parts, as the kernel's build and Ubuntu have it.
func testCert(key crypto.Signer) []byte {
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes([]byte{0xf0, 1, 2, 3, 4, 5, 6, 7}), // DER puts a zero before it
		Subject:      pkix.Name{Country: []string{"XX"}, Organization: []string{"Prüfung"}, CommonName: "module key"},
		NotBefore:    time.Unix(1_700_000_000, 0),
		NotAfter:     time.Unix(4_000_000_000, 0),
	}
	return must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
}

// writeFiles writes data into files of a new directory and returns their paths.
func writeFiles(t *testing.T, data ...[]byte) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i, d := range data {
		path := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(path, d, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func TestLoadSigner(t *testing.T) {
	rsaCert, p256Cert, p384Cert := testCert(rsaKey()), testCert(p256Key()), testCert(p384Key())
	pkcs1 := x509.MarshalPKCS1PrivateKey(rsaKey())
	sec1 := must(x509.MarshalECPrivateKey(p256Key()))
	ecParameters := pemBlock("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})
	both := slices.Concat([]byte("a comment\n"), pemBlock("PRIVATE KEY", pkcs8(rsaKey())), pemBlock("CERTIFICATE", rsaCert))
	tests := []struct {
		name      string
		key, cert []byte
	}{
		{"RSA, PKCS #8, PEM", pemBlock("PRIVATE KEY", pkcs8(rsaKey())), rsaCert},
		{"RSA, PKCS #8, DER", pkcs8(rsaKey()), rsaCert},
		{"RSA, PKCS #1, PEM", pemBlock("RSA PRIVATE KEY", pkcs1), rsaCert},
		{"RSA, PKCS #1, DER", pkcs1, rsaCert},
		{"RSA, label of the other form", pemBlock("PRIVATE KEY", pkcs1), rsaCert},
		{"P-256, PKCS #8, PEM", pemBlock("PRIVATE KEY", pkcs8(p256Key())), p256Cert},
		{"P-256, SEC 1, PEM", pemBlock("EC PRIVATE KEY", sec1), p256Cert},
		{"P-256, SEC 1, PEM with parameters", slices.Concat(ecParameters, pemBlock("EC PRIVATE KEY", sec1)), p256Cert},
		{"P-256, SEC 1, DER", sec1, p256Cert},
		{"P-384", pkcs8(p384Key()), p384Cert},
		{"certificate in PEM", pkcs8(rsaKey()), pemBlock("CERTIFICATE", rsaCert)},
		{"one file twice", both, both},
		{"one file", both, nil},
		{"one file, certificate first", slices.Concat(pemBlock("CERTIFICATE", p256Cert), pemBlock("EC PRIVATE KEY", sec1)), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			paths := append(writeFiles(t, tt.key, tt.cert), "")
			certPath := paths[1]
			switch {
			case tt.cert == nil:
				certPath = ""
			case bytes.Equal(tt.key, tt.cert):
				certPath = paths[0]
			}
			for hash := range signatureHashes {
				s, err := LoadSigner(paths[0], certPath, hash)
				if err != nil {
					t.Fatal(err)
				}
				signed, err := s.Sign(testModule())
				if err != nil {
					t.Fatal(err)
				}
				verify(t, signed, testModule(), s)
			}
		})
	}
}

// verify checks a signed module without the code that signed it, but for the definition of the structures.
func verify(t *testing.T, signed, module []byte, s *Signer) {
	t.Helper()
	rest, ok := bytes.CutPrefix(signed, module)
	if !ok {
		t.Fatal("the module has changed")
	}
	rest, ok = bytes.CutSuffix(rest, []byte("~Module signature appended~\n"))
	if !ok || len(rest) < 12 {
		t.Fatal("no magic at the end")
	}
	der, info := rest[:len(rest)-12], rest[len(rest)-12:]
	if want := []byte{0, 0, 2, 0, 0, 0, 0, 0, 0, 0, byte(len(der) >> 8), byte(len(der))}; !bytes.Equal(info, want) {
		t.Errorf("struct module_signature is %x, want %x", info, want)
	}
	var cms contentInfo
	if rest, err := asn1.Unmarshal(der, &cms); err != nil || len(rest) > 0 {
		t.Fatalf("CMS message: %v, %d bytes left", err, len(rest))
	}
	signer := cms.Content.SignerInfos[0]
	h := s.hash.hash.New()
	h.Write(module)
	switch key := s.cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(key, s.hash.hash, h.Sum(nil), signer.Signature); err != nil {
			t.Error(err)
		}
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, h.Sum(nil), signer.Signature) {
			t.Error("bad ECDSA signature")
		}
	}
}

func TestLoadSignerErrors(t *testing.T) {
	_, edKey := must2(ed25519.GenerateKey(rand.Reader))
	p224Key := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	good, cert := pemBlock("PRIVATE KEY", pkcs8(rsaKey())), testCert(rsaKey())
	legacy := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte("?"),
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}})
	tests := []struct {
		name      string
		key, cert []byte
		hash      string
		want      string
	}{
		{"hash", good, cert, "md5", `unknown signature hash "md5"`},
		{"no hash", good, cert, "", `unknown signature hash ""`},
		{"certificate of another key", good, testCert(p256Key()), "sha256", "is not of the key"},
		{"certificate of another EC key", pkcs8(p256Key()), testCert(p384Key()), "sha256", "is not of the key"},
		{"empty key", nil, cert, "sha256", "not a private key"},
		{"certificate for a key", cert, cert, "sha256", "not a private key"},
		{"PEM certificate for a key", pemBlock("CERTIFICATE", cert), cert, "sha256", "no private key in it"},
		{"key for a certificate", good, good, "sha256", "no certificate in it"},
		{"empty certificate", good, nil, "sha256", "not a certificate"},
		{"encrypted", pemBlock("ENCRYPTED PRIVATE KEY", []byte("?")), cert, "sha256", "is encrypted"},
		{"encrypted, old form", legacy, cert, "sha256", "is encrypted"},
		{"Ed25519", pkcs8(edKey), cert, "sha256", "neither RSA nor ECDSA"},
		{"P-224", pkcs8(p224Key), cert, "sha256", "is on the curve P-224"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			paths := writeFiles(t, tt.key, tt.cert)
			_, err := LoadSigner(paths[0], paths[1], tt.hash)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	if _, err := LoadSigner("pkcs11:object=key", "cert", "sha256"); err == nil || !strings.Contains(err.Error(), "is on a token") {
		t.Errorf("key on a token: error %v", err)
	}
	if _, err := LoadSigner(filepath.Join(t.TempDir(), "missing"), "", "sha256"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing key: error %v", err)
	}
}

func must2[T, U any](v T, u U, err error) (T, U) {
	return must(v, err), u
}

// signFile returns the command of the kernel's sign-file.
func signFile(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("DKMS_TEST_SIGN_FILE"); path != "" {
		return path
	}
	for _, pattern := range []string{
		"/usr/src/linux-headers-*/scripts/sign-file",
		"/usr/lib/linux-kbuild-*/scripts/sign-file",
	} {
		if paths := must(filepath.Glob(pattern)); len(paths) > 0 {
			return paths[0]
		}
	}
	testskip.For(t, "needs the kernel's sign-file: install a kernel's headers, or set DKMS_TEST_SIGN_FILE")
	return ""
}

func TestSignDifferential(t *testing.T) {
	t.Run("sign-file", func(t *testing.T) {
		program := signFile(t)
		keys := map[string]crypto.Signer{"RSA": rsaKey(), "P-256": p256Key(), "P-384": p384Key()}
		differential(t, keys, func(hash, key, cert, module string) []byte {
			dest := module + ".signed"
			if out, err := exec.Command(program, hash, key, cert, module, dest).CombinedOutput(); err != nil {
				t.Fatalf("sign-file: %v\n%s", err, out)
			}
			return must(os.ReadFile(dest))
		})
	})
	t.Run("openssl", func(t *testing.T) {
		if _, err := exec.LookPath("openssl"); err != nil {
			testskip.For(t, "needs openssl: "+err.Error())
		}
		// OpenSSL 3.0 has no ECDSA with SHA-3.
		keys := map[string]crypto.Signer{"RSA": rsaKey()}
		differential(t, keys, func(hash, key, cert, module string) []byte {
			der := filter(t, nil, "openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap",
				"-in", module, "-signer", cert, "-inkey", key, "-md", hash, "-outform", "DER")
			return appendSignature(must(os.ReadFile(module)), der)
		})
	})
}

// differential compares Sign, with each key and hash, with another program: a function from the hash and the paths of
// key and certificate (PEM) and module to the signed module.
func differential(t *testing.T, keys map[string]crypto.Signer, sign func(hash, key, cert, module string) []byte) {
	t.Helper()
	module := testModule()
	for name, key := range keys {
		paths := writeFiles(t, pemBlock("PRIVATE KEY", pkcs8(key)), pemBlock("CERTIFICATE", testCert(key)), module)
		for _, hash := range slices.Sorted(maps.Keys(signatureHashes)) {
			s, err := LoadSigner(paths[0], paths[1], hash)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := s.Sign(slices.Clone(module))
			if err != nil {
				t.Fatal(err)
			}
			theirs := sign(hash, paths[0], paths[1], paths[2])
			if !bytes.Equal(StripSignature(theirs), module) {
				t.Errorf("%s, %s: StripSignature does not take theirs off", name, hash)
			}
			if name == "RSA" {
				if !bytes.Equal(ours, theirs) {
					t.Errorf("%s, %s: ours\n%x\ntheirs\n%x", name, hash, ours[len(module):], theirs[len(module):])
				}
				continue
			}
			// The signatures are random. The rest is not.
			verify(t, theirs, module, s)
			if ours, theirs := withoutSignature(t, ours, module), withoutSignature(t, theirs, module); !bytes.Equal(ours, theirs) {
				t.Errorf("%s, %s, but for the signature: ours\n%x\ntheirs\n%x", name, hash, ours, theirs)
			}
		}
	}
}

// withoutSignature returns the CMS message of a signed module with nothing for the signature in it.
func withoutSignature(t *testing.T, signed, module []byte) []byte {
	t.Helper()
	der := signed[len(module) : len(signed)-signatureInfoSize-len(signatureMagic)]
	var cms contentInfo
	if _, err := asn1.Unmarshal(der, &cms); err != nil {
		t.Fatal(err)
	}
	cms.Content.SignerInfos[0].Signature = nil
	return must(asn1.Marshal(cms))
}

// TestOpenSSLVerifies has openssl verify our signatures against the certificate.
func TestOpenSSLVerifies(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		testskip.For(t, "needs openssl: "+err.Error())
	}
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey(), "P-256": p256Key(), "P-384": p384Key()} {
		t.Run(name, func(t *testing.T) {
			module := testModule()
			paths := writeFiles(t, pkcs8(key), pemBlock("CERTIFICATE", testCert(key)), module)
			s, err := LoadSigner(paths[0], paths[1], "sha256")
			if err != nil {
				t.Fatal(err)
			}
			signed, err := s.Sign(slices.Clone(module))
			if err != nil {
				t.Fatal(err)
			}
			der := signed[len(module) : len(signed)-signatureInfoSize-len(signatureMagic)]
			filter(t, der, "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-content", paths[2],
				"-certfile", paths[1], "-noverify", "-out", os.DevNull)
		})
	}
}

func TestStripSignature(t *testing.T) {
	module := testModule()
	signed := appendSignature(slices.Clone(module), []byte("signature"))
	info := func(b ...byte) []byte {
		return slices.Concat(module, b, []byte(signatureMagic))
	}
	tests := []struct {
		name   string
		module []byte
		want   int // length
	}{
		{"not signed", module, len(module)},
		{"signed", signed, len(module)},
		{"signed twice", appendSignature(slices.Clone(signed), []byte("second")), len(signed)},
		{"empty", nil, 0},
		{"only the magic", []byte(signatureMagic), len(signatureMagic)},
		{"magic cut", signed[:len(signed)-1], len(signed) - 1},
		{"bytes after the magic", append(slices.Clone(signed), 0), len(signed) + 1},
		{"nothing but a signature", signed[len(module):], 0},
		{"signature cut", signed[len(module)+1:], len(signed) - len(module) - 1},
		{"length of all", info(0, 0, 2, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), len(module) + 12 + len(signatureMagic)},
		{"old type", info(slices.Concat([]byte("namekeysig"), []byte{0, 0, 1, 4, 3, 0, 0, 0, 0, 0, 0, 3})...), len(module)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := StripSignature(tt.module)
			if len(got) != tt.want || !bytes.HasPrefix(tt.module, got) {
				t.Errorf("%d bytes, want the first %d of %d", len(got), tt.want, len(tt.module))
			}
			if HasSignature(tt.module) != (tt.want != len(tt.module)) {
				t.Errorf("HasSignature = %v", HasSignature(tt.module))
			}
		})
	}
}

// TestSignInPlace signs a module whose slice has room for the signature, as after StripSignature.
func TestSignInPlace(t *testing.T) {
	paths := writeFiles(t, pkcs8(rsaKey()), testCert(rsaKey()))
	s, err := LoadSigner(paths[0], paths[1], "sha512")
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Sign(testModule())
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Sign(StripSignature(slices.Clone(first)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, again) {
		t.Error("signing again gives something else")
	}
}

func FuzzStripSignature(f *testing.F) {
	f.Add(testModule(), []byte("signature"))
	f.Add([]byte(signatureMagic), []byte(nil))
	f.Add([]byte("\x00\x00\x02\x00\x00\x00\x00\x00\xff\xff\xff\xff"+signatureMagic), []byte("x"))
	f.Fuzz(func(t *testing.T, module, der []byte) {
		got := StripSignature(module)
		if !bytes.HasPrefix(module, got) {
			t.Error("not a part of the module")
		}
		if by, ok := SignedBy(module); ok != HasSignature(module) || ok && by == "" {
			t.Errorf("SignedBy = %q, %t", by, ok)
		}
		if HasSignature(module) != (len(got) < len(module)) {
			t.Error("HasSignature and StripSignature disagree")
		}
		if !bytes.Equal(StripSignature(appendSignature(slices.Clone(module), der)), module) {
			t.Error("a signature does not come off")
		}
	})
}

func TestSignedBy(t *testing.T) {
	dir := t.TempDir()
	key, cert := dir+"/key", dir+"/cert"
	if err := GenerateKey(key, cert); err != nil {
		t.Fatal(err)
	}
	s, err := LoadSigner(key, cert, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign([]byte("a module"))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("CN=DKMS module signing key, certificate %x", s.cert.SerialNumber)
	if by, ok := SignedBy(signed); !ok || by != want {
		t.Errorf("SignedBy = %q, %t; want %q", by, ok, want)
	}
	if by, ok := SignedBy([]byte("a module")); ok {
		t.Errorf("of a module without a signature, SignedBy = %q", by)
	}
	if by, ok := SignedBy(appendSignature([]byte("a module"), []byte("nonsense"))); !ok || by != "a signature that is not understood" {
		t.Errorf("of nonsense, SignedBy = %q, %t", by, ok)
	}
}
