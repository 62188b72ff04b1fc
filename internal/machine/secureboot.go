// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/secureboot"
	"dkms-kernel-install/internal/tree"
)

// Loading returns what decides whether a kernel loads the modules that are made for it. The
// certificate is known only if it can be read.
func (m *Machine) Loading(k tree.Target) secureboot.World {
	kern := m.Kernel(k)
	option := kern.Option
	if _, err := kern.Enabled(""); err != nil {
		option = nil
	}
	distribution := ""
	if len(m.Distro.IDs) > 0 {
		distribution = m.Distro.IDs[0]
	}
	w := secureboot.World{Kernel: secureboot.NewKernel(k.Release, distribution, option), Firmware: m.firmware(), Key: m.moduleKey(k)}
	if w.Forced != secureboot.Yes && m.forcedByCommandLine() {
		w.Forced = secureboot.Yes // that of the next boot is most likely the same
	}
	if k.Release == m.Running && !m.Elsewhere {
		w.Enforcing = secureboot.ReadEnforcing(m.read("/sys/module/module/parameters/sig_enforce"),
			m.read("/sys/kernel/security/lockdown"), m.read("/sys/kernel/security/lsm"))
		w.Rings, w.RingsErr = m.rings()
	}
	return w
}

// rings returns the keyrings of the running kernel.
func (m *Machine) rings() (secureboot.Rings, error) {
	members := secureboot.KernelMembers
	if m.Path("/") != "/" {
		members = nil // the kernel that runs here is not that machine's
	}
	return secureboot.ReadRings(m.Path("/proc/keys"), members)
}

// forcedByCommandLine reports whether the command line of the running kernel makes it
// enforce signatures.
func (m *Machine) forcedByCommandLine() bool {
	if m.Elsewhere {
		return false
	}
	for word := range strings.FieldsSeq(m.read("/proc/cmdline")) {
		name, value, _ := strings.Cut(word, "=")
		switch {
		case name == "module.sig_enforce" && slices.Contains([]string{"", "1", "y", "Y"}, value):
			return true
		case name == "lockdown" && (value == "integrity" || value == "confidentiality"):
			return true
		}
	}
	return false
}

// read returns the content of a file of the machine; "" if it cannot be read.
func (m *Machine) read(path string) string {
	text, _ := os.ReadFile(m.Path(path))
	return string(text)
}

// moduleKey returns the key of modules that are made for a kernel.
func (m *Machine) moduleKey(k tree.Target) (key secureboot.Key) {
	kern := m.Kernel(k)
	set, err := m.SigningKey(kern)
	if err != nil {
		return key
	}
	key.File, key.FileRevoked = cmp.Or(set.Cert, set.File), secureboot.No
	c, inPEM, err := kmod.ReadCertificate(key.File)
	_, errKey := os.Stat(set.File)
	token := strings.HasPrefix(set.File, "pkcs11:")
	switch {
	case !m.Signs(kern), !token && (errors.Is(err, fs.ErrNotExist) || errors.Is(errKey, fs.ErrNotExist)):
		key.Signs = secureboot.No
	case err == nil:
		key.Signs, key.Certificate, key.PEM, key.Ours = secureboot.Yes, c, inPEM, kmod.Made(c)
	}
	return key
}
