// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/report"
)

type nativeKey struct {
	Show   keyShow   `cmd:"" default:"1" help:"Show what the key is, and where its certificate is enrolled."`
	New    keyNew    `cmd:"" help:"Make a key and its certificate, if there are none."`
	Enrol  keyEnrol  `cmd:"" help:"Ask shim to take the certificate, by mokutil: it asks for a password, and MokManager for the same at the next boot."`
	Rotate keyRotate `cmd:"" help:"Make a new key and keep the old one beside it. sync then signs again what is built."`
}

type (
	keyShow   struct{}
	keyNew    struct{}
	keyEnrol  struct{}
	keyRotate struct{}
)

// enrolHint is what to do with a certificate that is new.
const enrolHint = "for Secure Boot enrol it: dkms-kernel-install key enrol"

// Run shows the key of the kernel that runs, or else of the newest.
func (c *keyShow) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		m := e.Machine()
		report.Links(r.p.stdout, e.ExplainKey(m.Own()))
		return nil
	})
}

// Run makes a key.
func (c *keyNew) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		m := e.Machine()
		key, made, err := e.GenerateKey(r.ctx, m.Own())
		switch {
		case err != nil:
			return err
		case made:
			r.text.Note("made " + key.File + " and " + key.Cert + "; " + enrolHint)
		default:
			r.text.Note(key.File + " is there already; for another: dkms-kernel-install key rotate")
		}
		return nil
	})
}

// Run has mokutil ask shim for the certificate.
func (c *keyEnrol) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		m := e.Machine()
		if m.Elsewhere {
			return notHere("a certificate is enrolled")
		}
		key, err := m.SigningKey(m.Kernel(m.Own()))
		if err != nil {
			return err
		}
		file, err := der(key)
		if err != nil {
			return failure.From(err, "cannot enrol the certificate", 1)
		}
		cmd := exec.CommandContext(r.ctx, "mokutil", "--import", file)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, r.p.raw, r.p.stderr // it asks for a password
		if err := cmd.Run(); err != nil {
			return &failure.Failure{What: "cannot enrol " + key.Cert, Why: "mokutil: " + err.Error(), Status: 1, Err: err,
				Hint: "install mokutil, if it is missing; run this as root, on a machine with EFI; dkms-kernel-install key shows the certificate"}
		}
		r.text.Note("at the next boot MokManager asks for the password, for a few seconds only; then dkms-kernel-install doctor shows the certificate as enrolled")
		return nil
	})
}

// der returns a file with the certificate of key in DER form, the only one that mokutil reads.
// It makes one beside a certificate that is in PEM form.
func der(key machine.Key) (string, error) {
	file := cmp.Or(key.Cert, key.File)
	cert, inPEM, err := kmod.ReadCertificate(file)
	if err != nil || !inPEM {
		return file, err
	}
	return file + ".der", files.Write(file+".der", bytes.NewReader(cert.Raw), 0o644, files.Options{})
}

// Run exchanges the key.
func (c *keyRotate) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		m := e.Machine()
		key, err := e.RotateKey(r.ctx, m.Own())
		if err != nil {
			return err
		}
		r.text.Note("made a new " + key.File + " and " + key.Cert + "; the old ones end in " + machine.OldKey)
		r.text.Note(enrolHint + "; then sign again what is built: dkms-kernel-install sync; a kernel that enforces signatures does not load that before it was started with the new certificate")
		return nil
	})
}
