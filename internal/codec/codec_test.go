// SPDX-License-Identifier: GPL-2.0-or-later

package codec

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

func TestForArchive(t *testing.T) {
	for name, want := range map[string]string{
		"a": "0", "a.tar": "0", "a.dkms.tar.gz": "1", "a.tgz": "1", "a.tar.xz": "2", "a.txz": "2", "a.tar.zst": "3", "a.tzst": "3",
		"a.tar.bz2": "archives cannot be compressed as .bz2", "a.tbz": "archives cannot be compressed as .tbz", "a.rpm": "0",
	} {
		c, err := ForArchive(name)
		got := fmt.Sprint(int(c))
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// FuzzRead shows that whatever the data are, no decoder panics, or says that its data end
// where there are none.
func FuzzRead(f *testing.F) {
	for _, text := range []string{"", "module"} {
		for _, c := range []Compression{None, Gzip, XZ, Zstd} {
			var b bytes.Buffer
			if err := Compress(&b, []byte(text), c, WriterOptions{}); err != nil {
				f.Fatal(err)
			}
			f.Add(int(c), b.Bytes())
		}
	}
	f.Add(int(Bzip2), []byte("BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00more"))
	f.Add(int(LZ4), []byte(lz4Magic+"\x02\x00\x00\x00\x10amore"))
	f.Add(int(LZ4), []byte(nil))
	f.Fuzz(func(t *testing.T, n int, data []byte) {
		const window, limit = 1 << 20, 1 << 20
		if n < 0 || n >= len(table) {
			return
		}
		r, size, c := bytes.NewReader(data), int64(len(data)), Compression(n)
		SizeHint(r, size, c, window)
		if zr, err := NewReader(r, size, c, window); err == nil {
			io.CopyN(io.Discard, zr, limit)
			zr.Close()
		}
		m, err := OpenMember(r, 0, size, c, window)
		if err != nil {
			return
		}
		defer m.Close()
		if _, err := io.CopyN(io.Discard, m, limit); err == io.EOF && (m.End() < 0 || m.End() > size) {
			t.Errorf("%v ends at %d of %d bytes", c, m.End(), size)
		}
	})
}
