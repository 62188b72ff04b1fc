// SPDX-License-Identifier: GPL-2.0-or-later

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"dkms-kernel-install/internal/codec"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2024, 2, 3, 12, 0, 0, 123456789, time.UTC)

// entry is one of a tar archive.
type entry struct {
	name, text string
	header     tar.Header // what is not of a file of that name
}

func file(name, text string) entry { return entry{name: name, text: text} }
func dir(name string) entry {
	return entry{name: name + "/", header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
}
func symlink(name, to string) entry {
	return entry{name: name, header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: to}}
}
func hardlink(name, to string) entry {
	return entry{name: name, header: tar.Header{Typeflag: tar.TypeLink, Linkname: to}}
}
func special(name string, typ byte) entry {
	return entry{name: name, header: tar.Header{Typeflag: typ}}
}
func mode(name string, mode int64) entry {
	return entry{name: name, header: tar.Header{Mode: mode}}
}

// build returns a tar archive, which needs not end as one should.
func build(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.header
		h.Name, h.Size = e.name, int64(len(e.text))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: h.Typeflag, PAXRecords: h.PAXRecords}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = noon
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks an archive to a directory of its own, and checks that nothing
// beside it changed.
func unpack(t testing.TB, data []byte, l limits) (string, Contents, error) {
	t.Helper()
	top := t.TempDir()
	to := filepath.Join(top, "to")
	for _, d := range []string{to, filepath.Join(top, "beside")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	c, err := extract(t.Context(), bytes.NewReader(data), int64(len(data)), root, l)
	if got := list(t, top); got["beside"] != "directory" || len(under(got, "beside/")) != 0 || len(got) != 2+len(under(got, "to/")) {
		t.Errorf("something was written beside: %v", got)
	}
	if err == nil {
		for name, what := range under(list(t, top), "to/") {
			if _, err := root.Stat(name); err != nil && strings.Contains(err.Error(), "escapes") {
				t.Errorf("%s (%s) leads out: %v", name, what, err)
			}
		}
	}
	return to, c, err
}

func under(m map[string]string, prefix string) map[string]string {
	n := map[string]string{}
	for k, v := range m {
		if name, ok := strings.CutPrefix(k, prefix); ok {
			n[name] = v
		}
	}
	return n
}

// list tells what is below a directory.
func list(t testing.TB, top string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == top {
			return err
		}
		name, _ := filepath.Rel(top, path)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			m[name] = "directory"
		case d.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(path)
			m[name] = "-> " + to
		default:
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			m[name] = fmt.Sprintf("%v %s", fi.Mode(), text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var roomy = limits{1 << 20, 100}

func TestContents(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []entry
		want    Contents
		files   map[string]string
	}{
		{"source and builds", []entry{
			dir("."), dir("./dkms_main_tree"), dir("./dkms_main_tree/6.1"), dir("./dkms_main_tree/6.1/x86_64"),
			file("./dkms_main_tree/6.1/x86_64/module/a.ko", "a"),
			file("./dkms_main_tree/6.1/riscv64/log/make.log", "b"),
			file("./dkms_main_tree/stray", "c"),
			file("./dkms_source_tree/dkms.conf", "d"),
		}, Contents{Source: "dkms_source_tree", Binaries: []Binaries{
			{"6.1", "riscv64", "dkms_main_tree/6.1/riscv64"}, {"6.1", "x86_64", "dkms_main_tree/6.1/x86_64"},
		}}, nil},
		{"source only", []entry{dir("dkms_main_tree"), file("dkms_source_tree/dkms.conf", "")},
			Contents{Source: "dkms_source_tree"}, nil},
		{"binaries only", []entry{
			file("dkms_main_tree/6.1/x86_64/module/a.ko", "a"), file("dkms_binaries_only/dkms.conf", ""),
			file("dkms_binaries_only/PACKAGE_NAME", "toy\n"), file("dkms_binaries_only/PACKAGE_VERSION", "1.0\nmore\n"),
		}, Contents{Name: "toy", Version: "1.0", Conf: "dkms_binaries_only/dkms.conf",
			Binaries: []Binaries{{"6.1", "x86_64", "dkms_main_tree/6.1/x86_64"}}}, nil},
		{"binaries only, without a conf", []entry{
			file("dkms_main_tree/6.1/x86_64/module/a.ko", "a"),
			file("dkms_binaries_only/PACKAGE_NAME", "toy"), file("dkms_binaries_only/PACKAGE_VERSION", ""),
		}, Contents{Name: "toy", Binaries: []Binaries{{"6.1", "x86_64", "dkms_main_tree/6.1/x86_64"}}}, nil},
		{"a source at the top", []entry{file("dkms.conf", "x"), file("sub/dkms.conf", "y"), symlink("s", "sub/dkms.conf")},
			Contents{Source: "."}, map[string]string{"dkms.conf": "-rw-r--r-- x", "sub": "directory", "sub/dkms.conf": "-rw-r--r-- y", "s": "-> sub/dkms.conf"}},
		{"a source in a directory", []entry{
			{header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}, file("README", ""), file("toy/dkms.conf", ""), file("toy/deep/dkms.conf", ""),
		}, Contents{Source: "toy"}, nil},
		{"modes", []entry{dir("a"), dir("a"), file("a/dkms.conf", ""), mode("a/run", 0o777), mode("a/none", 0o1),
			file("a/b/c", ""), dir("a/b")},
			Contents{Source: "a"}, map[string]string{"a": "directory", "a/dkms.conf": "-rw-r--r-- ", "a/run": "-rwxr-xr-x ",
				"a/none": "-rw------x ", "a/b": "directory", "a/b/c": "-rw-r--r-- "}},
		{"links within", []entry{
			file("p/dkms.conf", "x"), symlink("p/loop", "loop"), symlink("p/none", "none-there"), symlink("p/d/up", "../dkms.conf"),
			symlink("p/d/top", ".."), hardlink("p/hard", "./p/dkms.conf"), symlink("p/dots", "d/..b"),
		}, Contents{Source: "p"}, map[string]string{"p": "directory", "p/dkms.conf": "-rw-r--r-- x", "p/loop": "-> loop",
			"p/none": "-> none-there", "p/d": "directory", "p/d/up": "-> ../dkms.conf", "p/d/top": "-> ..", "p/hard": "-rw-r--r-- x", "p/dots": "-> d/..b"}},
		{"a link before what it leads to", []entry{symlink("p/l", "dkms.conf"), file("p/dkms.conf", "x")},
			Contents{Source: "p"}, nil},
		{"builds are no programs", []entry{dir("dkms_main_tree"), file("dkms_source_tree/dkms.conf", ""), mode("dkms_main_tree/6/a/module/x.ko", 0o777)},
			Contents{Source: "dkms_source_tree", Binaries: []Binaries{{"6", "a", "dkms_main_tree/6/a"}}},
			map[string]string{"dkms_main_tree": "directory", "dkms_main_tree/6": "directory", "dkms_main_tree/6/a": "directory", "dkms_main_tree/6/a/module": "directory",
				"dkms_main_tree/6/a/module/x.ko": "-rw-r--r-- ", "dkms_source_tree": "directory", "dkms_source_tree/dkms.conf": "-rw-r--r-- "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to, got, err := unpack(t, build(t, tt.entries...), roomy)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("contents (-want +got):\n%s", diff)
			}
			if tt.files == nil {
				return
			}
			if diff := cmp.Diff(tt.files, list(t, to)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTimes(t *testing.T) {
	at := func(e entry, when time.Time) entry {
		e.header.ModTime = when
		e.header.Format = tar.FormatPAX
		return e
	}
	to, _, err := unpack(t, build(t, at(dir("p"), noon), at(file("p/dkms.conf", ""), noon), at(file("p/future", ""), time.Now().Add(time.Hour)),
		at(file("p/far", ""), time.Unix(1<<60, 0)), at(file("p/past", ""), time.Unix(-5, 0))), roomy)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Time{"p": noon, "p/dkms.conf": noon, "p/past": time.Unix(0, 0)} {
		fi, err := os.Stat(filepath.Join(to, name))
		if err != nil || !fi.ModTime().Equal(want) {
			t.Errorf("%s: %v, %v", name, fi.ModTime(), err)
		}
	}
	for _, name := range []string{"p/future", "p/far"} {
		fi, err := os.Stat(filepath.Join(to, name))
		if err != nil || fi.ModTime().After(time.Now()) {
			t.Errorf("%s: %v, %v", name, fi.ModTime(), err)
		}
	}
}

func TestHostile(t *testing.T) {
	conf := file("p/dkms.conf", "x")
	good := build(t, conf, file("p/a", strings.Repeat("a", 1000)))
	many := []entry{conf}
	for i := range roomy.entries {
		many = append(many, file(fmt.Sprintf("p/%d", i), ""))
	}
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"absolute name", build(t, conf, file("/etc/evil", "x")), `"/etc/evil": its name is an absolute path`},
		{"upwards", build(t, conf, file("p/../../beside/evil", "x")), `its name has a ".." in it`},
		{"upwards at the end", build(t, conf, dir("p/..")), `its name has a ".." in it`},
		{"absolute symlink", build(t, conf, symlink("p/l", "/etc")), `it is a symbolic link to "/etc", which may lead out of the archive`},
		{"symlink upwards", build(t, conf, symlink("p/l", "../../beside")), `"p/l": it is a symbolic link to "../../beside", which may lead out of the archive`},
		{"symlink out of the source", build(t, conf, symlink("p/l", "../q")), `"p/l": it is a symbolic link to "../q", which may lead out of the source`},
		{"symlink up behind a link", build(t, conf, symlink("p/d/up", ".."), symlink("p/l", "d/up/../x")), `which may lead out`},
		{"symlink to nothing", build(t, conf, symlink("p/l", "./")), ""},
		{"symlink beside the source", build(t, conf, symlink("l", "p")), `it is a symbolic link outside of the source`},
		{"symlink in a build", build(t, file("dkms_source_tree/dkms.conf", ""), symlink("dkms_main_tree/6/a/module/m.ko", "x")), `it is a symbolic link outside of the source`},
		{"through a symlink", build(t, conf, symlink("p/l", "d"), file("p/l/evil", "x")), `"p/l" is a directory, and something else before`},
		{"through an outward symlink", build(t, symlink("p", "/tmp"), file("p/dkms.conf", "x")), `"p": it is a symbolic link to "/tmp"`},
		{"through a file", build(t, conf, file("p/dkms.conf/evil", "x")), `"p/dkms.conf" is a directory, and something else before`},
		{"a directory is a file", build(t, conf, file("p", "x")), "the archive has it twice"},
		{"a file is a directory", build(t, conf, dir("p/dkms.conf")), "something else before"},
		{"twice", build(t, conf, file("./p//dkms.conf", "y")), "the archive has it twice"},
		{"a symlink over a file", build(t, conf, symlink("p/dkms.conf", "x")), "the archive has it twice"},
		{"a file over a symlink", build(t, conf, symlink("p/l", "x"), file("p/l", "")), "the archive has it twice"},
		{"hard link out", build(t, conf, hardlink("p/l", "/etc/passwd")), `it is a link to "/etc/passwd", which is not a file of the archive`},
		{"hard link upwards", build(t, conf, hardlink("p/l", "../beside/x")), "which is not a file of the archive"},
		{"hard link to a directory", build(t, conf, hardlink("p/l", "p")), "which is not a file of the archive"},
		{"hard link to a symlink", build(t, conf, symlink("p/s", "dkms.conf"), hardlink("p/l", "p/s")), "which is not a file of the archive"},
		{"hard link to what comes later", build(t, conf, hardlink("p/l", "p/x"), file("p/x", "")), "which is not a file of the archive"},
		{"device", build(t, conf, special("p/d", tar.TypeBlock)), "it is a device"},
		{"terminal", build(t, conf, special("p/d", tar.TypeChar)), "it is a device"},
		{"FIFO", build(t, conf, special("p/d", tar.TypeFifo)), "it is a FIFO"},
		{"unknown type", build(t, conf, special("p/d", 'Z')), "it is of an unknown type, 'Z'"},
		{"setuid", build(t, conf, mode("p/su", 0o4755)), "setuid"},
		{"setgid", build(t, conf, mode("p/su", 0o2755)), "setgid"},
		{"the top is a file", build(t, conf, file(".", "")), "the archive's top is no directory"},
		{"long name", build(t, conf, file("p/"+strings.Repeat("n/", 50)+strings.Repeat("n", 1000), "")), "its name has more than 1024 bytes"},
		{"long part of a name", build(t, conf, file("p/"+strings.Repeat("n", 300), "")), "name too long"},
		{"deep", build(t, conf, file("p/"+strings.Repeat("n/", 200)+"n", "")), "it is more than 100 directories deep"},
		{"many entries", build(t, many...), "more than 100 entries"},
		{"many directories", build(t, conf, file(strings.Repeat("a/", 40)+"x", ""), file(strings.Repeat("b/", 40)+"x", ""), file(strings.Repeat("c/", 40)+"x", "")), "more than 100 entries"},
		{"large", build(t, conf, file("p/a", strings.Repeat("a", 1<<20))), "it unpacks to more than 1048576 bytes"},
		{"links multiply", build(t, conf, file("p/a", strings.Repeat("a", 600_000)), hardlink("p/b", "p/a")), "it unpacks to more than 1048576 bytes"},
		{"declares much", declare(good, 1<<40), "it unpacks to more than 1048576 bytes"},
		{"declares too much for its length", declare(good, 3000), "it is damaged: it ends too early"},
		{"bomb", compressed(t, codec.Gzip, append(bytes.Clone(good), make([]byte, 16<<20)...)), "it unpacks to more than 1048576 bytes"},
		{"cut in a file", good[:len(good)-1700], "it is damaged: it ends too early"},
		{"cut between files", good[:1024], "it is damaged: it ends too early"},
		{"cut behind a file", good[:len(good)-1024], "it is damaged: it ends too early"},
		{"cut gzip", cut(compressed(t, codec.Gzip, good), 4), "it is damaged: it ends too early"},
		{"cut xz", cut(compressed(t, codec.XZ, good), 4), "it is damaged"},
		{"cut zstd", cut(compressed(t, codec.Zstd, good), 4), "damaged"},
		{"cut bzip2", cut(bzipped(t), 4), "it is damaged"},
		{"wrong checksum", flip(compressed(t, codec.Gzip, good), -6), "it is damaged: gzip: invalid checksum"},
		{"bad header", flip(good, 1), "it is not a tar archive, or a damaged one"},
		{"bad header later", flip(good, 1025), "it is damaged: archive/tar: invalid tar header"},
		{"no archive", []byte(strings.Repeat("text ", 300)), "it is not a tar archive, or a damaged one"},
		{"short", []byte("text"), "it is not a tar archive, or a damaged one"},
		{"empty", nil, "it is empty"},
		{"gzip of nothing", compressed(t, codec.Gzip, nil), "it is empty"},
		{"zeros", make([]byte, 1024), "it has no dkms.conf"},
		{"huge xz dictionary", hugeXZ(t, good), "the dictionary has"},
		{"no conf", build(t, file("p/x", "")), "it has no dkms.conf"},
		{"conf too deep", build(t, file("a/b/dkms.conf", "")), "it has no dkms.conf"},
		{"two confs", build(t, conf, file("q/dkms.conf", "")), "in exactly one directory"},
		{"conf is a link", build(t, file("p/x", ""), symlink("p/dkms.conf", "x")), "it has no dkms.conf"},
		{"conf is a directory", build(t, dir("p/dkms.conf")), "it has no dkms.conf"},
		{"neither source nor binaries", build(t, dir("dkms_main_tree"), conf), "neither dkms_source_tree/dkms.conf nor"},
		{"binaries without a version", build(t, dir("dkms_main_tree"), file("dkms_binaries_only/PACKAGE_NAME", "x")), "neither dkms_source_tree/dkms.conf nor"},
		{"main tree is a file", build(t, file("dkms_main_tree", ""), file("dkms_source_tree/dkms.conf", ""), file("x/dkms.conf", "")), "it has no dkms.conf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := unpack(t, tt.data, roomy)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// declare changes the size of the second file in an archive.
func declare(data []byte, size int64) []byte {
	data = bytes.Clone(data)
	h := data[1024:1536]
	copy(h[124:136], fmt.Sprintf("%011o\x00", size%(1<<33)))
	if size >= 1<<33 { // binary, as GNU tar writes it
		copy(h[124:136], []byte{0x80, 0, 0, 0, byte(size >> 56), byte(size >> 48), byte(size >> 40), byte(size >> 32), byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)})
	}
	copy(h[148:156], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return data
}

func cut(data []byte, n int) []byte { return data[:len(data)-n] }

func flip(data []byte, at int) []byte {
	data = bytes.Clone(data)
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 0x55
	return data
}

// compressed compresses what is to be read.
func compressed(t testing.TB, c codec.Compression, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := codec.NewWriter(&b, c, codec.WriterOptions{})
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// inBzip2 is an archive of a p/dkms.conf with the text x, which bzip2 made.
const inBzip2 = "QlpoOTFBWSZTWTy8nEwAADJbgOmAQAHlAAIAbQveQAgIIABUVomIwJiYankgSSj1NANDQDQfSuKEeukUskdxsI3wgIYGnOLpOwKEqUZO+ywO3hD6ZCR7xv7sA/F3JFOFCQPLycTA"

func bzipped(t testing.TB) []byte {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(inBzip2)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// hugeXZ makes an archive want a dictionary of 4 GiB: the sixth byte of the first
// block's header says so.
func hugeXZ(t testing.TB, data []byte) []byte {
	data = compressed(t, codec.XZ, data)
	data[12+4] = 40
	return data
}

func TestSparse(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"dkms.conf": 100, "hole": 1 << 30} {
		file := filepath.Join(dir, "p", name)
		if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"gnu", "pax"} {
		data, err := exec.Command("tar", "-C", dir, "--sparse", "--format="+format, "-c", "p").Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 1<<16 {
			t.Fatalf("%s: no sparse archive: %d bytes", format, len(data))
		}
		if _, _, err := unpack(t, data, roomy); err == nil || !strings.Contains(err.Error(), "it unpacks to more than 1048576 bytes") {
			t.Errorf("%s: %v", format, err)
		}
	}
}

func TestCompressions(t *testing.T) {
	plain := build(t, file("p/dkms.conf", "x"))
	archives := map[string][]byte{"bzip2": bzipped(t)}
	for _, c := range []codec.Compression{codec.None, codec.Gzip, codec.XZ, codec.Zstd} {
		archives[fmt.Sprint("ours ", c)] = compressed(t, c, plain)
	}
	for _, program := range []string{"gzip", "xz", "zstd"} {
		cmd := exec.Command(program, "-c")
		cmd.Stdin = bytes.NewReader(plain)
		out, err := cmd.Output()
		if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		archives[program] = out
	}
	for name, data := range archives {
		if to, _, err := unpack(t, data, roomy); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(map[string]string{"p": "directory", "p/dkms.conf": "-rw-r--r-- x"}, list(t, to)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestPlain has tar archives whose first bytes are also the magic of compressions that
// no archive has.
func TestPlain(t *testing.T) {
	for _, name := range []string{"]", "\x02\x21\x4c\x18"} {
		data := build(t, file(name, "x"))
		r, err := decompress(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%q: %d of %d bytes, or others: %v", name, len(got), len(data), err)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := fmt.Errorf("no more")
	cancel(why)
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	data := build(t, file("p/dkms.conf", "x"))
	if _, err := Extract(ctx, bytes.NewReader(data), int64(len(data)), root); err != why {
		t.Errorf("got %v", err)
	}
}

// sourceAndBuild makes a package to archive.
func sourceAndBuild(t *testing.T) Contents {
	t.Helper()
	top := t.TempDir()
	write := func(name, text string, mode fs.FileMode) {
		name = filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("src/dkms.conf", "conf", 0o644)
	write("src/run", "#!/bin/sh", 0o755)
	write("src/sub/"+strings.Repeat("long", 50), "", 0o600)
	write("6.1/x86_64/module/a.ko", "module", 0o644)
	write("6.1/x86_64/.dep_b", "1.0\n", 0o644)
	for name, to := range map[string]string{"src/within": "sub/../run", "src/ok": "run", "src/out": "../etc", "src/abs": "/etc/passwd", "6.1/x86_64/link": "module"} {
		if err := os.Symlink(to, filepath.Join(top, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"src/run", "src/dkms.conf", "6.1/x86_64/module/a.ko", "6.1/x86_64/module"} {
		if err := os.Chtimes(filepath.Join(top, name), noon, noon); err != nil {
			t.Fatal(err)
		}
	}
	return Contents{Source: filepath.Join(top, "src"),
		Binaries: []Binaries{{"6.1", "x86_64", filepath.Join(top, "6.1/x86_64")}}}
}

func TestWrite(t *testing.T) {
	for c, program := range map[codec.Compression]string{codec.None: "cat", codec.Gzip: "gzip", codec.XZ: "xz", codec.Zstd: "zstd"} {
		for _, withSource := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, source %v", program, withSource), func(t *testing.T) {
				p := sourceAndBuild(t)
				if !withSource {
					p.Name, p.Version, p.Conf, p.Source = "toy", "1.0", filepath.Join(p.Source, "dkms.conf"), ""
				}
				var b, again bytes.Buffer
				left, err := Write(t.Context(), &b, c, p)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := Write(t.Context(), &again, c, p); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
					t.Errorf("not the same twice: %v", err)
				}
				unpacker := program + " -dc"
				if program == "cat" {
					unpacker = program
				}
				if _, err := exec.LookPath(program); err == nil || os.Getenv("CI") != "" {
					cmd := exec.Command("sh", "-c", unpacker+" | tar tv --numeric-owner")
					cmd.Stdin = bytes.NewReader(b.Bytes())
					out, err := cmd.CombinedOutput()
					if err != nil || !strings.Contains(string(out), " dkms_main_tree/6.1/x86_64/module/a.ko\n") || !strings.HasPrefix(string(out), "drwxr-xr-x 0/0 ") {
						t.Errorf("tar: %v\n%s", err, out)
					}
				}
				to, contents, err := unpack(t, b.Bytes(), roomy)
				if err != nil {
					t.Fatal(err)
				}
				want := Contents{Source: "dkms_source_tree", Binaries: []Binaries{{"6.1", "x86_64", "dkms_main_tree/6.1/x86_64"}}}
				files := map[string]string{
					"dkms_main_tree": "directory", "dkms_main_tree/6.1": "directory", "dkms_main_tree/6.1/x86_64": "directory",
					"dkms_main_tree/6.1/x86_64/.dep_b":      "-rw-r--r-- 1.0\n",
					"dkms_main_tree/6.1/x86_64/module":      "directory",
					"dkms_main_tree/6.1/x86_64/module/a.ko": "-rw-r--r-- module",
				}
				wantLeft := []string{"dkms_main_tree/6.1/x86_64/link"}
				if withSource {
					files["dkms_source_tree"] = "directory"
					files["dkms_source_tree/dkms.conf"] = "-rw-r--r-- conf"
					files["dkms_source_tree/run"] = "-rwxr-xr-x #!/bin/sh"
					files["dkms_source_tree/ok"] = "-> run"
					files["dkms_source_tree/sub"] = "directory"
					files["dkms_source_tree/sub/"+strings.Repeat("long", 50)] = "-rw------- "
					wantLeft = append(wantLeft, "dkms_source_tree/abs", "dkms_source_tree/out", "dkms_source_tree/within")
				} else {
					want = Contents{Name: "toy", Version: "1.0", Conf: "dkms_binaries_only/dkms.conf", Binaries: want.Binaries}
					files["dkms_binaries_only"] = "directory"
					files["dkms_binaries_only/dkms.conf"] = "-rw-r--r-- conf"
					files["dkms_binaries_only/PACKAGE_NAME"] = "-rw-r--r-- toy\n"
					files["dkms_binaries_only/PACKAGE_VERSION"] = "-rw-r--r-- 1.0\n"
				}
				if diff := cmp.Diff(want, contents); diff != "" {
					t.Errorf("contents (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(files, list(t, to)); diff != "" {
					t.Errorf("files (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(wantLeft, left); diff != "" {
					t.Errorf("left out (-want +got):\n%s", diff)
				}
				for _, name := range []string{"dkms_main_tree/6.1/x86_64/module/a.ko", "dkms_main_tree/6.1/x86_64/module"} {
					if fi, err := os.Stat(filepath.Join(to, name)); err != nil || !fi.ModTime().Equal(noon) {
						t.Errorf("%s: %v %v", name, fi.ModTime(), err)
					}
				}
			})
		}
	}
}

// TestWriteFails shows that a disk that is full makes no archive.
func TestWriteFails(t *testing.T) {
	p := sourceAndBuild(t)
	for _, c := range []codec.Compression{codec.None, codec.Gzip, codec.XZ, codec.Zstd} {
		var b bytes.Buffer
		if _, err := Write(t.Context(), &b, c, p); err != nil {
			t.Fatal(err)
		}
		for _, room := range []int{0, b.Len() / 2, b.Len() - 1} {
			if _, err := Write(t.Context(), &fullDisk{room}, c, p); err == nil {
				t.Errorf("%v: %d of %d bytes written is no error", c, room, b.Len())
			}
		}
	}
}

type fullDisk struct{ room int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.room {
		return d.room, fmt.Errorf("no room")
	}
	d.room -= len(p)
	return len(p), nil
}

func FuzzExtract(f *testing.F) {
	for _, entries := range [][]entry{
		{file("p/dkms.conf", "x"), symlink("p/l", "../x"), hardlink("p/h", "p/dkms.conf")},
		{dir("dkms_main_tree/6.1/x86_64"), file("dkms_source_tree/dkms.conf", ""), symlink("dkms_source_tree/l", "a/b")},
		{file("dkms_main_tree/6.1/x86_64/module/a.ko", "a"), file("dkms_binaries_only/PACKAGE_NAME", "a"), file("dkms_binaries_only/PACKAGE_VERSION", "1")},
		{file("/abs", ""), file("../up", ""), special("fifo", tar.TypeFifo), symlink("p", "/tmp"), file("p/x", "")},
	} {
		data := build(f, entries...)
		f.Add(data)
		f.Add(compressed(f, codec.Gzip, data))
		f.Add(compressed(f, codec.XZ, data))
		f.Add(compressed(f, codec.Zstd, data))
	}
	f.Add(bzipped(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		// That nothing leads out is checked there.
		_, c, err := unpack(t, data, limits{1 << 16, 50})
		if err == nil && c.Source == "" && c.Name == "" && c.Version == "" && c.Binaries == nil {
			t.Log("an archive of nothing")
		}
	})
}
