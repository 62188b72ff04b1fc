// SPDX-License-Identifier: GPL-2.0-or-later

// Package secureboot says whether a kernel loads modules that are signed with a key: by
// the firmware's variables, the keyrings of the running kernel, and what is known of
// kernels. It only reads.
package secureboot

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
)

// Answer is the answer to a question. The zero value is that nobody knows.
type Answer int

// The answers.
const (
	Unknown Answer = iota
	No
	Yes
)

func (a Answer) String() string { return [...]string{"unknown", "no", "yes"}[a] }

// If returns Yes or No.
func If(yes bool) Answer {
	if yes {
		return Yes
	}
	return No
}

// Kind is what an entry of a signature list has: the GUID of the list, as it is stored.
type Kind [16]byte

// The kinds that matter here, by the UEFI specification, 32.4.1.
var (
	kindX509     = Kind{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	kindSHA256   = Kind{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
	kindX509Hash = Kind{0x92, 0xa4, 0xd2, 0x3b, 0xc0, 0x96, 0x79, 0x40, 0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed}
)

// Entry is one certificate or hash.
type Entry struct {
	Kind Kind
	Data []byte
}

// List is what a variable lists. If Err is set, there may be more.
type List struct {
	Entries []Entry
	Err     error
}

const (
	listHeader = 28 // kind, size of the list, of a header in it, and of each signature
	ownerSize  = 16 // a GUID before each signature
)

// parseLists parses EFI_SIGNATURE_LISTs, one after the other. What comes before an error
// is returned with it: the kernel takes that, too.
func parseLists(data []byte) List {
	var l List
	for len(data) > 0 {
		if len(data) < listHeader {
			l.Err = fmt.Errorf("a signature list is cut off after %d bytes", len(data))
			return l
		}
		size, header, each := uint64(binary.LittleEndian.Uint32(data[16:])), uint64(binary.LittleEndian.Uint32(data[20:])), uint64(binary.LittleEndian.Uint32(data[24:]))
		switch {
		case size > uint64(len(data)):
			l.Err = fmt.Errorf("a signature list of %d bytes is cut off after %d", size, len(data))
		case size < listHeader+header:
			l.Err = fmt.Errorf("a signature list has %d bytes, and a header of %d", size, header)
		case each <= ownerSize || (size-listHeader-header)%each != 0:
			l.Err = fmt.Errorf("a signature list of %d bytes has signatures of %d bytes", size, each)
		}
		if l.Err != nil {
			return l
		}
		kind := Kind(data[:16])
		for body := data[listHeader+header : size]; len(body) > 0; body = body[each:] {
			l.Entries = append(l.Entries, Entry{kind, body[ownerSize:each]})
		}
		data = data[size:]
	}
	return l
}

// has reports whether l has an entry of that kind with data.
func (l List) has(kind Kind, data []byte) Answer {
	for _, e := range l.Entries {
		if e.Kind == kind && bytes.Equal(e.Data, data) {
			return Yes
		}
	}
	if l.Err != nil {
		return Unknown
	}
	return No
}

// HasCertificate reports whether l has c.
func (l List) HasCertificate(c *x509.Certificate) Answer { return l.has(kindX509, c.Raw) }

// HasFile reports whether l has the hash of a file with that content.
func (l List) HasFile(content []byte) Answer {
	sum := sha256.Sum256(content)
	return l.has(kindSHA256, sum[:])
}

// hasHash reports whether l has the hash of c alone. With the time that UEFI has after it,
// kernels never find it.
func (l List) hasHash(c *x509.Certificate) Answer {
	sum := sha256.Sum256(c.RawTBSCertificate)
	return l.has(kindX509Hash, sum[:])
}

// Certificates returns the certificates in l that can be read.
func (l List) Certificates() (list []*x509.Certificate) {
	for _, e := range l.Entries {
		if e.Kind != kindX509 {
			continue
		}
		if c, err := x509.ParseCertificate(e.Data); err == nil {
			list = append(list, c)
		}
	}
	return list
}

// either returns the answer to whether a or b is so.
func either(a, b Answer) Answer {
	switch {
	case a == Yes || b == Yes:
		return Yes
	case a == No && b == No:
		return No
	}
	return Unknown
}

// and returns the list of what is in l or in other.
func (l List) and(other List) List {
	return List{append(l.Entries[:len(l.Entries):len(l.Entries)], other.Entries...), errors.Join(l.Err, other.Err)}
}
