// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"archive/tar"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdTarball is
//
//	tarball FILE ENTRY...
//
// It makes a tar archive, however odd, of entries:
//
//	name=text      a file with that text; @file stands for that file's content
//	name/          a directory
//	name->to       a symbolic link
//	name=>to       a hard link
//	fifo:name device:name setuid:name
func cmdTarball(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: tarball file entry...")
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	w := tar.NewWriter(f)
	for _, entry := range args[1:] {
		h := tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1e9, 0)}
		text := ""
		if kind, name, ok := strings.Cut(entry, ":"); ok {
			switch h.Name = name; kind {
			case "fifo":
				h.Typeflag = tar.TypeFifo
			case "device":
				h.Typeflag = tar.TypeChar
			case "setuid":
				h.Mode = 0o4755
			default:
				ts.Fatalf("unknown entry %q", entry)
			}
		} else if name, to, ok := strings.Cut(entry, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = name, to, tar.TypeSymlink
		} else if name, to, ok := strings.Cut(entry, "=>"); ok {
			h.Name, h.Linkname, h.Typeflag = name, to, tar.TypeLink
		} else if name, content, ok := strings.Cut(entry, "="); ok {
			h.Name, text = name, content
			if file, ok := strings.CutPrefix(content, "@"); ok {
				b, err := os.ReadFile(ts.MkAbs(file))
				ts.Check(err)
				text = string(b)
			}
			h.Size = int64(len(text))
		} else {
			h.Name, h.Typeflag, h.Mode = entry, tar.TypeDir, 0o755
		}
		ts.Check(w.WriteHeader(&h))
		_, err := w.Write([]byte(text))
		ts.Check(err)
	}
	ts.Check(w.Close())
}
