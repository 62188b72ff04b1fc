// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/secureboot"
	"dkms-kernel-install/internal/tree"
)

// signer signs a module that has no signature and returns the result.
type signer func(ctx context.Context, module []byte) ([]byte, error)

// signers are the signers of a run: a key is read once.
type signers struct {
	m  *machine.Machine
	mu sync.Mutex
	by map[string]signer
	// told reports whether the run has said that a key is to be enrolled.
	told bool
	// toldUnsigned reports whether it has said that modules are not signed.
	toldUnsigned bool
}

// signTimeout is how long the program that signs one module may take, if
// [machine.Options] does not say: somebody may have to touch a token.
const signTimeout = 2 * time.Minute

// of returns what signs modules for a kernel; nil if they go unsigned.
func (s *signers) of(k *kernel.Kernel) signer {
	if !s.m.Signs(k) {
		s.tellUnsigned(k)
		return nil
	}
	hash := k.SignHash()
	set, err := s.m.SettingsFor(k.Release)
	if err != nil {
		return unable(err)
	}
	key, err := s.m.SigningKey(k)
	if err != nil {
		return unable(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := strings.Join([]string{key.File, key.Cert, hash, cmp.Or(set.SignFile, k.SignFile())}, "\x00")
	if s.by[id] == nil {
		if s.by == nil {
			s.by = map[string]signer{}
			s.tellTool()
		}
		made := key.Generate && !key.There()
		s.by[id] = s.open(k, set.SignFile, key, hash)
		s.tellEnrolment(k, made && key.There())
	}
	return s.by[id]
}

// tellUnsigned tells, once in a run, that modules go unsigned in an image build.
func (s *signers) tellUnsigned(k *kernel.Kernel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.toldUnsigned || !s.m.Unsigned(k) {
		return
	}
	s.toldUnsigned = true
	s.m.Note("modules are not signed: this seems to be a chroot or an image build, and a key that is made in it would be in every copy; " +
		"to sign them, set mok_signing_key and mok_certificate, and try_sign_modules=true, in framework.conf")
}

// tellEnrolment tells, once in a run, that a key was made, or that k will not load what the
// key signs until it is enrolled.
func (s *signers) tellEnrolment(k *kernel.Kernel, made bool) {
	w := s.m.Loading(tree.Target{Release: k.Release, Arch: k.Arch})
	v := w.Decide()
	switch {
	case s.told || w.Signs != secureboot.Yes:
		return
	case v.Loads == secureboot.No || v.Enrols():
		s.m.Note(fmt.Sprintf("warning: %s may not load what is signed with %s: %s: %s", k.Release, w.File, v.Is, v.Do))
	case made && w.EFI == secureboot.No:
		s.m.Note("a signing key was made; its certificate is " + w.File)
	case made:
		s.m.Note(fmt.Sprintf("a signing key was made; for Secure Boot enrol it: %s, and confirm it in MokManager at the next boot", w.Import()))
	default:
		return
	}
	s.told = true
}

// tellTool tells who has the setting that older versions of dkms signed by.
func (s *signers) tellTool() {
	if tool := s.m.Settings.SignTool; tool != "" {
		s.m.Note(fmt.Sprintf("sign_tool=%s has no effect: modules are signed with mok_signing_key and mok_certificate, by sign_file if that is set", tool))
	}
}

// open returns what signs with key: this program itself, or the one in the file called
// program, if that is not empty, or the kernel's own if only that can.
func (s *signers) open(k *kernel.Kernel, program string, key machine.Key, hash string) signer {
	if key.Generate {
		if err := kmod.GenerateKey(key.File, key.Cert); err != nil {
			return unable(fmt.Errorf("cannot make a signing key: %w", err))
		}
	}
	own, err := kmod.LoadSigner(key.File, key.Cert, hash)
	encrypted := errors.Is(err, kmod.ErrEncrypted)
	if program == "" && (encrypted || errors.Is(err, kmod.ErrToken) || errors.Is(err, kmod.ErrKind)) {
		if program = k.SignFile(); program == "" {
			return unable(fmt.Errorf("%w, and the kernel's program sign-file, which could use it, is not in %s/scripts", err, k.SourceDir))
		}
	}
	switch {
	case program != "":
		p := &signProgram{m: s.m, args: []string{program, hash, key.File, cmp.Or(key.Cert, key.File)}, encrypted: encrypted}
		return p.sign
	case err != nil:
		return unable(err)
	}
	return func(_ context.Context, module []byte) ([]byte, error) {
		return own.Sign(module)
	}
}

// unable returns a signer that fails with err.
func unable(err error) signer {
	return func(context.Context, []byte) ([]byte, error) { return nil, err }
}

// signProgram signs by a program, such as the kernel's sign-file: it knows the pass
// phrase of a key, or can use one that never leaves its token.
type signProgram struct {
	m         *machine.Machine
	args      []string // the program and its arguments, but for the module
	encrypted bool     // the key is

	mu   sync.Mutex // held by sign: a token may not take more than one at a time
	hung error      // why it is not called again: it would take as long once more
}

// sign is a [signer].
func (p *signProgram) sign(ctx context.Context, module []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hung != nil {
		return nil, p.hung
	}
	dir, err := os.MkdirTemp(p.m.Settings.TmpLocation, "dkms-kernel-install-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "module.ko")
	if err := os.WriteFile(file, module, 0o600); err != nil {
		return nil, err
	}
	if err := p.run(ctx, file); err != nil {
		return nil, err
	}
	return p.read(file, module)
}

// run has the program sign the module in file.
func (p *signProgram) run(ctx context.Context, file string) error {
	limit := cmp.Or(p.m.SignTimeout, signTimeout)
	hung := fmt.Errorf("%s did not end within %v", p.args[0], limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, hung)
	defer cancel()
	cmd := exec.Command(p.args[0], append(p.args[1:len(p.args):len(p.args)], file)...)
	var out beginning
	cmd.Stdout, cmd.Stderr = &out, &out
	if cmd.Env = os.Environ(); p.m.SignPIN != "" {
		cmd.Env = append(cmd.Env, conf.SignPIN+"="+p.m.SignPIN)
	}
	err := child.Run(ctx, cmd)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hung):
		p.hung = err
		return err
	case ctx.Err() != nil:
		return err
	}
	why := failure.Line(strings.TrimSpace(string(out)))
	switch {
	case p.encrypted && p.m.SignPIN == "":
		err = fmt.Errorf("%s is encrypted, and %s does not have its pass phrase: %w", p.args[2], conf.SignPIN, err)
	case p.encrypted:
		err = fmt.Errorf("%s is encrypted, and %s may have another pass phrase: %w", p.args[2], conf.SignPIN, err)
	}
	return fmt.Errorf("%s failed: %w: %s", p.args[0], err, why)
}

// read returns the signed module in file, if it is module with a signature after it.
func (p *signProgram) read(file string, module []byte) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a FIFO by now
	if err != nil {
		return nil, err
	}
	defer f.Close()
	signed, err := io.ReadAll(io.LimitReader(f, int64(len(module))+maxSignature))
	switch {
	case err != nil:
		return nil, err
	case !bytes.HasPrefix(signed, module):
		return nil, fmt.Errorf("%s succeeded, but changed the module itself", p.args[0])
	case !kmod.HasSignature(signed) || len(kmod.StripSignature(signed)) != len(module):
		return nil, fmt.Errorf("%s succeeded, but did not sign, or not this module", p.args[0])
	}
	return signed, nil
}

// maxSignature is more than any signature has, in bytes.
const maxSignature = 1 << 20

// beginning keeps the beginning of what is written to it.
type beginning []byte

func (b *beginning) Write(p []byte) (int, error) {
	*b = append(*b, p[:min(len(p), 400-len(*b))]...)
	return len(p), nil
}
