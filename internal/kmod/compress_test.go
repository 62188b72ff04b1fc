// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/testskip"
)

func TestSplitName(t *testing.T) {
	tests := []struct {
		file string
		name string
		c    codec.Compression
		ok   bool
	}{
		{"foo.ko", "foo", codec.None, true},
		{"foo.ko.gz", "foo", codec.Gzip, true},
		{"foo.ko.xz", "foo", codec.XZ, true},
		{"foo.ko.zst", "foo", codec.Zstd, true},
		{"nvidia-drm.ko.zst", "nvidia-drm", codec.Zstd, true},
		{"a.ko.ko", "a.ko", codec.None, true},
		{"a b.ko", "a b", codec.None, true},
		{"", "", codec.None, false},
		{".ko", "", codec.None, false},
		{".ko.xz", "", codec.None, false},
		{"foo", "", codec.None, false},
		{"foo.o", "", codec.None, false},
		{"foo.xz", "", codec.None, false},
		{"foo.ko.bz2", "", codec.None, false},
		{"foo.ko.xz.origin", "", codec.None, false},
		{"foo.ko.XZ", "", codec.None, false},
		{"dir/foo.ko", "", codec.None, false},
		{"dir/.ko", "", codec.None, false},
	}
	for _, tt := range tests {
		name, c, ok := SplitName(tt.file)
		if name != tt.name || c != tt.c || ok != tt.ok {
			t.Errorf("SplitName(%q) = %q, %v, %v, want %q, %v, %v", tt.file, name, c, ok, tt.name, tt.c, tt.ok)
		}
		if ok && name+".ko"+c.Suffix() != tt.file {
			t.Errorf("%q does not come back from its parts", tt.file)
		}
	}
}

func compressed(t testing.TB, module []byte, c codec.Compression) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Compress(&b, module, c, 0); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeCompressed(t testing.TB, path string, module []byte, c codec.Compression) {
	t.Helper()
	if err := os.WriteFile(path, compressed(t, module, c), 0o600); err != nil {
		t.Fatal(err)
	}
}

// contents are what modules in the tests consist of: the kinds that compressors treat differently.
func contents() map[string][]byte {
	random := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{}).Read(random)
	var text bytes.Buffer
	for i := range 140_000 {
		fmt.Fprintf(&text, "line %d\n", i*i%1009)
	}
	return map[string][]byte{
		"empty":  {},
		"byte":   {1},
		"module": testModule(),
		"random": random,
		"zeros":  make([]byte, 3<<20),
		"text":   text.Bytes(), // 1.2 MB: larger than the windows
	}
}

func TestRoundTrip(t *testing.T) {
	for name, module := range contents() {
		for _, c := range []codec.Compression{codec.None, codec.Gzip, codec.XZ, codec.Zstd} {
			t.Run(name+"/"+c.String(), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "foo.ko"+c.Suffix())
				writeCompressed(t, path, module, c)
				got, err := ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, module) {
					t.Errorf("%d bytes come back as %d other ones", len(module), len(got))
				}
				if !bytes.Equal(compressed(t, module, c), compressed(t, module, c)) {
					t.Error("the same module is compressed in two ways")
				}
			})
		}
	}
}

// TestKernelAccepts looks for what the kernel's decoders are known to need.
func TestKernelAccepts(t *testing.T) {
	for name, module := range contents() {
		if len(module) == 0 {
			continue // no module, and xz writes no block for it
		}
		t.Run(name, func(t *testing.T) {
			gz := compressed(t, module, codec.Gzip)
			if want := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0}; !bytes.Equal(gz[:8], want) {
				t.Errorf("gzip header %x, want magic, deflate, no flags, no time: %x", gz[:8], want)
			}

			x := compressed(t, module, codec.XZ)
			if x[6] != 0 || x[7] != xz.CRC32 {
				t.Errorf("xz stream flags %x, want CRC32: 0001", x[6:8])
			}
			// Block header: size, flags, then the one filter: LZMA2, one property byte, the dictionary's size.
			// 0x10 is 1 MiB.
			if filter := x[13:17]; filter[0] != 0 || filter[1] != 0x21 || filter[2] != 1 || filter[3] > 0x10 {
				t.Errorf("xz block flags and filter %x, want LZMA2 with 1 MiB at most: 00210110", filter)
			}

			z := compressed(t, module, codec.Zstd)
			const window = 1 << 20
			var h zstd.Header
			if err := h.Decode(z); err != nil {
				t.Fatal(err)
			}
			// The format has no content size below 256 beside a window.
			if len(module) >= 256 && !h.HasFCS || h.HasFCS && h.FrameContentSize != uint64(len(module)) {
				t.Errorf("zstd content size %d (present: %v), want %d", h.FrameContentSize, h.HasFCS, len(module))
			}
			if h.WindowSize > window {
				t.Errorf("zstd window of %d bytes, want %d at most", h.WindowSize, window)
			}
			if h.SingleSegment && len(module) > window {
				t.Errorf("zstd single segment of %d bytes", len(module))
			}
			if h.DictionaryID != 0 || h.Skippable {
				t.Errorf("zstd header %+v", h)
			}
		})
	}
}

func TestLevels(t *testing.T) {
	module := contents()["text"]
	for _, tt := range []struct {
		c     codec.Compression
		level int
		ok    bool
	}{
		{codec.Gzip, 1, true}, {codec.Gzip, 9, true}, {codec.Gzip, 10, false}, {codec.Gzip, -1, false},
		{codec.XZ, 9, true},
		{codec.Zstd, 1, true}, {codec.Zstd, 8, true}, {codec.Zstd, 19, true}, {codec.Zstd, 22, true},
	} {
		var b bytes.Buffer
		err := Compress(&b, module, tt.c, tt.level)
		if (err == nil) != tt.ok {
			t.Errorf("%v, level %d: error %v", tt.c, tt.level, err)
			continue
		}
		if !tt.ok {
			continue
		}
		got, err := decompress(bytes.NewReader(b.Bytes()), int64(b.Len()), tt.c, MaxSize)
		if err != nil || !bytes.Equal(got, module) {
			t.Errorf("%v, level %d: does not come back: %v", tt.c, tt.level, err)
		}
	}
}

type failingWriter struct{ n int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.n {
		return 0, os.ErrDeadlineExceeded
	}
	w.n -= len(p)
	return len(p), nil
}

func TestCompressWriteError(t *testing.T) {
	module := contents()["random"]
	for _, c := range []codec.Compression{codec.None, codec.Gzip, codec.XZ, codec.Zstd} {
		for _, n := range []int{0, 5, len(module) - 10} {
			if err := Compress(&failingWriter{n}, module, c, 0); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v, after %d bytes: error %v", c, n, err)
			}
		}
	}
}

func TestReadFileErrors(t *testing.T) {
	module := contents()["text"]
	for _, c := range []codec.Compression{codec.Gzip, codec.XZ, codec.Zstd} {
		data := compressed(t, module, c)
		flipped := bytes.Clone(data)
		flipped[len(data)/2] ^= 0x10
		for name, bad := range map[string][]byte{
			"only the magic": data[:6],
			"half":           data[:len(data)/2],
			"last byte gone": data[:len(data)-1],
			"bit flipped":    flipped,
		} {
			path := filepath.Join(t.TempDir(), "foo.ko"+c.Suffix())
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, %s: error %v, want one that names the file", c, name, err)
			}
		}
	}
}

func TestBomb(t *testing.T) {
	module := make([]byte, 4<<20)
	for _, c := range []codec.Compression{codec.None, codec.Gzip, codec.XZ, codec.Zstd} {
		data := compressed(t, module, c)
		for limit, want := range map[int64]error{
			int64(len(module)):     nil,
			int64(len(module)) - 1: errTooLarge,
			1 << 10:                errTooLarge,
		} {
			_, err := decompress(bytes.NewReader(data), int64(len(data)), c, limit)
			if !errors.Is(err, want) {
				t.Errorf("%v, limit %d: error %v, want %v", c, limit, err, want)
			}
		}
	}
}

func TestLargeDictionary(t *testing.T) {
	var b bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 2 * maxWindow, CheckSum: xz.CRC32, BlockSize: 1000}.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(testModule())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = decompress(bytes.NewReader(b.Bytes()), int64(b.Len()), codec.XZ, MaxSize)
	if err == nil || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("error %v, want one about the dictionary", err)
	}
}

// TestSizeHint has SizeHint find every block of many, with each kind of check.
func TestSizeHint(t *testing.T) {
	for name, module := range contents() {
		for _, check := range []byte{xz.CRC32, xz.CRC64, xz.SHA256} {
			var b bytes.Buffer
			w, err := xz.WriterConfig{DictCap: 1 << 16, CheckSum: check, BlockSize: 100_001}.NewWriter(&b)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(module)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			n, err := codec.SizeHint(bytes.NewReader(b.Bytes()), int64(b.Len()), codec.XZ, maxWindow)
			if err != nil || n != int64(len(module)) {
				t.Errorf("%s, check %d: SizeHint = %d, %v, want %d", name, check, n, err, len(module))
			}
		}
	}
}

// TestPrograms exchanges modules with the compressions' own programs, as far as they are there.
func TestPrograms(t *testing.T) {
	for _, tt := range []struct {
		c        codec.Compression
		compress []string
		test     []string
	}{
		{codec.Gzip, []string{"gzip", "-9c"}, []string{"gzip", "-dc"}},
		{codec.XZ, []string{"xz", "--check=crc32", "--lzma2=dict=1MiB", "-c"}, []string{"xz", "--single-stream", "-dc"}},
		{codec.XZ, []string{"xz", "-T2", "--block-size=100000", "-c"}, []string{"xz", "-dc"}},
		{codec.XZ, []string{"xz", "-9", "-c"}, []string{"xz", "-dc"}},
		{codec.Zstd, []string{"zstd", "-qc"}, []string{"zstd", "-qdc"}},
		{codec.Zstd, []string{"zstd", "-qc", "-19", "--long=25"}, []string{"zstd", "-qdc"}},
	} {
		t.Run(strings.Join(tt.compress, " "), func(t *testing.T) {
			if _, err := exec.LookPath(tt.compress[0]); err != nil {
				testskip.For(t, err.Error())
			}
			for name, module := range contents() {
				theirs := filter(t, module, tt.compress...)
				got, err := decompress(bytes.NewReader(theirs), int64(len(theirs)), tt.c, MaxSize)
				if err != nil || !bytes.Equal(got, module) {
					t.Errorf("%s: theirs does not come back here: %v", name, err)
				}
				if !bytes.Equal(filter(t, compressed(t, module, tt.c), tt.test...), module) {
					t.Errorf("%s: ours does not come back there", name)
				}
			}
		})
	}
}

func filter(t *testing.T, input []byte, command ...string) []byte {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(command, " "), err)
	}
	return out
}

func FuzzDecompress(f *testing.F) {
	for _, name := range []string{"empty", "module"} {
		for _, c := range []codec.Compression{codec.None, codec.Gzip, codec.XZ, codec.Zstd} {
			f.Add(compressed(f, contents()[name], c))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 20
		got, err := decompress(bytes.NewReader(data), int64(len(data)), codec.Detect(data, compressions...), limit)
		if len(got) > limit {
			t.Errorf("%d bytes, limit %d", len(got), limit)
		}
		if err != nil && got != nil {
			t.Errorf("%d bytes together with the error %v", len(got), err)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	module := contents()["text"]
	for _, c := range []codec.Compression{codec.Gzip, codec.XZ, codec.Zstd} {
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(int64(len(module)))
			for b.Loop() {
				if err := Compress(io.Discard, module, c, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
