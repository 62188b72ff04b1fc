// SPDX-License-Identifier: GPL-2.0-or-later

package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"dkms-kernel-install/internal/files"
)

// What takes most of the time of these tests is compilers. Each real package is built once: what ours built in one
// test is in the cache of builds of another, and what Debian's dkms makes of a package is kept with the root that it
// was made in.

// buildsDir is where a root has its cache of builds.
func (r *Root) buildsDir() string {
	return filepath.Join(r.Dir, "var/cache/dkms-kernel-install/builds")
}

// sharedBuilds is where the builds of all tests of this run are.
func sharedBuilds() string { return filepath.Join(os.Getenv(scratchEnv), "builds") }

// copyBuilds copies entries of a cache of builds that another has not got.
func copyBuilds(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return nil // nothing was built
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		file := filepath.Join(to, e.Name())
		if e.Name()[0] == '.' || files.Exists(file) {
			continue
		}
		in, err := os.Open(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		err = files.Write(file, in, 0o600, files.Options{})
		in.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// ShareBuilds gives the root what was built in tests before, for a test that is not about the build itself.
func (r *Root) ShareBuilds() {
	r.t.Helper()
	r.check(copyBuilds(sharedBuilds(), r.buildsDir()))
}

// keepBuilds gives what was built in the root to tests to come.
func (r *Root) keepBuilds() {
	if err := copyBuilds(r.buildsDir(), sharedBuilds()); err != nil {
		r.t.Errorf("cannot keep what was built: %v", err)
	}
}

// ofPeer returns what do finds out about Debian's dkms, or what it found out in an earlier run: in the same root, by
// the same test. A file that is damaged counts as none.
func ofPeer[T any](t *testing.T, do func() T) T {
	t.Helper()
	dir := get(t, coreSet).dir
	if os.Getenv("DKMS_TEST_ALL") != "" {
		return do()
	}
	h := sha256.New()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range sources {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(h, file)
		if _, err := io.Copy(h, f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	fmt.Fprintln(h, t.Name())
	file := filepath.Join(dir, "peer", fmt.Sprintf("%x.json", h.Sum(nil)))
	if text, err := os.ReadFile(file); err == nil {
		var found T
		if json.Unmarshal(text, &found) == nil {
			t.Logf("%s has what an earlier run found out", file)
			return found
		}
	}
	found := do()
	if t.Failed() {
		return found
	}
	text, err := json.Marshal(found)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Write(file, bytes.NewReader(text), 0o644, files.Options{}); err != nil {
		t.Logf("it will have to be found out again: %v", err)
	}
	return found
}
