package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
)

// signer signs a module, or says why it cannot.
type signer func(ctx context.Context, module []byte) ([]byte, error)

// signer returns what signs modules for a kernel; nil where they go unsigned.
func (e *Engine) signer(k *kernel.Kernel) signer {
	hash := k.SignHash()
	try := e.Settings.TrySignModules
	if hash == "" || try == "false" || try != "true" && inChroot() {
		return nil
	}
	key, cert, generate := e.signingKey(k)
	e.mu.Lock()
	defer e.mu.Unlock()
	id := strings.Join([]string{key, cert, hash, k.SignFile()}, "\x00")
	if e.signers[id] == nil {
		e.signers[id] = e.newSigner(k, key, cert, hash, generate)
	}
	return e.signers[id]
}

func (e *Engine) newSigner(k *kernel.Kernel, key, cert, hash string, generate bool) signer {
	if strings.HasPrefix(key, "pkcs11:") {
		return e.signFile(k, key, cert, hash)
	}
	fail := func(err error) signer {
		return func(context.Context, []byte) ([]byte, error) { return nil, err }
	}
	if generate {
		if err := kmod.GenerateKey(key, cert); err != nil {
			return fail(fmt.Errorf("cannot make a signing key: %w", err))
		}
	}
	s, err := kmod.LoadSigner(key, cert, hash)
	if err != nil {
		return fail(err)
	}
	return func(_ context.Context, module []byte) ([]byte, error) {
		return s.Sign(kmod.StripSignature(module))
	}
}

// GenerateKey makes the key and certificate that modules for k are signed with,
// where they are missing and are ours to make.
func (e *Engine) GenerateKey(k tree.Target) (key, cert string, made bool, err error) {
	key, cert, generate := e.signingKey(e.Kernel(k))
	if generate && (!exists(key) || !exists(cert)) {
		made = true
		if err := kmod.GenerateKey(key, cert); err != nil {
			return key, cert, false, failure.From(err, "cannot make a signing key", failure.StatusNoPerm)
		}
	}
	return key, cert, made, nil
}

// signFile signs with the kernel's own program, which can use a key that never
// leaves its token.
func (e *Engine) signFile(k *kernel.Kernel, key, cert, hash string) signer {
	return func(ctx context.Context, module []byte) ([]byte, error) {
		program := conf.ForKernel(e.Settings.SignFile, k.Release)
		if program == "" {
			program = k.SignFile()
		}
		if program == "" {
			return nil, fmt.Errorf("a pkcs11: key needs the kernel's program sign-file, which is not in %s/scripts", k.SourceDir)
		}
		dir, err := os.MkdirTemp(e.Settings.TmpLocation, "dkms-kernel-install-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "module.ko")
		if err := os.WriteFile(file, kmod.StripSignature(module), 0o600); err != nil {
			return nil, err
		}
		cmd := exec.Command(program, hash, key, cert, file)
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

// signingKey returns the files of the key and its certificate; the certificate
// is empty where the key's file holds both. generate says that they may be made
// when they are missing.
func (e *Engine) signingKey(k *kernel.Kernel) (key, cert string, generate bool) {
	key = conf.ForKernel(e.Settings.MOKSigningKey, k.Release)
	cert = conf.ForKernel(e.Settings.MOKCertificate, k.Release)
	if key != "" && cert != "" {
		return key, cert, !strings.HasPrefix(key, "pkcs11:")
	}
	if e.Distro.Is("ubuntu") {
		const dir = "/var/lib/shim-signed/mok/"
		if exists(dir+"MOK.priv") && exists(dir+"MOK.der") {
			return dir + "MOK.priv", dir + "MOK.der", false
		}
	}
	if e.Distro.Is("gentoo") {
		key, cert = os.Getenv("MODULES_SIGN_KEY"), os.Getenv("MODULES_SIGN_CERT")
		if key == "" {
			v, err := e.shell.ReadVariables(e.System.MakeConf, "MODULES_SIGN_KEY", "MODULES_SIGN_CERT")
			if err == nil {
				key, cert = v["MODULES_SIGN_KEY"], v["MODULES_SIGN_CERT"]
			}
		}
		if key == "" {
			// One PEM file with both, named relative to the headers.
			if key = k.Option("CONFIG_MODULE_SIG_KEY"); key != "" && !filepath.IsAbs(key) && !strings.HasPrefix(key, "pkcs11:") {
				key = filepath.Join(k.SourceDir, key)
			}
			cert = ""
			if !strings.HasPrefix(key, "pkcs11:") && !exists(key) {
				key = ""
			}
		}
		if key != "" {
			return key, cert, false
		}
	}
	return filepath.Join(e.Tree.Dir, "mok.key"), filepath.Join(e.Tree.Dir, "mok.pub"), true
}

// inChroot says whether this process sees another root than the first process.
// Where that cannot be told, it says no.
func inChroot() bool {
	own, err := os.Stat("/")
	if err != nil {
		return false
	}
	first, err := os.Stat("/proc/1/root/.")
	return err == nil && !os.SameFile(own, first)
}
