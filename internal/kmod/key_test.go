// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/testskip"
)

func TestGenerateKey(t *testing.T) {
	dir := t.TempDir()
	keyPath, certPath := filepath.Join(dir, "mok.key"), filepath.Join(dir, "mok.pub")
	if err := GenerateKey(keyPath, certPath); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{keyPath: 0o600, certPath: 0o644} {
		if st := must(os.Stat(path)); st.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, st.Mode(), want)
		}
	}
	wantFiles(t, dir, "mok.key", "mok.pub")

	keyPEM := must(os.ReadFile(keyPath))
	block, rest := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		t.Fatalf("the key is not one PEM block of a PKCS #8 key")
	}
	key, ok := must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*rsa.PrivateKey)
	if !ok || key.N.BitLen() != 2048 {
		t.Error("the key is not RSA with 2048 bits")
	}

	certDER := must(os.ReadFile(certPath))
	cert := must(x509.ParseCertificate(certDER))
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		t.Error("not self-signed:", err)
	}
	if cert.Subject.String() != "CN=DKMS module signing key" || !bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		t.Errorf("subject %s, issuer %s", cert.Subject, cert.Issuer)
	}
	if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}) || len(cert.UnknownExtKeyUsage) > 0 {
		t.Errorf("extended key usage %v %v", cert.ExtKeyUsage, cert.UnknownExtKeyUsage)
	}
	if cert.KeyUsage != x509.KeyUsageDigitalSignature || !cert.BasicConstraintsValid || cert.IsCA {
		t.Errorf("key usage %v, basic constraints %v, CA %v", cert.KeyUsage, cert.BasicConstraintsValid, cert.IsCA)
	}
	if len(cert.SubjectKeyId) != 20 || !bytes.Equal(cert.SubjectKeyId, cert.AuthorityKeyId) {
		t.Errorf("subject key id %x, authority key id %x", cert.SubjectKeyId, cert.AuthorityKeyId)
	}
	if days := cert.NotAfter.Sub(cert.NotBefore).Hours() / 24; days != 36500 || time.Since(cert.NotBefore) > time.Hour {
		t.Errorf("valid from %v to %v", cert.NotBefore, cert.NotAfter)
	}
	if cert.SerialNumber.BitLen() < 64 {
		t.Errorf("serial number %v", cert.SerialNumber)
	}

	s, err := LoadSigner(keyPath, certPath, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(testModule())
	if err != nil {
		t.Fatal(err)
	}
	verify(t, signed, testModule(), s)

	// What is there stays.
	if err := GenerateKey(keyPath, certPath); err != nil {
		t.Fatal(err)
	}
	wantContent(t, keyPath, keyPEM)
	wantContent(t, certPath, certDER)
}

// TestGenerateKeyOpenSSL compares the identifier that the kernel finds keys by with what openssl makes of the key.
func TestGenerateKeyOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		testskip.For(t, "needs openssl: "+err.Error())
	}
	dir := t.TempDir()
	keyPath, certPath := filepath.Join(dir, "mok.key"), filepath.Join(dir, "mok.pub")
	if err := GenerateKey(keyPath, certPath); err != nil {
		t.Fatal(err)
	}
	ours := must(x509.ParseCertificate(must(os.ReadFile(certPath))))
	theirs := must(x509.ParseCertificate(filter(t, nil, "openssl", "req", "-new", "-x509", "-key", keyPath,
		"-subj", "/CN=x", "-addext", "subjectKeyIdentifier=hash", "-outform", "DER")))
	if !bytes.Equal(ours.SubjectKeyId, theirs.SubjectKeyId) {
		t.Errorf("subject key id %x, openssl has %x", ours.SubjectKeyId, theirs.SubjectKeyId)
	}
}

// TestGenerateKeyHeals begins with what a run that was killed, or a person, can leave.
func TestGenerateKeyHeals(t *testing.T) {
	tests := []struct {
		name  string
		files map[string][]byte
		after []string
		keeps string // a file that must not change
	}{
		{"key without certificate", map[string][]byte{"key": pkcs8(rsaKey())}, []string{"cert", "key"}, "key"},
		{"EC key without certificate", map[string][]byte{"key": pkcs8(p256Key())}, []string{"cert", "key"}, "key"},
		{"certificate without key", map[string][]byte{"cert": testCert(rsaKey())}, []string{"cert", "cert.old", "key"}, ""},
		{"half a key", map[string][]byte{files.TempName("key"): []byte("-----BEGIN")}, []string{"cert", "key"}, ""},
		{"half a certificate", map[string][]byte{"key": pkcs8(rsaKey()), files.TempName("cert"): {0x30}}, []string{"cert", "key"}, "key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			keyPath, certPath := filepath.Join(dir, "key"), filepath.Join(dir, "cert")
			if err := GenerateKey(keyPath, certPath); err != nil {
				t.Fatal(err)
			}
			wantFiles(t, dir, tt.after...)
			if tt.keeps != "" {
				wantContent(t, filepath.Join(dir, tt.keeps), tt.files[tt.keeps])
			}
			if old := filepath.Join(dir, "cert.old"); slices.Contains(tt.after, "cert.old") {
				wantContent(t, old, tt.files["cert"])
			}
			if st := must(os.Stat(keyPath)); tt.keeps != "key" && st.Mode() != 0o600 {
				t.Errorf("the key has mode %v", st.Mode())
			}
			if _, err := LoadSigner(keyPath, certPath, "sha256"); err != nil {
				t.Error("the pair cannot sign:", err)
			}
		})
	}
}

func TestGenerateKeyErrors(t *testing.T) {
	dir := t.TempDir()
	keyPath, certPath := filepath.Join(dir, "key"), filepath.Join(dir, "cert")
	if err := os.WriteFile(keyPath, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := GenerateKey(keyPath, certPath); err == nil || !strings.Contains(err.Error(), keyPath) {
		t.Errorf("error %v, want one that names the bad key", err)
	}
	wantContent(t, keyPath, []byte("no key"))
	wantFiles(t, dir, "key")

	missing := filepath.Join(dir, "missing")
	if err := GenerateKey(filepath.Join(missing, "key"), filepath.Join(missing, "cert")); err == nil {
		t.Error("no error for a directory that is not there")
	}
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	var names []string
	for _, e := range must(os.ReadDir(dir)) {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
}

func wantContent(t *testing.T, path string, want []byte) {
	t.Helper()
	if !bytes.Equal(must(os.ReadFile(path)), want) {
		t.Errorf("%s has changed", path)
	}
}
