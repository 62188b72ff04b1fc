// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kernel"
)

// Key is what modules are signed with.
type Key struct {
	// File holds the private key, Cert the certificate. An empty Cert means that
	// File holds both. A File that begins with "pkcs11:" names a key in a token.
	File, Cert string
	// Generate reports whether the two may be made if they are missing.
	Generate bool
}

// There reports whether both files are there.
func (k Key) There() bool { return files.Exists(k.File) && files.Exists(k.Cert) }

// OldKey ends the names of the files of a key that another has taken the place of.
const OldKey = ".old"

// SigningKey returns the key for the modules of a kernel. It returns an error if the
// settings cannot be read for that kernel.
func (m *Machine) SigningKey(k *kernel.Kernel) (Key, error) {
	set, err := m.SettingsFor(k.Release)
	if err != nil {
		return Key{}, err
	}
	if file, cert := set.MOKSigningKey, set.MOKCertificate; file != "" && cert != "" {
		return Key{m.setting(file), m.setting(cert), filepath.IsAbs(file) && filepath.IsAbs(cert)}, nil
	}
	if m.Distro.Is("ubuntu") {
		dir := m.Path("/var/lib/shim-signed/mok")
		if file, cert := dir+"/MOK.priv", dir+"/MOK.der"; files.Exists(file) && files.Exists(cert) {
			return Key{file, cert, false}, nil
		}
	}
	if m.Distro.Is("gentoo") {
		if key := m.gentooKey(k); key.File != "" {
			return key, nil
		}
	}
	return Key{filepath.Join(m.Tree.Dir, "mok.key"), filepath.Join(m.Tree.Dir, "mok.pub"), true}, nil
}

// Signer names the certificate whose key signs the modules of a kernel; it is empty if they
// go unsigned, or if there is no certificate yet.
func (m *Machine) Signer(k *kernel.Kernel) string {
	if !m.Signs(k) {
		return ""
	}
	key, err := m.SigningKey(k)
	if err != nil {
		return ""
	}
	text, err := os.ReadFile(cmp.Or(key.Cert, key.File))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:32]
}

// Signs reports whether the modules of a kernel are to be signed.
func (m *Machine) Signs(k *kernel.Kernel) bool {
	switch try := m.Settings.TrySignModules; {
	case k.SignHash() == "" || try == "false" || m.Check:
		return false
	case try == "true":
		return true
	case Chroot():
		return false
	case m.ImageBuild():
		key, err := m.SigningKey(k)
		return err == nil && (!key.Generate || key.There())
	}
	return true
}

// Unsigned reports whether the modules of a kernel, which checks signatures, are not signed
// because a key that is made here would become part of an image.
func (m *Machine) Unsigned(k *kernel.Kernel) bool {
	return k.SignHash() != "" && m.Settings.TrySignModules != "false" && !m.Signs(k)
}

// ImageBuild reports whether this is no machine that runs, but what one is made of. If the
// setting image_build does not say so, it is taken for one if it is a chroot, or a container
// whose kernel is not its own and which systemd has not booted.
func (m *Machine) ImageBuild() bool {
	if m.Settings.ImageBuild != "" {
		return m.Settings.ImageBuild == "true"
	}
	return Chroot() || !files.Exists(m.Path("/run/systemd/system")) && !m.Kernel(m.Target(m.Running)).Exists()
}

// setting returns where the file of a setting is found from here. What is not an
// absolute path, such as a key in a token, stays as it is.
func (m *Machine) setting(file string) string {
	if filepath.IsAbs(file) {
		return m.Path(file)
	}
	return file
}

// gentooKey returns the key that Gentoo's kernels are signed with: that of the
// environment, of make.conf, or of the kernel's configuration.
func (m *Machine) gentooKey(k *kernel.Kernel) Key {
	const keyName, certName = "MODULES_SIGN_KEY", "MODULES_SIGN_CERT"
	if file := os.Getenv(keyName); file != "" {
		return Key{File: file, Cert: os.Getenv(certName)}
	}
	set, err := m.Shell.ReadVariables(m.Path("/etc/portage/make.conf"), keyName, certName)
	if err == nil && set[keyName] != "" {
		return Key{File: set[keyName], Cert: set[certName]}
	}
	// One PEM file with both, named relative to the headers.
	file := k.Option("CONFIG_MODULE_SIG_KEY")
	if strings.HasPrefix(file, "pkcs11:") {
		return Key{File: file}
	}
	if file != "" && !filepath.IsAbs(file) {
		file = filepath.Join(k.SourceDir, file)
	}
	if !files.Exists(file) {
		return Key{}
	}
	return Key{File: file}
}

// EnforcesSignatures reports whether the running kernel refuses modules that have no
// signature which it can verify.
func (m *Machine) EnforcesSignatures() bool {
	enforce, _ := os.ReadFile(m.Path("/sys/module/module/parameters/sig_enforce"))
	lockdown, _ := os.ReadFile(m.Path("/sys/kernel/security/lockdown"))
	return strings.TrimSpace(string(enforce)) == "Y" ||
		bytes.Contains(lockdown, []byte("[integrity]")) || bytes.Contains(lockdown, []byte("[confidentiality]"))
}
