// SPDX-License-Identifier: GPL-2.0-or-later

// Package files does with files and directories what package os does not: it
// replaces them in one step, lists and walks them relative to open directories, and
// keeps state in them.
package files
