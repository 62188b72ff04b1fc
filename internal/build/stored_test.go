// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/tree"
)

func describe(t *testing.T) *Description {
	return &Description{
		Environment: Environment{
			ID:     tree.ID{Name: "toy", Version: "1.0"},
			Vars:   []string{"kernelver=6.1", "parallel_jobs=2"},
			Kernel: kernel.Dirs{Modules: t.TempDir()}.Kernel("6.1", "x86_64"),
		},
		Conf: conf.Conf{Make: "make all", Modules: []conf.Module{{BuiltName: "toy", BuiltLocation: ".", DestName: "toy"}}},
		Tree: tree.Tree{Dir: "/tree"},
		Jobs: 2,
	}
}

func effective(t *testing.T, j *Description) string {
	t.Helper()
	b, err := json.Marshal(j.Effective())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every field of a conf either counts for what a build makes, or does not: whoever
// adds one decides it here.
func TestEffectiveConf(t *testing.T) {
	counts := map[string]bool{
		"Name": false, "Version": false, // what the tree calls the package counts, as a variable
		"Modules": true, "Make": true, "Patches": true, "PreBuild": true, "PostBuild": true,
		"PreInstall": false, "PostInstall": false, "PostAdd": false, "PostRemove": false,
		"BuildDepends":        false, // the packages do, as they are installed
		"BuildDependsRebuild": false, "Autoinstall": false, "NoWeakModules": false,
		"Excluded": false, "Warnings": false,
		"BuiltName": true, "BuiltLocation": true, "DestName": true, "DestLocation": false, "Strip": true,
	}
	was := effective(t, describe(t))
	try := func(j *Description, v reflect.Value) {
		for i := range v.NumField() {
			name, field := v.Type().Field(i).Name, v.Field(i)
			old := reflect.ValueOf(field.Interface())
			switch field.Kind() {
			case reflect.String:
				field.SetString("other")
			case reflect.Bool:
				field.SetBool(!field.Bool())
			case reflect.Slice:
				field.Set(reflect.Append(field.Slice3(0, field.Len(), field.Len()), reflect.Zero(field.Type().Elem())))
			}
			want, known := counts[name]
			if got := effective(t, j) != was; !known || got != want {
				t.Errorf("%s: it counts: %v; want %v, which is known: %v", name, got, want, known)
			}
			field.Set(old)
		}
	}
	j := describe(t)
	try(j, reflect.ValueOf(&j.Conf).Elem())
	try(j, reflect.ValueOf(&j.Conf.Modules[0]).Elem())
}

func TestEffective(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(t *testing.T, j *Description)
		counts bool
	}{
		"nothing":               {func(*testing.T, *Description) {}, false},
		"processes":             {func(_ *testing.T, j *Description) { j.Jobs = 7; j.Vars[1] = "parallel_jobs=7" }, false},
		"processes in the conf": {func(_ *testing.T, j *Description) { j.Conf.Make = "make -j16 all" }, false},
		"at the end":            {func(_ *testing.T, j *Description) { j.Conf.Make = "make all -j 3" }, false},
		"another option":        {func(_ *testing.T, j *Description) { j.Conf.Make = "make -jxy all" }, true},
		"a variable":            {func(_ *testing.T, j *Description) { j.Vars[0] = "kernelver=6.2" }, true},
		"the usual command":     {func(_ *testing.T, j *Description) { j.Conf.Make = "" }, true},
		"what each build has of its own": {func(t *testing.T, _ *Description) {
			t.Setenv("HOME", "/other")
			t.Setenv("TMPDIR", "/other")
			t.Setenv("LANG", "de_DE")
		}, false},
		"a variable of the one who calls":   {func(_ *testing.T, j *Description) { j.Exports = []string{"SSH_TTY=/dev/pts/1"} }, true},
		"a variable that no shell can have": {func(_ *testing.T, j *Description) { j.Exports = []string{"a.b=1"} }, true},
		"the same PATH":                     {func(t *testing.T, _ *Description) { t.Setenv("PATH", os.Getenv("PATH")+":/none:"+os.Getenv("PATH")) }, false},
		"an empty directory more in PATH":   {func(t *testing.T, _ *Description) { t.Setenv("PATH", os.Getenv("PATH")+":"+t.TempDir()) }, false},
		"another PATH":                      {func(t *testing.T, _ *Description) { t.Setenv("PATH", os.Getenv("PATH")+":"+filled(t)) }, true},
		"what steers a build":               {func(t *testing.T, _ *Description) { t.Setenv("KCFLAGS", "-g") }, true},
		"what the administrator sets":       {func(_ *testing.T, j *Description) { j.Settings.BuildEnvironment = []string{"SOURCE_DATE_EPOCH=1"} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			j := describe(t)
			was := effective(t, j)
			tt.change(t, j)
			if got := effective(t, j) != was; got != tt.counts {
				t.Errorf("it counts: %v", got)
			}
		})
	}
}

// filled returns a directory that has a file.
func filled(t *testing.T) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "program"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A PATH counts by the directories that have something.
func TestSearched(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"empty", "full", "full/sub"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("full", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var path []string
	for _, name := range []string{"none", "link", "empty", "full", "full/sub"} {
		path = append(path, filepath.Join(dir, name))
	}
	if got, want := searched(strings.Join(path, ":")), filepath.Join(dir, "full"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
