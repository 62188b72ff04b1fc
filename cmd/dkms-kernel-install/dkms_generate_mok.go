// SPDX-License-Identifier: GPL-2.0-or-later

package main

import "fmt"

// generateMOK makes the key that modules are signed with, if there is none.
func (c *classicRun) generateMOK() error {
	key, made, err := c.e.GenerateKey(c.ctx, c.m.Own())
	if err != nil {
		return err
	}
	state := "is there already"
	if made {
		state = "made"
	}
	c.text.Note("signing key " + state + ": " + key.File)
	if key.Cert != "" {
		c.text.Note(fmt.Sprintf("certificate %s: %s; to enroll it for Secure Boot: mokutil --import %[2]s", state, key.Cert))
	}
	return nil
}
