// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCache(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	src := Source{File: write("dkms.conf", "x"), Module: "toy", Version: "1.0", Release: "6.1", Arch: "x86_64", KernelConfigFile: write("auto.conf", "")}
	set := Settings{EtcDir: dir, ParallelJobs: 2}
	want := Conf{Name: "toy", Version: "1.0", Modules: []Module{toy}, Autoinstall: true}
	file := filepath.Join(dir, "cache", "conf.json")

	c := OpenCache(file)
	if _, ok := c.Get(src, set); ok {
		t.Error("an empty cache has something")
	}
	if err := c.Replace(map[*Source]Conf{&src: want}, set); err != nil {
		t.Fatal(err)
	}
	got, ok := OpenCache(file).Get(src, set)
	if !ok {
		t.Fatal("the cache lost what was written")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	for name, change := range map[string]func(src *Source, set *Settings){
		"the conf":                 func(*Source, *Settings) { write("dkms.conf", "y") },
		"the conf's time":          func(*Source, *Settings) { os.Chtimes(src.File, time.Now(), time.Unix(1, 0)) },
		"an override comes":        func(*Source, *Settings) { write("toy.conf", "") },
		"the kernel's config":      func(*Source, *Settings) { write("auto.conf", "CONFIG_X=y") },
		"the headers' place":       func(src *Source, _ *Settings) { src.KernelSourceDir = "/elsewhere" },
		"a directive":              func(src *Source, _ *Settings) { src.Directives = []string{"A=b"} },
		"where modules go":         func(_ *Source, set *Settings) { set.AddonModulesDir = "/updates" },
		"a setting that confs see": func(_ *Source, set *Settings) { set.ParallelJobs = 3 },
	} {
		if err := OpenCache(file).Replace(map[*Source]Conf{&src: want}, set); err != nil {
			t.Fatal(err)
		}
		src, set := src, set
		change(&src, &set)
		if _, ok := OpenCache(file).Get(src, set); ok {
			t.Errorf("after a change of %s the cache still has the old Conf", name)
		}
		os.Remove(filepath.Join(dir, "toy.conf"))
	}

	write("cache/conf.json", "{")
	if _, ok := OpenCache(file).Get(src, set); ok {
		t.Error("a damaged cache has something")
	}
}
