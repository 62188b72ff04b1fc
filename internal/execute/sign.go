// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
)

// signer signs a module and returns the result.
type signer func(ctx context.Context, module []byte) ([]byte, error)

// signers are the signers of a run: a key is read once.
type signers struct {
	m  *machine.Machine
	mu sync.Mutex
	by map[string]signer
}

// of returns what signs modules for a kernel; nil if they go unsigned.
func (s *signers) of(k *kernel.Kernel) signer {
	hash, try := k.SignHash(), s.m.Settings.TrySignModules
	if hash == "" || try == "false" || try != "true" && machine.Chroot() {
		return nil
	}
	key, err := s.m.SigningKey(k)
	if err != nil {
		return unable(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := strings.Join([]string{key.File, key.Cert, hash, k.SignFile()}, "\x00")
	if s.by[id] == nil {
		if s.by == nil {
			s.by = map[string]signer{}
		}
		s.by[id] = s.open(k, key, hash)
	}
	return s.by[id]
}

func (s *signers) open(k *kernel.Kernel, key machine.Key, hash string) signer {
	if strings.HasPrefix(key.File, "pkcs11:") {
		return s.signFile(k, key, hash)
	}
	if key.Generate {
		if err := kmod.GenerateKey(key.File, key.Cert); err != nil {
			return unable(fmt.Errorf("cannot make a signing key: %w", err))
		}
	}
	open, err := kmod.LoadSigner(key.File, key.Cert, hash)
	if err != nil {
		return unable(err)
	}
	return func(_ context.Context, module []byte) ([]byte, error) {
		return open.Sign(kmod.StripSignature(module))
	}
}

// unable returns a signer that fails with err.
func unable(err error) signer {
	return func(context.Context, []byte) ([]byte, error) { return nil, err }
}

// signFile returns a signer that runs the kernel's own program, which can use a key that
// never leaves its token.
func (s *signers) signFile(k *kernel.Kernel, key machine.Key, hash string) signer {
	return func(ctx context.Context, module []byte) ([]byte, error) {
		set, err := s.m.SettingsFor(k.Release)
		if err != nil {
			return nil, err
		}
		program := cmp.Or(set.SignFile, k.SignFile())
		if program == "" {
			return nil, fmt.Errorf("a pkcs11: key needs the kernel's program sign-file, which is not in %s/scripts", k.SourceDir)
		}
		dir, err := os.MkdirTemp(s.m.Settings.TmpLocation, "dkms-kernel-install-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "module.ko")
		if err := os.WriteFile(file, kmod.StripSignature(module), 0o600); err != nil {
			return nil, err
		}
		cmd := exec.Command(program, hash, key.File, key.Cert, file)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := child.Run(ctx, cmd); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(out.String()))
		}
		signed, err := os.ReadFile(file)
		if err == nil && !kmod.HasSignature(signed) {
			err = fmt.Errorf("%s succeeded, but did not sign", program)
		}
		return signed, err
	}
}
