// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dkms-kernel-install/internal/store"
	"dkms-kernel-install/internal/tree"
)

// open opens the machine whose framework.conf says conf.
func open(t *testing.T, o Options, conf string) *Machine {
	t.Helper()
	o.Root = t.TempDir()
	etc := filepath.Join(o.Root, "etc/dkms")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(etc, "framework.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	// Where an image is made, caches are elsewhere.
	if err := os.MkdirAll(filepath.Join(o.Root, "run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := Open(o, func(line string) { t.Error(line) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// Every path of a machine is below its root, whatever its settings say.
func TestRoot(t *testing.T) {
	for name, conf := range map[string]string{
		"defaults": "",
		"settings": "source_tree=/src\ndkms_tree=/tree\ninstall_tree=/modules\nmok_signing_key=/keys/$kernelver.key\nmok_certificate=/keys/cert\n",
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t, Options{}, conf)
			k := m.Target("6.1")
			key, err := m.SigningKey(m.Kernel(k))
			if err != nil {
				t.Fatal(err)
			}
			paths := map[string]string{
				"etc":     m.EtcDir(),
				"cache":   m.CacheDir(),
				"builds":  m.Store.(*store.Dir).Path,
				"source":  m.Settings.SourceTree,
				"tree":    m.Tree.Dir,
				"sources": m.Tree.Sources,
				"modules": m.Kernels.Modules,
				"boot":    m.Kernels.Boot,
				"kernel":  m.Kernel(k).Dir,
				"headers": m.Kernel(k).SourceDir,
				"weak":    m.WeakDir("6.1"),
				"places":  m.Modules(k).Dir,
				"key":     key.File,
				"cert":    key.Cert,
			}
			for what, path := range paths {
				if !strings.HasPrefix(path, m.Root+"/") {
					t.Errorf("%s is %s, not below %s", what, path, m.Root)
				}
			}
			if name == "settings" && (m.Kernel(k).Dir != m.Root+"/modules/6.1" || key.File != m.Root+"/keys/6.1.key") {
				t.Errorf("the modules are in %s, the key is %s", m.Kernel(k).Dir, key.File)
			}
		})
	}
	if got := (&Machine{}).Path("/etc/dkms"); got != "/etc/dkms" {
		t.Errorf("without a root: %s", got)
	}
}

// The command line wins over framework.conf, and what it names is not below the root.
func TestOptions(t *testing.T) {
	dir := t.TempDir()
	o := Options{DkmsTree: dir + "/tree", InstallTree: dir + "/modules", Arch: "riscv64", Jobs: 3, SymlinkModules: true}
	m := open(t, o, "dkms_tree=/other\nparallel_jobs=7\n")
	if m.Tree.Dir != dir+"/tree" || m.Kernels.Modules != dir+"/modules" || m.Settings.SourceTree != m.Root+"/usr/src" {
		t.Errorf("trees: %s, %s, %s", m.Tree.Dir, m.Kernels.Modules, m.Settings.SourceTree)
	}
	if m.Settings.ParallelJobs != 3 || !m.Settings.SymlinkModules {
		t.Errorf("%+v", m.Settings)
	}
	if got, want := m.Target("6.1"), (tree.Target{Release: "6.1", Arch: "riscv64"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAddonModulesDir(t *testing.T) {
	for _, tt := range []struct{ env, sysconfig, release, want string }{
		{"", "", "", ""},
		{"", "", "ID=debian", "/updates/dkms"},
		{"", "ADDON_MODULES_DIR=mine", "ID=debian", "/mine"},
		{"here", "ADDON_MODULES_DIR=mine", "ID=debian", "/here"},
	} {
		t.Setenv("ADDON_MODULES_DIR", tt.env)
		m := &Machine{Options: Options{Root: t.TempDir()}}
		for file, text := range map[string]string{"/etc/os-release": tt.release, "/etc/sysconfig/module-init-tools": tt.sysconfig} {
			if err := os.MkdirAll(filepath.Dir(m.Path(file)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(m.Path(file), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m, err := Open(m.Options, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		if got := m.Settings.AddonModulesDir; got != tt.want {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}
