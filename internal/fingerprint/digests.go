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

// digests are the hashes of the single files in one directory: if one file changes, the
// others are not read again. Each directory has its own file of digests, which is read
// only if something in the directory has changed.
type digests struct {
	file    string            // "" if they are not kept
	lock    *sync.Mutex       // held until close
	was     map[string]digest // as they were kept
	now     map[string]digest // of the files seen this time
	changed bool              // some of now are not in was
}

// digest is the hash of one file, and the stamp that the file had then.
type digest struct{ Stamp, Sum string }

// digests returns the digests of the directory dir. If they are kept, other goroutines
// wait for them until they are closed.
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

// close writes the digests to their file if they changed. If that fails, the next run
// reads the files again.
func (d *digests) close() {
	defer d.lock.Unlock()
	if d.file == "" || len(d.now) < 2 || !d.changed && len(d.now) == len(d.was) {
		return
	}
	_ = files.WriteState(d.file, d.now, files.Options{})
}

// tidyDigests removes the digests of directories that are gone, and the temporaries
// that killed processes left.
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

// content writes to w a line for the file or symbolic link at path: its name, whether
// it may be executed, and the hash of its content; or the target of the link. Other
// bits of the mode, and times, do not count. In the digests the file is called key.
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
