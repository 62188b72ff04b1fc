// SPDX-License-Identifier: GPL-2.0-or-later

package initramfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

var update = flag.Bool("update", false, "make testdata again")

const k = "6.12.1-amd64"

// entry is a file in an archive.
type entry struct {
	name string
	mode int
	size int
}

// files are entries of one size each that is not a multiple of four.
func files(names ...string) []entry {
	var list []entry
	for _, n := range names {
		list = append(list, entry{n, 0o100644, 7})
	}
	return list
}

// cpio makes an archive, with TRAILER!!!.
func cpio(entries ...entry) []byte {
	var b bytes.Buffer
	for _, e := range append(entries, entry{name: cpioEnd}) {
		writeHeader(&b, cpioNew, e.mode, e.size, len(e.name)+1)
		b.WriteString(e.name + "\x00")
		pad(&b, 4)
		b.Write(bytes.Repeat([]byte{'x'}, e.size))
		pad(&b, 4)
	}
	pad(&b, 512)
	return b.Bytes()
}

func writeHeader(b *bytes.Buffer, magic string, mode, size, nameSize int) {
	fmt.Fprintf(b, "%s%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", magic, 1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, nameSize, 0)
}

func pad(b *bytes.Buffer, to int) {
	for b.Len()%to != 0 {
		b.WriteByte(0)
	}
}

// archive is what the compressed images of these tests hold.
func archive() []byte {
	list := []entry{
		{"kernel", 0o40755, 0}, {"usr", 0o40755, 0}, {"init", 0o120777, 17}, {"big", 0o100644, 300_000},
	}
	list = append(list, files(
		"usr/lib/modules/"+k+"/kernel/drivers/net/dummy.ko.xz",
		"usr/lib/modules/"+k+"/updates/dkms/acpi_call.ko",
		"usr/lib/modules/"+k+"/modules.dep",
	)...)
	return cpio(append(list, entry{"last", 0o100644, 200_001})...)
}

// archiveModules are the modules in it.
var archiveModules = []string{
	"usr/lib/modules/" + k + "/kernel/drivers/net/dummy.ko.xz",
	"usr/lib/modules/" + k + "/updates/dkms/acpi_call.ko",
}

func through(w io.WriteCloser, b *bytes.Buffer, data []byte) []byte {
	_, err := w.Write(data)
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err)
	}
	return bytes.Clone(b.Bytes())
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	return through(gzip.NewWriter(&b), &b, data)
}

func xzed(data []byte, c xz.WriterConfig) []byte {
	var b bytes.Buffer
	w, err := c.NewWriter(&b)
	if err != nil {
		panic(err)
	}
	return through(w, &b, data)
}

func zstded(data []byte, o ...zstd.EOption) []byte {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, o...)
	if err != nil {
		panic(err)
	}
	return through(w, &b, data)
}

// fixture returns archive() as a program compressed it, for which there is no library to write it, or only the one
// that reads it. They are made with -update and: bzip2 archive.cpio; lz4 -l archive.cpio archive.cpio.lz4
func fixture(t testing.TB, ext string) []byte {
	t.Helper()
	if *update {
		if err := os.WriteFile("testdata/archive.cpio", archive(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("testdata/archive.cpio." + ext)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lz4ed compresses as lz4 -l does, in blocks of 8 MiB.
func lz4ed(data []byte) []byte {
	var b bytes.Buffer
	w := lz4.NewWriter(&b)
	if err := w.Apply(lz4.LegacyOption(true)); err != nil {
		panic(err)
	}
	return through(w, &b, data)
}

// uki makes a unified kernel image of sections.
func uki(sections ...[2]string) []byte {
	const optional, align = 240, 512
	b := make([]byte, 0x80)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], uint32(len(b)))
	b = append(b, "PE\x00\x00"...)
	b = binary.LittleEndian.AppendUint16(b, 0x8664)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(sections)))
	b = append(b, make([]byte, 12)...)
	b = binary.LittleEndian.AppendUint16(b, optional)
	b = append(b, 0x22, 0)
	b = append(b, make([]byte, optional)...)
	data := bytes.NewBuffer(make([]byte, len(b)+40*len(sections)))
	pad(data, align)
	for _, s := range sections {
		var name [8]byte
		copy(name[:], s[0])
		b = append(b, name[:]...)
		at := data.Len()
		data.WriteString(s[1])
		pad(data, align)
		for _, n := range []int{len(s[1]), 0x10000, data.Len() - at, at} {
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
		}
		b = append(b, make([]byte, 16)...)
	}
	return append(b, data.Bytes()[len(b):]...)
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// imageOf makes an Initramfs of images with this content.
func imageOf(t testing.TB, images ...[]byte) Initramfs {
	t.Helper()
	i := Initramfs{Release: k, root: t.TempDir()}
	for n, b := range images {
		name := fmt.Sprintf("/%d.img", n)
		if err := os.WriteFile(filepath.Join(i.root, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		i.Images = append(i.Images, name)
	}
	return i
}

// modulesOf returns the names of the modules in the images, sorted, each once.
func modulesOf(i Initramfs) (list []string, err error) {
	var errs []error
	for _, image := range i.Images {
		errs = append(errs, readImage(filepath.Join(i.root, image), func(file string) bool {
			if module, ok := moduleIn(file, i.Release); ok {
				list = append(list, module)
			}
			return true
		}))
	}
	slices.Sort(list)
	return slices.Compact(list), errors.Join(errs...)
}

// names returns the names of the modules in files, sorted.
func names(files []string) (list []string) {
	for _, file := range files {
		name, _, _ := strings.Cut(path.Base(file), ".ko")
		list = append(list, strings.ReplaceAll(name, "-", "_"))
	}
	slices.Sort(list)
	return list
}

func TestModules(t *testing.T) {
	microcode := cpio(files("kernel/x86/microcode/AuthenticAMD.bin", "early_cpio")...)
	more := cpio(files("lib/modules/" + k + "/extra/more-mod.ko.zst")...)
	withMore := append([]string{"lib/modules/" + k + "/extra/more-mod.ko.zst"}, archiveModules...)
	zeros := make([]byte, 1000)
	random := make([]byte, 3<<20) // that does not compress, so that there are several blocks of every kind
	for i, x := 0, uint32(1); i < len(random); i++ {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	var large bytes.Buffer
	large.Write(archive())
	writeHeader(&large, cpioSum, 0o100644, len(random), 3)
	large.WriteString("r\x00\x00\x00\x00")
	pad(&large, 2) // 110 + 6 are a multiple of four
	large.Write(random)
	large.Write(more)

	for name, c := range map[string]struct {
		image []byte
		want  []string
	}{
		"plain":              {archive(), archiveModules},
		"gzip":               {gzipped(archive()), archiveModules},
		"bzip2":              {fixture(t, "bz2"), archiveModules},
		"xz":                 {xzed(archive(), xz.WriterConfig{CheckSum: xz.CRC32}), archiveModules},
		"xz, CRC64":          {xzed(archive(), xz.WriterConfig{CheckSum: xz.CRC64}), archiveModules},
		"xz, no check":       {xzed(archive(), xz.WriterConfig{NoCheckSum: true}), archiveModules},
		"xz, blocks":         {xzed(large.Bytes(), xz.WriterConfig{CheckSum: xz.SHA256, BlockSize: 100_001}), withMore},
		"zstd":               {zstded(archive()), archiveModules},
		"zstd, best":         {zstded(large.Bytes(), zstd.WithEncoderLevel(zstd.SpeedBestCompression)), withMore},
		"zstd, no checksum":  {zstded(archive(), zstd.WithEncoderCRC(false)), archiveModules},
		"zstd, one segment":  {zstded(archive(), zstd.WithSingleSegment(true)), archiveModules},
		"lz4":                {fixture(t, "lz4"), archiveModules},
		"lz4, blocks":        {lz4ed(join(cpio(entry{"x", 0o100644, 20 << 20}), large.Bytes())), withMore},
		"gzip, large":        {gzipped(large.Bytes()), withMore},
		"plain, large":       {large.Bytes(), withMore},
		"microcode first":    {join(microcode, gzipped(archive())), archiveModules},
		"no trailer between": {join(microcode[:len(microcode)-512], gzipped(archive())), archiveModules},
		"zeros between":      {join(microcode, zeros, zstded(archive()), zeros), archiveModules},
		"gzip, then plain":   {join(gzipped(archive()), zeros, more), withMore},
		"bzip2, then plain":  {join(fixture(t, "bz2"), more), withMore},
		"xz, then plain":     {join(xzed(archive(), xz.WriterConfig{}), more), withMore},
		"zstd, then plain":   {join(zstded(archive()), more), withMore},
		"lz4, then plain":    {join(fixture(t, "lz4"), more), withMore},
		"lz4, then xz":       {join(fixture(t, "lz4"), zeros, xzed(more, xz.WriterConfig{})), withMore},
		"one of each": {join(microcode, gzipped(more), fixture(t, "bz2"), xzed(more, xz.WriterConfig{}),
			zstded(microcode), zeros, fixture(t, "lz4")), withMore},
		"unified": {uki([2]string{".linux", string(random)}, [2]string{".initrd", string(join(microcode, zstded(archive())))},
			[2]string{".initrd2", string(more)}), archiveModules},
		"unified, several":  {uki([2]string{".initrd", string(more)}, [2]string{".initrd", string(gzipped(archive()))}), withMore},
		"unified, no files": {uki([2]string{".linux", "x"}), nil},
		"booster's": {cpio(files("usr/lib/modules/dm_crypt.ko", "usr/lib/modules/booster.alias")...),
			[]string{"usr/lib/modules/dm_crypt.ko"}},
		"odd names": {cpio(files("./lib/modules/"+k+"/a.ko", "/lib/modules/"+k+"/x//b.ko.gz", "lib/modules/"+k+"/c.ko.bz2",
			"lib/modules/"+k+"/.ko", "../lib/modules/"+k+"/d.ko", "lib/modules/"+k+"x/e.ko", "lib/modules/6.12.1/f.ko",
			"opt/lib/modules/"+k+"/g.ko", "lib/modules/"+k+"/../x/h.ko", "lib/modules/"+k+"/"+strings.Repeat("y", maxPath)+"/i.ko")...),
			[]string{"lib/modules/" + k + "/a.ko", "lib/modules/" + k + "/x/b.ko.gz", "lib/modules/" + k + "/d.ko"}},
		"a directory is no module": {cpio(entry{"lib/modules/" + k + "/a.ko", 0o40755, 0}, entry{"lib/modules/" + k + "/b.ko", 0o120777, 9}),
			[]string{"lib/modules/" + k + "/b.ko"}},
	} {
		t.Run(name, func(t *testing.T) {
			i := imageOf(t, c.image)
			got, err := modulesOf(i)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(names(c.want), got); diff != "" {
				t.Errorf("modules (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPaddedName(t *testing.T) {
	// As dracut-cpio aligns content: by zeros that count as the name.
	var b bytes.Buffer
	name := "lib/modules/" + k + "/a.ko"
	writeHeader(&b, cpioNew, 0o100644, 5, 4096-cpioHeader)
	b.WriteString(name)
	pad(&b, 4096)
	b.WriteString("hello") // and nothing after it
	got, err := modulesOf(imageOf(t, b.Bytes()))
	if err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUnreadable(t *testing.T) {
	huge := xzed(archive(), xz.WriterConfig{CheckSum: xz.CRC32})
	huge[12+4] = 40 // a dictionary of 4 GiB
	for name, c := range map[string]struct {
		image []byte
		want  string
	}{
		"empty":               {nil, "it holds no archive"},
		"zeros":               {make([]byte, 4096), "it holds no archive"},
		"a kernel":            {[]byte("MZ, and no more"), "unified kernel image: truncated: "},
		"not PE":              {append([]byte("MZ"), make([]byte, 4096)...), "unified kernel image: not a PE file"},
		"unified, cut":        {uki([2]string{".initrd", string(archive())})[:2000], "section .initrd is not within the file"},
		"unified, empty":      {uki([2]string{".initrd", ""}), "it holds no archive"},
		"text":                {[]byte("Hello, world"), "at byte 0: neither an archive nor a known compression"},
		"one byte":            {[]byte("x"), "neither an archive nor a known compression"},
		"old cpio":            {[]byte("070707 and so on"), "neither an archive nor a known compression"},
		"lzo":                 {[]byte("\x89LZO\x00\x0d\x0a\x1a\x0a..."), "lzo is not supported"},
		"lzma":                {[]byte("\x5d\x00\x00\x80\x00............"), "lzma is not supported"},
		"lz4, not legacy":     {[]byte("\x04\x22\x4d\x18............"), "neither an archive nor a known compression"},
		"plain, cut":          {archive()[:100_000], "file at byte"},
		"plain, header cut":   {archive()[:50], "unexpected EOF"},
		"plain, bad number":   {bytes.Replace(archive(), []byte("07070100000001"), []byte("070701+0000001"), 1), ""},
		"plain, bad size":     {bytes.Replace(archive(), fmt.Appendf(nil, "%08X", 300_000), []byte("-00493E0"), 1), "field 6 is not a number"},
		"gzip, cut":           {gzipped(archive())[:300], "gzip: "},
		"gzip, checksum":      {flip(gzipped(archive()), -5), "gzip: "},
		"bzip2, cut":          {fixture(t, "bz2")[:100], "bzip2: "},
		"xz, cut":             {xzed(archive(), xz.WriterConfig{})[:300], "xz: "},
		"xz, memory":          {huge, "xz: the dictionary has 4294967295 bytes"},
		"zstd, cut":           {zstded(archive())[:200], "zstd: truncated: "},
		"zstd, memory":        {[]byte("\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00"), "zstd: window size exceeded"},
		"lz4, cut":            {fixture(t, "lz4")[:300], "lz4: "},
		"junk after archive":  {join(archive(), []byte("junk")), "neither an archive"},
		"junk in gzip":        {gzipped(join(archive(), []byte("junk"))), "gzip: in the archive at byte "},
		"archive in archive":  {gzipped(gzipped(archive())), "gzip: in the archive at byte 0: neither"},
		"too many":            {bytes.Repeat(gzipped(nil), maxMembers+1), "more than 256 compressed archives"},
		"dracut's squash":     {cpio(files("init", "squashfs-root.img")...), "its files are in a file system image of their own, squashfs-root.img"},
		"dracut's old squash": {cpio(files("init", "squash/root.img")...), "squash/root.img"},
	} {
		t.Run(name, func(t *testing.T) {
			carries, err := imageOf(t, c.image).Carries([]string{"nothing"})
			if carries {
				t.Error("it carries nothing")
			}
			if c.want == "" {
				if err != nil {
					t.Error(err) // numbers that nothing is read from
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "cannot look into the initramfs /0.img: ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}

	t.Run("gone", func(t *testing.T) {
		i := Initramfs{Release: k, root: t.TempDir(), Images: []string{"/gone"}}
		if _, err := i.Carries([]string{"a"}); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("a pipe", func(t *testing.T) {
		i := Initramfs{Release: k, root: "/dev", Images: []string{"/null"}}
		if _, err := i.Carries([]string{"a"}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Error(err)
		}
	})
}

func flip(b []byte, at int) []byte {
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0xff
	return b
}

func TestCarries(t *testing.T) {
	broken := []byte("broken")
	bad := gzipped(archive())
	bad = bad[:len(bad)-8] // what is decided before the end needs no end
	other := cpio(files("usr/lib/modules/" + k + "-other/acpi_call.ko")...)
	for name, c := range map[string]struct {
		images  [][]byte
		modules []string
		want    bool
		unknown bool
	}{
		"in":                   {images: [][]byte{archive()}, modules: []string{"acpi_call"}, want: true},
		"in, compressed":       {images: [][]byte{archive()}, modules: []string{"dummy"}, want: true},
		"dashes":               {images: [][]byte{archive()}, modules: []string{"acpi-call"}, want: true},
		"one of several":       {images: [][]byte{archive()}, modules: []string{"zfs", "dummy", "spl"}, want: true},
		"not in":               {images: [][]byte{archive()}, modules: []string{"zfs"}},
		"a part of a name":     {images: [][]byte{archive()}, modules: []string{"acpi", "call"}},
		"of another kernel":    {images: [][]byte{other}, modules: []string{"acpi_call"}},
		"second image":         {images: [][]byte{other, archive()}, modules: []string{"acpi_call"}, want: true},
		"unreadable":           {images: [][]byte{broken}, modules: []string{"acpi_call"}, unknown: true},
		"unreadable and not":   {images: [][]byte{broken, other}, modules: []string{"acpi_call"}, unknown: true},
		"unreadable and in":    {images: [][]byte{broken, archive()}, modules: []string{"acpi_call"}, want: true},
		"nothing to look for":  {images: [][]byte{broken}},
		"known before the end": {images: [][]byte{bad}, modules: []string{"dummy"}, want: true},
		"not known at the end": {images: [][]byte{bad}, modules: []string{"zfs"}, unknown: true},
		"no images":            {modules: []string{"zfs"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := imageOf(t, c.images...).Carries(c.modules)
			if got != c.want || (err != nil) != c.unknown {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// TestDecided shows that nothing is read after the answer is known.
func TestDecided(t *testing.T) {
	big := make([]byte, 64<<20)
	image := join(archive(), gzipped(join(cpio(entry{"zeros", 0o100644, 1000}), big)))
	r := &countingReaderAt{r: bytes.NewReader(image)}
	if err := read(r, int64(len(image)), func(string) bool { return false }, maxUnpacked); err != nil {
		t.Fatal(err)
	}
	if r.n > 100_000 {
		t.Errorf("%d bytes read for the first file", r.n)
	}
}

type countingReaderAt struct {
	r io.ReaderAt
	n int
}

func (c *countingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n += n
	return n, err
}

// TestContentSkipped shows that content of uncompressed files is not read.
func TestContentSkipped(t *testing.T) {
	image := cpio(entry{"a", 0o100644, 10 << 20}, entry{"b", 0o100644, 10 << 20})
	r := &countingReaderAt{r: bytes.NewReader(image)}
	var got []string
	err := read(r, int64(len(image)), func(f string) bool { got = append(got, f); return true }, maxUnpacked)
	if err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%q, %v", got, err)
	}
	if r.n > 1<<20 {
		t.Errorf("%d bytes read", r.n)
	}
}

func TestTooLarge(t *testing.T) {
	image := gzipped(cpio(entry{"zeros", 0o100644, 1 << 20}))
	err := read(bytes.NewReader(image), int64(len(image)), func(string) bool { return true }, 1<<19)
	if !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
	image = gzipped(make([]byte, 1<<20))
	if err := read(bytes.NewReader(image), int64(len(image)), func(string) bool { return true }, 1<<19); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
}

// FuzzRead shows that reading ends without a panic, within its limit, whatever the image is.
func FuzzRead(f *testing.F) {
	small := cpio(append(files("lib/modules/"+k+"/a.ko", "x"), entry{"d", 0o40755, 0})...)
	for _, b := range [][]byte{
		nil, small, gzipped(small), xzed(small, xz.WriterConfig{}), zstded(small), fixture(f, "bz2"), fixture(f, "lz4"),
		uki([2]string{".initrd", string(small)}), join(small, gzipped(small), small), zstded(small, zstd.WithSingleSegment(true)),
		[]byte("\x02\x21\x4c\x18\x05\x00\x00\x00\x401234"), xzed(small, xz.WriterConfig{BlockSize: 100}),
		join(fixture(f, "bz2"), small),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		const limit = 1 << 20
		n := 0
		read(bytes.NewReader(image), int64(len(image)), func(file string) bool {
			if len(file) > maxPath || strings.HasPrefix(file, "/") || strings.HasPrefix(file, "../") {
				t.Errorf("file %q", file)
			}
			moduleIn(file, k)
			n++
			return true
		}, limit)
		if n > limit/cpioHeader {
			t.Errorf("%d files in %d bytes", n, limit)
		}
	})
}
