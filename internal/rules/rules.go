// SPDX-License-Identifier: GPL-2.0-or-later

// Package rules counts the versions of what this program does, so that what an
// earlier version of it kept is not taken for what this one would make.
package rules

const (
	// Build counts the changes to what happens to a module between its source
	// and the tree. A build by other rules is out of date.
	Build = 2
	// Key counts the changes to what the key of a build names. A build that is
	// kept under a key of another count is never found.
	Key = 3
	// Conf counts the changes to what is made of a dkms.conf. What is remembered
	// of one by other rules is read again.
	Conf = 5
)
