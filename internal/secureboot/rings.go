// SPDX-License-Identifier: GPL-2.0-or-later

package secureboot

import (
	"bufio"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The keyrings that kernels take keys of modules from.
const (
	ringBuiltin   = ".builtin_trusted_keys"
	ringSecondary = ".secondary_trusted_keys"
	ringMachine   = ".machine"
	ringPlatform  = ".platform"
)

// RingKey is a key in a keyring: the name and the identifier, in hexadecimal, that its
// description has.
type RingKey struct{ Name, ID string }

func (k RingKey) String() string { return k.Name + " " + k.ID[max(0, len(k.ID)-8):] }

// Rings are the keyrings of the running kernel, by their names.
type Rings map[string][]RingKey

// Members returns the serial numbers of what is in the keyring with that serial number.
type Members func(ring int32) ([]int32, error)

// KernelMembers is the [Members] of the running kernel.
func KernelMembers(ring int32) (list []int32, err error) {
	size, err := unix.KeyctlBuffer(unix.KEYCTL_READ, int(ring), nil, 0)
	if err != nil || size <= 0 {
		return nil, err
	}
	buf := make([]byte, size)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, int(ring), buf, 0)
	if err != nil {
		return nil, err
	}
	for b := buf[:min(n, len(buf))]; len(b) >= 4; b = b[4:] {
		list = append(list, int32(binary.NativeEndian.Uint32(b)))
	}
	return list, nil
}

// ReadRings reads the keyrings that file, the kernel's /proc/keys, lists. It returns an
// error if those are not to be seen: mostly only root may. Without members none are.
func ReadRings(file string, members Members) (Rings, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("the kernel's keyrings cannot be read: %w", err)
	}
	defer f.Close()
	keys, rings := map[int32]RingKey{}, map[string]int32{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		serial, kind, description, ok := parseKey(lines.Text())
		switch name, _, _ := strings.Cut(description, ":"); {
		case !ok:
		case kind == "asymmetri":
			keys[serial] = ringKey(description)
		case kind == "keyring" && slices.Contains([]string{ringBuiltin, ringSecondary, ringMachine, ringPlatform}, name):
			rings[name] = serial
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("the kernel's keyrings cannot be read: %w", err)
	}
	if _, ok := rings[ringBuiltin]; !ok {
		return nil, errors.New("the kernel's keyrings cannot be read: only root sees them, and not in a container")
	}
	if members == nil {
		return nil, errors.New("the keyrings of another machine's kernel cannot be read")
	}
	found := Rings{}
	for name, ring := range rings {
		list, err := members(ring)
		if err != nil {
			return nil, fmt.Errorf("the kernel's keyring %s cannot be read: %w", name, err)
		}
		found[name] = []RingKey{}
		for _, serial := range list {
			if key, ok := keys[serial]; ok { // it may be a keyring, too
				found[name] = append(found[name], key)
			}
		}
	}
	return found, nil
}

// parseKey parses a line of /proc/keys: serial number, flags, usage, timeout, permissions,
// user, group, type, and the description.
func parseKey(line string) (serial int32, kind, description string, ok bool) {
	const before = 8
	words := strings.Fields(line)
	if len(words) <= before {
		return 0, "", "", false
	}
	n, err := strconv.ParseUint(words[0], 16, 31)
	return int32(n), words[before-1], strings.Join(words[before:], " "), err == nil
}

// ringKey returns the key with that description: NAME: IDENTIFIER: KIND ...
func ringKey(description string) RingKey {
	end := max(strings.LastIndex(description, ": "), 0)
	name, id := description[:end], ""
	if i := strings.LastIndex(name, ": "); i >= 0 {
		name, id = name[:i], name[i+2:]
	}
	return RingKey{name, id}
}

// has reports whether a ring of these names has the key of c.
func (r Rings) has(c *x509.Certificate, names ...string) Answer {
	if r == nil || c == nil {
		return Unknown
	}
	return If(slices.ContainsFunc(names, func(name string) bool {
		return slices.ContainsFunc(r[name], func(k RingKey) bool { return k.ID == KeyID(c) })
	}))
}

// KeyID returns the identifier by which kernels describe the key of c, in hexadecimal.
func KeyID(c *x509.Certificate) string {
	if len(c.SubjectKeyId) > 0 {
		return hex.EncodeToString(c.SubjectKeyId)
	}
	serial := c.SerialNumber.Bytes()
	if len(serial) == 0 || serial[0] >= 0x80 {
		serial = append([]byte{0}, serial...) // as it is in the certificate
	}
	return hex.EncodeToString(serial)
}

// Names returns the names of the keyrings, sorted.
func (r Rings) Names() []string { return slices.Sorted(maps.Keys(r)) }
