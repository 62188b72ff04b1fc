// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
)

// leftFile is the record, in the directory of a build, of modules that the package's
// POST_INSTALL changed after they were placed: their SHA-256 sums, by file name.
const leftFile = ".placed.json"

// Left records how the modules of p that were placed look now, if they are not what was
// built: that is what counts as installed from now on.
func (k *Kernel) Left(p Placement, placed []string) error {
	record := filepath.Join(k.Tree.TargetDir(p.ID, k.Target), leftFile)
	sums := map[string]string{}
	for _, path := range placed {
		if same(path, filepath.Join(k.Tree.ModuleDir(p.ID, k.Target), filepath.Base(path))) {
			continue
		}
		if s := sum(path); s != "" {
			sums[filepath.Base(path)] = s
		}
	}
	if len(sums) == 0 && !files.Exists(record) {
		return nil
	}
	return files.WriteState(record, sums, files.Options{})
}

// left reports whether the file at path is as the package's POST_INSTALL left the module
// of that file name in the build of id.
func (k *Kernel) left(id tree.ID, path string) bool {
	sums, _ := files.ReadState[map[string]string](filepath.Join(k.Tree.TargetDir(id, k.Target), leftFile))
	want := sums[filepath.Base(path)]
	return want != "" && sum(path) == want
}

// sum returns the SHA-256 sum of the regular file at path; "" if there is none that can be
// read.
func sum(path string) string {
	if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

// signedSince reports whether placed is the module in the file built, with another
// signature or none, and has changed after that: somebody signed it in its place.
func signedSince(placed, built string) bool {
	var fp, fb unix.Stat_t
	if unix.Lstat(placed, &fp) != nil || unix.Lstat(built, &fb) != nil || !before(fb.Ctim, fp.Ctim) {
		return false
	}
	a, err := kmod.ReadFile(placed)
	if err != nil {
		return false
	}
	b, err := kmod.ReadFile(built)
	return err == nil && bytes.Equal(kmod.StripSignature(a), kmod.StripSignature(b))
}
