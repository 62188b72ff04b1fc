// SPDX-License-Identifier: GPL-2.0-or-later

// Package archive reads and writes the archives that packages travel in: tar
// files, mostly compressed, of this layout:
//
//	dkms_main_tree/K/A/                  builds: the directory of each, for kernel K, architecture A
//	dkms_source_tree/                    the source, with its dkms.conf; or else
//	dkms_binaries_only/dkms.conf         what there is without the source
//	dkms_binaries_only/PACKAGE_NAME      a line
//	dkms_binaries_only/PACKAGE_VERSION   a line
//
// Without dkms_main_tree, an archive is the source of a package, at its top or
// in one directory of any name.
//
// Archives that are read are trusted to be neither whole nor honest.
package archive

import (
	"strings"
)

// The names that the format has.
const (
	mainTree     = "dkms_main_tree"
	sourceTree   = "dkms_source_tree"
	binariesOnly = "dkms_binaries_only"
	nameFile     = "PACKAGE_NAME"
	versionFile  = "PACKAGE_VERSION"
	confFile     = "dkms.conf"
)

// leadsOut reports whether a symbolic link called name, a clean path relative to
// some directory, may lead out of that directory. What leads upwards does so at its
// begin: ".." behind a name would be another directory where that name is a link.
func leadsOut(name, target string) bool {
	if target == "" || strings.HasPrefix(target, "/") {
		return true
	}
	depth := strings.Count(name, "/")
	down := false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			depth--
			if down || depth < 0 {
				return true
			}
		default:
			down = true
		}
	}
	return false
}
