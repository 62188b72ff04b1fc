// SPDX-License-Identifier: GPL-2.0-or-later

package explain

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/secureboot"
	"dkms-kernel-install/internal/tree"
)

// Key says what is true of the key that modules for k are signed with.
func Key(m *machine.Machine, k tree.Target) []Link { return signingKey(m, k, m.Loading(k)) }

// signingKey says what is true of the key that modules for k are signed with.
func signingKey(m *machine.Machine, k tree.Target, w secureboot.World) []Link {
	const settings = "see mok_signing_key and mok_certificate in framework.conf(5)"
	key, err := m.SigningKey(m.Kernel(k))
	if err != nil {
		return []Link{{Step: "certificate", State: Bad, Is: err.Error(), Do: settings}}
	}
	l := Link{Step: "certificate", State: Unknown, Is: w.File, Do: "run this as root"}
	c, _, err := kmod.ReadCertificate(w.File)
	switch {
	case !m.Signs(m.Kernel(k)):
		return []Link{{Step: "certificate", State: Note, Is: "modules are not signed: try_sign_modules is false, or this is a chroot or an image build without a key", Do: "set try_sign_modules=true in framework.conf"}}
	case errors.Is(err, fs.ErrNotExist) && key.Generate:
		return []Link{{Step: "certificate", State: Note, Is: "there is none yet: " + w.File, Do: "the first build makes it, or: dkms generate_mok"}}
	case errors.Is(err, fs.ErrPermission):
		l.Is = err.Error()
		return []Link{l}
	case err != nil:
		return []Link{{Step: "certificate", State: Bad, Is: err.Error(), Do: settings}}
	}
	return []Link{describe(c, w.File), fits(key), enrolment(c, w)}
}

// describe says what is in a certificate.
func describe(c *x509.Certificate, file string) Link {
	l := Link{Step: "certificate", State: Good}
	kind, bits := c.PublicKeyAlgorithm.String(), 0
	switch public := c.PublicKey.(type) {
	case *rsa.PublicKey:
		bits = public.N.BitLen()
	case *ecdsa.PublicKey:
		bits = public.Curve.Params().BitSize
	}
	l.Is = fmt.Sprintf("%s: %s, %s of %d bits, key %s, valid until %s", file, c.Subject, kind, bits, secureboot.KeyID(c), c.NotAfter.Format(time.DateOnly))
	const new = "for a new key move both files away, and enrol what is made then"
	switch now := time.Now(); {
	case now.After(c.NotAfter):
		l.State, l.Is, l.Do = Note, l.Is+": it has expired, at which neither shim nor kernels look", new
	case now.Before(c.NotBefore):
		l.State, l.Is = Note, l.Is+": it is not valid yet, at which neither shim nor kernels look"
	case c.PublicKeyAlgorithm == x509.RSA && bits < 2048:
		l.State, l.Is, l.Do = Note, l.Is+": that is short", new
	}
	return l
}

// fits says whether a key is that of its certificate.
func fits(key machine.Key) Link {
	l := Link{Step: "key", State: Good, Is: key.File + ": it fits the certificate"}
	switch _, err := kmod.LoadSigner(key.File, key.Cert, "sha256"); {
	case err == nil:
	case errors.Is(err, kmod.ErrToken), errors.Is(err, kmod.ErrEncrypted), errors.Is(err, kmod.ErrKind):
		l.State, l.Is, l.Do = Unknown, err.Error()+": whether it fits the certificate shows when a module is signed", ""
	case errors.Is(err, fs.ErrPermission):
		l.State, l.Is, l.Do = Unknown, err.Error(), "run this as root"
	default:
		l.State, l.Is, l.Do = Bad, err.Error(), "see mok_signing_key and mok_certificate in framework.conf(5)"
	}
	return l
}

// enrolment says where the certificate is enrolled. What that means for a kernel, its
// verdict says.
func enrolment(c *x509.Certificate, w secureboot.World) Link {
	l := Link{Step: "enrolment", State: Good}
	mok, db := w.MOK.HasCertificate(c), w.DB.HasCertificate(c)
	switch {
	case w.Revoked.HasCertificate(c) == secureboot.Yes:
		l.State, l.Is = Note, "the certificate is revoked (MokListXRT, dbx)"
	case mok == secureboot.Yes:
		l.Is = "shim has it (MokListRT)"
	case db == secureboot.Yes:
		l.Is = "the firmware has it (db)"
	case w.Waiting.HasCertificate(c) == secureboot.Yes:
		l.State, l.Is = Note, "it waits for the next boot (MokNew)"
	case mok == secureboot.No && db == secureboot.No:
		l.State, l.Is = Note, "nowhere"
	default:
		l.State, l.Is = Unknown, "what is enrolled cannot be read"
	}
	return l
}
