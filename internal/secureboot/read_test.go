// SPDX-License-Identifier: GPL-2.0-or-later

package secureboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/testskip"
)

// signatureList returns an EFI_SIGNATURE_LIST of entries of the same size.
func signatureList(kind Kind, entries ...[]byte) []byte {
	each := ownerSize + len(entries[0])
	b := append([]byte{}, kind[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(listHeader+each*len(entries)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(each))
	for _, e := range entries {
		b = append(append(b, make([]byte, ownerSize)...), e...)
	}
	return b
}

func TestParseLists(t *testing.T) {
	one := signatureList(kindSHA256, bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32))
	two := signatureList(kindX509, []byte("certificate"))
	change := func(at int, value byte) []byte {
		b := slices.Concat(one, two)
		b[len(one)+at] = value
		return b
	}
	for _, row := range []struct {
		name    string
		data    []byte
		entries int
		bad     bool
	}{
		{"none", nil, 0, false},
		{"two", slices.Concat(one, two), 3, false},
		{"cut off in a header", slices.Concat(one, two[:20]), 2, true},
		{"cut off in an entry", slices.Concat(one, two[:len(two)-1]), 2, true},
		{"an odd byte at the end", slices.Concat(one, []byte{0}), 2, true},
		{"a size of 0", change(16, 0), 2, true},
		{"a huge size", change(19, 0xff), 2, true},
		{"a huge header", change(23, 0xff), 2, true},
		{"signatures of 0 bytes", change(24, 0), 2, true},
		{"signatures of an owner alone", change(24, ownerSize), 2, true},
		{"signatures of huge size", change(27, 0xff), 2, true},
	} {
		l := parseLists(row.data)
		if len(l.Entries) != row.entries || (l.Err != nil) != row.bad {
			t.Errorf("%s: %d entries, %v", row.name, len(l.Entries), l.Err)
		}
	}
}

// FuzzParseLists checks that no variable makes the parser panic or take more memory than
// the variable has.
func FuzzParseLists(f *testing.F) {
	one := signatureList(kindSHA256, bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32))
	f.Add(one)
	f.Add(slices.Concat(one, signatureList(kindX509, []byte("certificate"))))
	f.Add(one[:30])
	f.Fuzz(func(t *testing.T, data []byte) {
		size := 0
		for _, e := range parseLists(data).Entries {
			size += len(e.Data) + ownerSize
		}
		if size > len(data) {
			t.Errorf("%d bytes of entries in %d bytes", size, len(data))
		}
	})
}

// write makes files below dir.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadFirmware(t *testing.T) {
	const efivars, attributes = "firmware/efi/efivars/", "\x06\x00\x00\x00"
	c := certificate(t, "ours")
	list := string(signatureList(kindX509, c.Raw))
	all := func(f *Firmware) []Answer {
		return []Answer{f.EFI, f.SecureBoot, f.ValidationOff, f.Trusted, f.MOK.HasCertificate(c), f.DB.HasCertificate(c)}
	}
	secureBoot := efivars + "SecureBoot-" + ownerGlobal
	for _, row := range []struct {
		name  string
		files map[string]string
		want  []Answer
		bad   bool
	}{
		{"hidden, as in a container", nil, []Answer{Unknown, Unknown, Unknown, Unknown, Unknown, Unknown}, true},
		{"no EFI", map[string]string{"firmware/acpi/x": ""}, []Answer{No, No, No, No, No, No}, false},
		{"not mounted", map[string]string{"firmware/efi/x": ""}, []Answer{Yes, Unknown, Unknown, Unknown, Unknown, Unknown}, true},
		{"not mounted, but what shim leaves", map[string]string{"firmware/efi/mok-variables/MokListRT": list, "firmware/efi/mok-variables/MokListTrustedRT": "\x01"},
			[]Answer{Yes, Unknown, Unknown, Yes, Yes, Unknown}, true},
		{"off", map[string]string{secureBoot: attributes + "\x00"}, []Answer{Yes, No, No, No, No, No}, false},
		{"enrolled", map[string]string{
			secureBoot: attributes + "\x01", efivars + "MokListRT-" + ownerShim: attributes + list,
			efivars + "MokListTrustedRT-" + ownerShim: attributes + "\x01", efivars + "MokSBStateRT-" + ownerShim: attributes + "\x01",
		}, []Answer{Yes, Yes, Yes, Yes, Yes, No}, false},
		{"cut off", map[string]string{
			secureBoot: attributes[:3], efivars + "MokListRT-" + ownerShim: attributes + list[:len(list)-1], efivars + "db-" + ownerSecurity: "",
		}, []Answer{Yes, Unknown, No, No, Unknown, Unknown}, true},
		{"neither on nor off", map[string]string{secureBoot: attributes + "\x02", efivars + "MokSBStateRT-" + ownerShim: attributes + "\x00\x00"},
			[]Answer{Yes, Unknown, Unknown, No, No, No}, true},
		{"huge", map[string]string{secureBoot: attributes + "\x01", efivars + "MokListRT-" + ownerShim: attributes + list + string(make([]byte, maxVariable))},
			[]Answer{Yes, Yes, No, No, Unknown, No}, true},
		{"a directory", map[string]string{secureBoot + "/x": "", efivars + "MokListRT-" + ownerShim + "/x": ""},
			[]Answer{Yes, Unknown, No, No, Unknown, No}, true},
	} {
		sys := t.TempDir()
		write(t, sys, row.files)
		f := ReadFirmware(sys)
		if got := all(f); !slices.Equal(got, row.want) || (len(f.Errs) > 0) != row.bad {
			t.Errorf("%s: %v, want %v; %v", row.name, got, row.want, f.Errs)
		}
	}
}

func TestReadRings(t *testing.T) {
	const keys = `00000001 I------     1 perm 1f0b0000     0     0 keyring   .builtin_trusted_keys: 1
00000002 I------     1 perm 1f0b0000     0     0 keyring   .machine: 1
00000003 I------     1 perm 1f030000     0     0 asymmetri Build time: key: 0a0b: X509.rsa 0a0b []
7ffffff4 I------     1 perm 1f030000     0     0 asymmetri ours: 6f757273: X509.ecdsa 6f757273 []
00000005 I------     1 perm 1f030000     0     0 asymmetri elsewhere: 0c0d: X509.rsa 0c0d []
00000006 I------     1 perm 1f030000     0     0 asymmetri odd
odd
`
	file := filepath.Join(t.TempDir(), "keys")
	write(t, filepath.Dir(file), map[string]string{"keys": keys, "none": "", "bare": "00000001 I------     1 perm 1f0b0000     0     0 keyring   _ses: 1\n"})
	members := func(ring int32) ([]int32, error) {
		return map[int32][]int32{1: {3}, 2: {0x7ffffff4, 1, 6}}[ring], nil
	}
	r, err := ReadRings(file, members)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate(t, "ours")
	if !slices.Equal(r[ringBuiltin], []RingKey{{"Build time: key", "0a0b"}}) || r.has(c, ringMachine) != Yes || r.has(c, ringBuiltin, ringPlatform) != No {
		t.Errorf("read %v", r)
	}
	denied := func(int32) ([]int32, error) { return nil, errors.New("denied") }
	for name, members := range map[string]Members{"keys": denied, "none": members, "bare": members, "missing": members} {
		if r, err := ReadRings(filepath.Join(filepath.Dir(file), name), members); err == nil || r.has(c, ringMachine) != Unknown {
			t.Errorf("%s: read %v, %v", name, r, err)
		}
	}
}

// TestKernelKeys checks that the kernel shows a key as this package expects it.
func TestKernelKeys(t *testing.T) {
	runtime.LockOSThread() // which ends with the test, and the session keyring with it
	ring, err := unix.KeyctlJoinSessionKeyring("test")
	if err != nil {
		testskip.For(t, "no keyrings here: "+err.Error())
	}
	c := certificate(t, "ours")
	serial, err := unix.AddKey("asymmetric", "", c.Raw, ring)
	if err != nil {
		testskip.For(t, "this kernel has no such keys: "+err.Error())
	}
	if list, err := KernelMembers(int32(ring)); err != nil || !slices.Equal(list, []int32{int32(serial)}) {
		t.Errorf("the keyring has %v, want %d; %v", list, serial, err)
	}
	text, err := os.ReadFile("/proc/keys")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, kind, description, ok := parseKey(line); ok && n == int32(serial) {
			if got := ringKey(description); kind != "asymmetri" || got != (RingKey{"ours", KeyID(c)}) {
				t.Errorf("%q is %s, %v", line, kind, got)
			}
			return
		}
	}
	t.Errorf("/proc/keys does not have %x", serial)
}
