// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
)

// ErrForm is the error of [Verify] for signatures that are not, byte for byte, such as
// [Signer.Sign] makes.
var ErrForm = errors.New("the signature has a form that is not known here")

// Verify returns an error unless module, which is not compressed, ends in a signature that
// was made of the rest of it with the key of cert. It asks neither who is to be trusted nor
// how long.
func Verify(module []byte, cert *x509.Certificate) error {
	content := StripSignature(module)
	if len(content) == len(module) {
		return errors.New("there is no signature")
	}
	var info contentInfo
	if _, err := asn1.Unmarshal(module[len(content):], &info); err != nil || len(info.Content.SignerInfos) != 1 {
		return ErrForm
	}
	by := info.Content.SignerInfos[0]
	for _, h := range signatureHashes {
		if !h.digest.Equal(by.DigestAlgorithm.Algorithm) {
			continue
		}
		der, err := message(cert, h, by.Signature)
		if err != nil || !bytes.Equal(appendSignature(bytes.Clone(content), der), module) {
			return ErrForm
		}
		sum := h.hash.New()
		sum.Write(content)
		switch public := cert.PublicKey.(type) {
		case *rsa.PublicKey:
			return rsa.VerifyPKCS1v15(public, h.hash, sum.Sum(nil), by.Signature)
		case *ecdsa.PublicKey:
			if !ecdsa.VerifyASN1(public, sum.Sum(nil), by.Signature) {
				return errors.New("the signature does not fit")
			}
			return nil
		}
	}
	return ErrForm
}
