// SPDX-License-Identifier: GPL-2.0-or-later

package fsck

import (
	"errors"
	"slices"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// key looks at the key that modules for k are signed with.
func (c *checker) key(k tree.Target, view observe.View) {
	kern := c.m.Kernel(k)
	key, err := c.m.SigningKey(kern)
	if err != nil || !c.m.Signs(kern) {
		return
	}
	add := func(path, is, lost string) {
		if !slices.ContainsFunc(c.list, func(f Finding) bool { return f.Path == path }) { // kernels share keys
			c.add(Finding{Path: path, Is: is, Lost: lost})
		}
	}
	const (
		lostKey  = "the key: put it back from a backup, or make another, enrol that and sign again: dkms-kernel-install key rotate"
		lostCert = "the certificate: if it is enrolled, mokutil --export writes it again; else as if the key was lost: dkms-kernel-install key rotate"
	)
	signed := slices.ContainsFunc(view.Packages, func(s observe.Seen) bool {
		was, ok := fingerprint.Read(c.m.Tree.TargetDir(s.ID, k), s.Modules)
		return ok && was.Signer != ""
	})
	_, err = kmod.LoadSigner(key.File, key.Cert, kern.SignHash())
	switch {
	case err == nil, errors.Is(err, kmod.ErrToken), errors.Is(err, kmod.ErrEncrypted), errors.Is(err, kmod.ErrKind):
	case !files.Exists(key.File):
		if signed || files.Exists(key.Cert) {
			add(key.File, "it is gone", lostKey)
		}
		if signed && key.Cert != "" && !files.Exists(key.Cert) {
			add(key.Cert, "it is gone", lostCert)
		}
	case key.Cert != "" && !files.Exists(key.Cert):
		add(key.Cert, "it is gone", lostCert)
	default:
		add(key.File, err.Error(), lostKey)
	}
}
