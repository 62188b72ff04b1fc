// SPDX-License-Identifier: GPL-2.0-or-later

package fingerprint

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
)

// digests are the hashes of the single files of one directory, so that when one file
// of it changes the others are not read again. They are in a file of their own,
// which is read when something in the directory did change, and not otherwise.
type digests struct {
	file    string // "" where they are not kept
	lock    *sync.Mutex
	was     map[string]digest
	now     map[string]digest
	changed bool
}

// digest is of one file: what it looked like, and its hash.
type digest struct{ Stamp, Sum string }

// digests returns those of the directory dir, which nobody else has until they are
// closed.
func (c *store) digests(dir string) *digests {
	d := &digests{now: map[string]digest{}, lock: &sync.Mutex{}}
	name := url.PathEscape(dir) + ".json"
	if c.file != "" && len(name) <= 200 {
		c.mu.Lock()
		if c.directories[dir] == nil {
			c.directories[dir] = d.lock
		}
		d.lock = c.directories[dir]
		c.mu.Unlock()
		d.file = filepath.Join(c.digestsDir(), name)
	}
	d.lock.Lock()
	d.was, _ = files.ReadState[map[string]digest](d.file)
	return d
}

func (c *store) digestsDir() string { return filepath.Join(filepath.Dir(c.file), "files") }

// close keeps the digests. That they cannot be kept is no loss but of time.
func (d *digests) close() {
	defer d.lock.Unlock()
	if d.file == "" || len(d.now) < 2 || !d.changed && len(d.now) == len(d.was) {
		return
	}
	_ = files.WriteState(d.file, d.now, files.Options{})
}

// tidyDigests removes the digests of directories that are gone, and what killed
// processes left.
func (c *store) tidyDigests() {
	dir := c.digestsDir()
	files.Clean(dir)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		directory, err := url.PathUnescape(name)
		if !ok || err != nil {
			continue
		}
		if _, err := os.Lstat(directory); err != nil {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// content writes a file's name and content: whether it may be executed counts,
// the rest of its mode and its times do not. The file is called key in the
// digests.
func (d *digests) content(w io.Writer, name, key, path string, st *unix.Stat_t) error {
	if isLink(st) {
		target, err := os.Readlink(path)
		fmt.Fprintf(w, "%q -> %q\n", name, target)
		return err
	}
	h := sha256.New()
	stampOf(h, key, st)
	stamp := base64.RawStdEncoding.EncodeToString(h.Sum(nil)[:12])
	file, known := d.was[key]
	if !known || file.Stamp != stamp {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h.Reset()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		file = digest{stamp, sum(h)}
		d.changed = true
	}
	d.now[key] = file
	fmt.Fprintf(w, "%q %t %s\n", name, st.Mode&0o111 != 0, file.Sum)
	return nil
}
