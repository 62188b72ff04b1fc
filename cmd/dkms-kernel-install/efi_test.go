// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// owners are the owners of the variables of the firmware that scripts use.
var owners = map[string]string{
	"SecureBoot": "8be4df61-93ca-11d2-aa0d-00e098032b8c", "db": "d719b2cb-3d3a-4596-a3bc-dad00e67656f", "dbx": "d719b2cb-3d3a-4596-a3bc-dad00e67656f",
}

// cmdEFI is
//
//	efi NAME [HEX | FILE | sha256:FILE]
//
// It sets a variable of the machine's firmware to those bytes, or to a signature list with
// the certificate in FILE, which is in DER form, or with the hash of FILE. Without a value
// it removes the variable.
func cmdEFI(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: efi name [hex | file | sha256:file]")
	}
	owner, ok := owners[args[0]]
	if !ok {
		owner = "605dab50-e046-4300-abb6-3dd810dd8b23" // shim
	}
	dir := filepath.Join(ts.Getenv("WORK"), "sys/firmware/efi/efivars")
	ts.Check(os.MkdirAll(dir, 0o755))
	file := filepath.Join(dir, args[0]+"-"+owner)
	if len(args) == 1 {
		ts.Check(os.Remove(file))
		return
	}
	data, err := hex.DecodeString(args[1])
	if err != nil {
		kind := "a159c0a5e494a74a87b5ab155c2bf072" // X.509
		name, hash := strings.CutPrefix(args[1], "sha256:")
		entry, err := os.ReadFile(ts.MkAbs(name))
		ts.Check(err)
		if hash {
			sum := sha256.Sum256(entry)
			kind, entry = "2616c4c14c509240aca941f936934328", sum[:]
		}
		data, err = hex.DecodeString(kind)
		ts.Check(err)
		for _, n := range []int{28 + 16 + len(entry), 0, 16 + len(entry)} {
			data = binary.LittleEndian.AppendUint32(data, uint32(n))
		}
		data = append(append(data, make([]byte, 16)...), entry...)
	}
	ts.Check(os.WriteFile(file, append([]byte{6, 0, 0, 0}, data...), 0o644))
}

// cmdExpired is
//
//	expired KEY CERTIFICATE
//
// It makes a key of 1024 bits and its certificate, which was valid in 2020, as PEM files.
func cmdExpired(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: expired key certificate")
	}
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	ts.Check(err)
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "old"}, NotBefore: time.Unix(1577836800, 0), NotAfter: time.Unix(1609459200, 0)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644))
}
