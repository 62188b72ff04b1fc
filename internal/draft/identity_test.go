package draft

import (
	"strings"
	"testing"
)

func TestIdentity(t *testing.T) {
	for _, test := range []struct{ folder, files, name, version, from, err string }{
		{folder: "v4l2loopback-0.15.0", name: "v4l2loopback", version: "0.15.0", from: "the folder's name"},
		{folder: "dm-writeboost-2.2.18", name: "dm-writeboost", version: "2.2.18", from: "the folder's name"},
		{folder: "toy-1.0-rc1", name: "toy", version: "1.0-rc1", from: "the folder's name"},
		{folder: "ezurio-qcacld-2.0-0.0~git1.a+dfsg", name: "ezurio-qcacld-2.0", version: "0.0~git1.a+dfsg", from: "the folder's name"},
		{folder: "vhba-20250329", name: "vhba", version: "20250329", from: "the folder's name"},
		{folder: "toy", files: "-- a.c --\nMODULE_VERSION(\"1.2\");\n", name: "toy", version: "1.2", from: "MODULE_VERSION in a.c"},
		{folder: "toy-1.0", files: "-- a.c --\nMODULE_VERSION(\"1.2\");\n", name: "toy", version: "1.0", from: "the folder's name"},
		{folder: "toy", files: "-- x.c --\n#define V \"3\" /* here */\nMODULE_VERSION( V );\n", name: "toy", version: "3", from: "MODULE_VERSION in x.c"},
		{folder: "toy", files: "-- a.c --\nMODULE_VERSION(\"1.2\");\n-- x.c --\nMODULE_VERSION(\"1.2\");\n", name: "toy", version: "1.2", from: "MODULE_VERSION in a.c"},
		{folder: "toy", files: "-- a.c --\nMODULE_VERSION(\"1.2\");\n-- x.c --\nMODULE_VERSION(\"1.3\");\n", name: "toy", err: "more than one version: 1.2 in a.c, 1.3 in x.c"},
		{folder: "toy", files: "-- a.c --\nMODULE_VERSION(V);\n// MODULE_VERSION(\"1\")\n-- VERSION --\nv7.1\n\n", name: "toy", version: "7.1", from: "the file VERSION"},
		{folder: "toy", files: "-- a.c --\nMODULE_VERSION(\"a b\");\n-- VERSION --\nMAJOR=1\n", name: "toy", err: "neither is the folder"},
		{folder: "toy-driver", name: "toy-driver", err: "neither is the folder"},
		{folder: "my toy", err: "none for a package"},
		{folder: "/", err: "none for a package"},
		{folder: "-1", err: "none for a package"},
	} {
		t.Run(test.folder, func(t *testing.T) {
			root := makeTree(t, test.files+"\n-- Kbuild --\nobj-m := a.o b.o\nb-objs := x.o y.o\n")
			name, err := Name(test.folder)
			version, from := "", ""
			if err == nil {
				version, from, err = Version(root, test.folder, name, Find(root, nil).Modules)
			}
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || name != test.name || version != test.version || from != test.from {
				t.Errorf("got %q, %q, %q, %v", name, version, from, err)
			}
		})
	}
	// A name that is given says where the version begins.
	if version, _, err := Version(makeTree(t, ""), "toy-1.0-2", "toy", nil); version != "1.0-2" || err != nil {
		t.Errorf("got %q, %v", version, err)
	}
}
