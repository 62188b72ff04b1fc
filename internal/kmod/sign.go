// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // the hashes that signatureHashes names
	_ "crypto/sha256"
	_ "crypto/sha3"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strings"

	"dkms-kernel-install/internal/codec"
)

// signatureHash is a hash that modules are signed with.
type signatureHash struct {
	hash   crypto.Hash
	digest asn1.ObjectIdentifier // the hash itself
	ecdsa  asn1.ObjectIdentifier // ECDSA with it
}

// signatureHashes has the hashes by their names in CONFIG_MODULE_SIG_HASH.
var signatureHashes = map[string]signatureHash{
	"sha1":     {crypto.SHA1, asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}},
	"sha224":   {crypto.SHA224, nistHash(4), asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 1}},
	"sha256":   {crypto.SHA256, nistHash(1), asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
	"sha384":   {crypto.SHA384, nistHash(2), asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
	"sha512":   {crypto.SHA512, nistHash(3), asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}},
	"sha3-256": {crypto.SHA3_256, nistHash(8), nistSignature(10)},
	"sha3-384": {crypto.SHA3_384, nistHash(9), nistSignature(11)},
	"sha3-512": {crypto.SHA3_512, nistHash(10), nistSignature(12)},
}

// nistHash and nistSignature return NIST's identifiers:
// https://csrc.nist.gov/projects/computer-security-objects-register.

func nistHash(n int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, n}
}

func nistSignature(n int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, n}
}

// Signer signs modules with one key and one hash. It may be used by several goroutines at once.
type Signer struct {
	key  crypto.Signer
	cert *x509.Certificate
	hash signatureHash
}

// Kinds of keys, by RFC 8017 and RFC 5480.
var (
	rsaEncryption = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	ecPublicKey   = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
)

// Kinds of keys that LoadSigner cannot use, and the kernel's program sign-file can.
var (
	ErrToken     = errors.New("the key is on a token")
	ErrEncrypted = errors.New("the key is encrypted")
	ErrKind      = errors.New("the key is neither RSA nor ECDSA")
)

// LoadSigner returns a Signer with the private key in keyPath, its certificate in
// certPath, and the hash, which is named as in CONFIG_MODULE_SIG_HASH: sha1, sha224,
// sha256, sha384, sha512, sha3-256, sha3-384 or sha3-512.
//
// The key is RSA or ECDSA (NIST P-256, P-384 or P-521) in PKCS #8, PKCS #1 or SEC 1
// form. Each file may be PEM or DER. An empty certPath, or one equal to keyPath, means
// that keyPath is a PEM file with both, as the kernel's build makes them. If a PEM file
// has several keys or certificates, the first one counts. For a keyPath that begins with
// "pkcs11:" the error is [ErrToken], for an encrypted key [ErrEncrypted], for one of another
// kind [ErrKind].
func LoadSigner(keyPath, certPath, hash string) (*Signer, error) {
	h, ok := signatureHashes[hash]
	if !ok {
		return nil, fmt.Errorf("unknown signature hash %q", hash)
	}
	key, err := readKey(keyPath)
	if err != nil {
		return nil, err
	}
	if certPath == "" {
		certPath = keyPath
	}
	cert, _, err := ReadCertificate(certPath)
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("the certificate %s is not of the key %s: "+
			"set the certificate that was made with this key, or move both away to have new ones made", certPath, keyPath)
	}
	return &Signer{key: key, cert: cert, hash: h}, nil
}

// readKey reads a private key, PEM or DER: an *rsa.PrivateKey or an *ecdsa.PrivateKey.
func readKey(path string) (crypto.Signer, error) {
	if strings.HasPrefix(path, "pkcs11:") {
		return nil, fmt.Errorf("%s: %w", path, ErrToken)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	der := data
	if isPEM(data) {
		block := findPEM(data, func(b *pem.Block) bool { return strings.HasSuffix(b.Type, "PRIVATE KEY") })
		if block == nil {
			return nil, fmt.Errorf("%s has no private key in it", path)
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, fmt.Errorf("%s: %w", path, ErrEncrypted)
		}
		der = block.Bytes
	}
	// DER does not tell which form it has, and PEM files exist whose label is the wrong one.
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if k, err2 := x509.ParsePKCS1PrivateKey(der); err2 == nil {
			parsed, err = k, nil
		} else if k, err2 := x509.ParseECPrivateKey(der); err2 == nil {
			parsed, err = k, nil
		}
	}
	if err != nil && otherKind(der) {
		return nil, fmt.Errorf("%s: %w", path, ErrKind)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not a private key in PEM or DER form: %w", path, err)
	}
	switch k := parsed.(type) {
	case *rsa.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P224() { // the kernel has no such curve
			return nil, fmt.Errorf("unsupported kind of key: %s is on the curve P-224", path)
		}
		return k, nil
	default:
		return nil, fmt.Errorf("%s: %w", path, ErrKind)
	}
}

// otherKind reports whether der is a private key in PKCS #8 form of another kind than RSA
// and ECDSA.
func otherKind(der []byte) bool {
	var key struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	_, err := asn1.Unmarshal(der, &key)
	return err == nil && !key.Algorithm.Algorithm.Equal(rsaEncryption) && !key.Algorithm.Algorithm.Equal(ecPublicKey)
}

// ReadCertificate reads an X.509 certificate, and reports whether it is in PEM rather than
// in DER form.
func ReadCertificate(path string) (cert *x509.Certificate, inPEM bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, false, err
	}
	der := data
	if inPEM = isPEM(data); inPEM {
		block := findPEM(data, func(b *pem.Block) bool { return b.Type == "CERTIFICATE" || b.Type == "X509 CERTIFICATE" })
		if block == nil {
			return nil, true, fmt.Errorf("%s has no certificate in it", path)
		}
		der = block.Bytes
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		return nil, inPEM, fmt.Errorf("%s is not a certificate in PEM or DER form: %w", path, err)
	}
	return cert, inPEM, nil
}

func isPEM(data []byte) bool {
	return bytes.Contains(data, []byte("-----BEGIN "))
}

// findPEM returns the first block of data that is wanted, or nil.
func findPEM(data []byte, wanted func(*pem.Block) bool) *pem.Block {
	for {
		block, rest := pem.Decode(data)
		if block == nil || wanted(block) {
			return block
		}
		data = rest
	}
}

// A module's signature consists of these structures of RFC 5652 (CMS). It must be, byte
// for byte, what sign-file makes; the CMS libraries for Go always add the certificate,
// or leave out the NULL after rsaEncryption.

type contentInfo struct {
	ContentType asn1.ObjectIdentifier
	Content     signedData `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version          int
	DigestAlgorithms []pkix.AlgorithmIdentifier `asn1:"set"`
	EncapContentInfo struct{ ContentType asn1.ObjectIdentifier }
	SignerInfos      []signerInfo `asn1:"set"`
}

type signerInfo struct {
	Version            int
	SID                issuerAndSerialNumber
	DigestAlgorithm    pkix.AlgorithmIdentifier
	SignatureAlgorithm pkix.AlgorithmIdentifier
	Signature          []byte
}

type issuerAndSerialNumber struct {
	Issuer       asn1.RawValue
	SerialNumber *big.Int
}

// Sign returns module, which is not compressed, with a signature after it. With an RSA
// key the result is, byte for byte, that of the kernel's scripts/sign-file: a detached
// CMS signature without attributes and certificates, whose signer is named by issuer
// and serial number. ECDSA signatures are random.
//
// Like append, Sign may write into the spare capacity of module and return a slice of
// the same array, so that a large module need not be in memory twice. A module that is
// already signed gets a second signature, and the kernel looks only at that one;
// [StripSignature] first takes the old one off.
func (s *Signer) Sign(module []byte) ([]byte, error) {
	h := s.hash.hash.New()
	h.Write(module)
	sig, err := s.key.Sign(rand.Reader, h.Sum(nil), s.hash.hash)
	if err != nil {
		return nil, fmt.Errorf("sign module: %w", err)
	}
	der, err := message(s.cert, s.hash, sig)
	if err != nil {
		return nil, fmt.Errorf("sign module: %w", err)
	}
	return appendSignature(module, der), nil
}

// message returns the structure with the signature sig, made with the key of cert.
func message(cert *x509.Certificate, h signatureHash, sig []byte) ([]byte, error) {
	alg := pkix.AlgorithmIdentifier{Algorithm: h.ecdsa}
	if cert.PublicKeyAlgorithm == x509.RSA {
		alg = pkix.AlgorithmIdentifier{Algorithm: rsaEncryption, Parameters: asn1.NullRawValue}
	}
	// OpenSSL, and so sign-file, leaves out the parameters of hashes.
	digest := pkix.AlgorithmIdentifier{Algorithm: h.digest}
	info := contentInfo{
		ContentType: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}, // signedData
		Content: signedData{
			Version:          1,
			DigestAlgorithms: []pkix.AlgorithmIdentifier{digest},
			SignerInfos: []signerInfo{{
				Version:            1,
				SID:                issuerAndSerialNumber{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber},
				DigestAlgorithm:    digest,
				SignatureAlgorithm: alg,
				Signature:          sig,
			}},
		},
	}
	info.Content.EncapContentInfo.ContentType = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1} // data
	return asn1.Marshal(info)
}

const (
	// signatureMagic ends a signed module. It and the structure before it are defined in the kernel's
	// include/linux/module_signature.h.
	signatureMagic = "~Module signature appended~\n"

	signatureInfoSize = 12
	signatureIDPKCS7  = 2 // id_type
)

// appendSignature appends to module the signature der, the structure that has its
// length, and the magic.
func appendSignature(module, der []byte) []byte {
	// algo, hash, id_type, signer_len, key_id_len, three unused bytes, sig_len. All
	// but id_type and sig_len are 0 for PKCS #7, as CMS was called before: the
	// message itself holds the rest.
	info := [signatureInfoSize]byte{2: signatureIDPKCS7}
	binary.BigEndian.PutUint32(info[8:], uint32(len(der)))
	module = append(module, der...)
	module = append(module, info[:]...)
	return append(module, signatureMagic...)
}

// SignedBy returns who has signed module, which is not compressed, as the signature says:
// the name and the serial number of a certificate, or the identifier of a key. It verifies
// nothing. It reports false if there is no whole signature.
func SignedBy(module []byte) (signer string, ok bool) {
	size := len(StripSignature(module))
	if size == len(module) {
		return "", false
	}
	var message struct {
		ContentType asn1.ObjectIdentifier
		Content     struct {
			Version                            int
			DigestAlgorithms, EncapContentInfo asn1.RawValue
			Certificates                       asn1.RawValue `asn1:"optional,tag:0"`
			SignerInfos                        []struct {
				Version int
				SID     asn1.RawValue
			} `asn1:"set"`
		} `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(module[size:], &message); err != nil || len(message.Content.SignerInfos) == 0 {
		return "a signature that is not understood", true
	}
	sid := message.Content.SignerInfos[0].SID
	var by issuerAndSerialNumber
	if _, err := asn1.Unmarshal(sid.FullBytes, &by); err != nil || by.SerialNumber == nil {
		return fmt.Sprintf("key %x", sid.Bytes), true
	}
	return signerName(by.Issuer.FullBytes, by.SerialNumber), true
}

// SignerOf returns what [SignedBy] returns for modules that are signed with c.
func SignerOf(c *x509.Certificate) string { return signerName(c.RawIssuer, c.SerialNumber) }

func signerName(issuer []byte, serial *big.Int) string {
	var name pkix.RDNSequence
	if _, err := asn1.Unmarshal(issuer, &name); err != nil {
		return fmt.Sprintf("certificate %x", serial)
	}
	return fmt.Sprintf("%s, certificate %x", name, serial)
}

// HasSignature reports whether module, which is not compressed, ends in a signature in
// the kernel's format. It does not verify the signature.
func HasSignature(module []byte) bool {
	return len(StripSignature(module)) != len(module)
}

// StripSignature returns module, which is not compressed, without the signature at its
// end: a part of the same slice. It returns all of module if there is no whole
// signature.
func StripSignature(module []byte) []byte {
	size, _ := unsignedSize(bytes.NewReader(module), int64(len(module))) // reading memory does not fail
	return module[:size]
}

// unsignedSize returns how many of the module's size bytes come before the signature at
// its end: all if there is no whole signature.
func unsignedSize(module io.ReaderAt, size int64) (int64, error) {
	const endSize = int64(signatureInfoSize + len(signatureMagic))
	if size < endSize {
		return size, nil
	}
	end, err := codec.ReadRange(module, size, size-endSize, endSize)
	if err != nil {
		return 0, err
	}
	info, ok := bytes.CutSuffix(end, []byte(signatureMagic))
	if !ok {
		return size, nil
	}
	// Kernels before 4.3 had signatures of another type, with the signer's name and
	// the key's identifier before them.
	signature := int64(info[3]) + int64(info[4]) + int64(binary.BigEndian.Uint32(info[8:]))
	if signature > size-endSize {
		return size, nil
	}
	return size - endSize - signature, nil
}
