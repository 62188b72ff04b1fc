// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"strings"
	"testing"
)

func TestIdentity(t *testing.T) {
	for _, test := range []struct{ dir, files, name, version, err string }{
		{dir: "v4l2loopback-0.15.0", name: "v4l2loopback", version: "0.15.0"},
		{dir: "dm-writeboost-2.2.18", name: "dm-writeboost", version: "2.2.18"},
		{dir: "toy-1.0-rc1", name: "toy", version: "1.0-rc1"},
		{dir: "ezurio-qcacld-2.0-0.0~git1.a+dfsg", name: "ezurio-qcacld-2.0", version: "0.0~git1.a+dfsg"},
		{dir: "vhba-20250329", name: "vhba", version: "20250329"},
		{dir: "toy", files: "-- a.c --\nMODULE_VERSION(\"1.2\");\n", name: "toy", version: "1.2"},
		{dir: "toy-1.0", files: "-- a.c --\nMODULE_VERSION(\"1.2\");\n", name: "toy", version: "1.0"},
		{dir: "toy", files: "-- x.c --\n#define V \"3\" /* here */\nMODULE_VERSION( V );\n", name: "toy", version: "3"},
		{dir: "toy", files: "-- a.c --\nMODULE_VERSION(\"1.2\");\n-- x.c --\nMODULE_VERSION(\"1.2\");\n", name: "toy", version: "1.2"},
		{dir: "toy", files: "-- a.c --\nMODULE_VERSION(\"1.2\");\n-- x.c --\nMODULE_VERSION(\"1.3\");\n", name: "toy", err: "more than one version: 1.2 in a.c, 1.3 in x.c"},
		{dir: "toy", files: "-- a.c --\nMODULE_VERSION(V);\n// MODULE_VERSION(\"1\")\n-- VERSION --\nv7.1\n\n", name: "toy", version: "7.1"},
		{dir: "toy", files: "-- a.c --\nMODULE_VERSION(\"a b\");\n-- VERSION --\nMAJOR=1\n", name: "toy", err: "neither is the directory"},
		{dir: "toy-driver", name: "toy-driver", err: "neither is the directory"},
		{dir: "my toy", err: "none for a package"},
		{dir: "/", err: "none for a package"},
		{dir: "-1", err: "none for a package"},
	} {
		t.Run(test.dir, func(t *testing.T) {
			root := makeTree(t, test.files+"\n-- Kbuild --\nobj-m := a.o b.o\nb-objs := x.o y.o\n")
			name, err := Name(test.dir)
			version := ""
			if err == nil {
				version, err = Version(root, test.dir, name, openTree(t, root, "").Find().Modules)
			}
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || name != test.name || version != test.version {
				t.Errorf("got %q, %q, %v", name, version, err)
			}
		})
	}
	// A name that is given says where the version begins.
	if version, err := Version(makeTree(t, ""), "toy-1.0-2", "toy", nil); version != "1.0-2" || err != nil {
		t.Errorf("got %q, %v", version, err)
	}
}
