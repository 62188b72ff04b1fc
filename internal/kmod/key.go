// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"dkms-kernel-install/internal/files"
)

const (
	rsaBits = 2048

	// certDays is how long a certificate is valid, in days. Neither shim nor the
	// kernel looks at that, and a renewed certificate would have to be enrolled at
	// the console again.
	certDays = 36500

	keyName = "DKMS module signing key"
)

// Made reports whether [GenerateKey] seems to have made c.
func Made(c *x509.Certificate) bool {
	return c.Subject.CommonName == keyName && bytes.Equal(c.RawSubject, c.RawIssuer)
}

// GenerateKey makes what is missing of a signing key at keyPath (RSA, PKCS #8 in PEM
// form, mode 0600) and its self-signed certificate at certPath (X.509 in DER form,
// mode 0644), for enrolment as a machine owner key. If both files exist it does
// nothing.
//
// The certificate has the common name "DKMS module signing key" and the extended key
// usage code signing. It is not a certificate authority. It does not have shim's usage
// for modules only, because people sign their own kernels with this key too.
//
// The directories of both must exist. Two processes must not call GenerateKey for the
// same files at once.
func GenerateKey(keyPath, certPath string) error {
	haveKey, err := exists(keyPath)
	if err != nil {
		return err
	}
	haveCert, err := exists(certPath)
	if err != nil {
		return err
	}

	// The key comes first. A run that is killed between the two leaves a key without
	// a certificate, and the next run makes one for it. The other way round it would
	// leave a certificate, perhaps to be enrolled, that nothing can be signed for.
	var key crypto.Signer
	switch {
	case haveKey && haveCert:
		return nil
	case haveKey:
		key, err = readKey(keyPath)
		if err != nil {
			return fmt.Errorf("make a certificate for the existing key: %w", err)
		}
	default:
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return fmt.Errorf("generate signing key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("generate signing key: %w", err)
		}
		data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		f, err := create(keyPath, data, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if haveCert {
			// Its key is lost. It goes first, so that it is never seen beside a
			// key that is not its own. It is kept, because only it can tell which
			// enrolled key it was.
			if err := os.Rename(certPath, certPath+".old"); err != nil {
				return err
			}
			if err := files.SyncDir(filepath.Dir(certPath)); err != nil {
				return err
			}
		}
		if err := f.Commit(); err != nil {
			return err
		}
	}

	cert, err := newCertificate(key)
	if err != nil {
		return fmt.Errorf("make certificate for the key %s: %w", keyPath, err)
	}
	return writeFile(certPath, cert, 0o644)
}

// newCertificate returns a self-signed certificate for key in DER form.
func newCertificate(key crypto.Signer) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	var public struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &public); err != nil {
		return nil, err
	}
	// RFC 5280, 4.2.1.2, method 1, as OpenSSL has it. The kernel finds keys by this identifier.
	id := sha1.Sum(public.Key.Bytes)
	now := time.Now()
	template := &x509.Certificate{
		// No SerialNumber: a random one is chosen.
		Subject:               pkix.Name{CommonName: keyName},
		NotBefore:             now,
		NotAfter:              now.AddDate(0, 0, certDays),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true,
		SubjectKeyId:          id[:],
		AuthorityKeyId:        id[:],
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// writeFile makes the file at path with the given content and permissions, which it
// has before there is anything in it. After a crash it is there whole, or not at all.
func writeFile(path string, data []byte, perm fs.FileMode) error {
	f, err := create(path, data, perm)
	if err != nil {
		return err
	}
	return f.Commit()
}

// create is writeFile, except for the commit.
func create(path string, data []byte, perm fs.FileMode) (*files.File, error) {
	f, err := files.Create(path, perm, files.Options{Durable: true})
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(data); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
