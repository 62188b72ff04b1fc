// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dkms-kernel-install/internal/kmod/kmodtest"
)

// signature is one, with nothing in it that could be verified.
const signature = "sig\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x03~Module signature appended~\n"

// What is placed is what was checked, whatever signs.
func TestSeal(t *testing.T) {
	module := kmodtest.AMD64("name=toy", "vermagic=6.1 SMP").Build()
	other := kmodtest.AMD64("name=ext4", "vermagic=6.1 SMP").Build()
	signs := func(m []byte) []byte { return append(slices.Clone(m), signature...) }
	// It claims all of the module but its header.
	covers := slices.Concat(module, []byte(signature))
	covers[len(covers)-30], covers[len(covers)-29] = byte((len(module)-64)>>8), byte(len(module)-64)
	for name, tt := range map[string]struct {
		module []byte
		sign   func([]byte) []byte
		want   []byte // nil if it must not be sealed
		failed string // why it went unsigned or was not sealed
	}{
		"unsigned":            {module, nil, module, ""},
		"its own signature":   {signs(module), nil, signs(module), ""},
		"signed":              {module, signs, signs(module), ""},
		"signed again":        {signs(module), signs, signs(module), ""},
		"a false signature":   {covers, nil, nil, "truncated"},
		"and it is signed":    {covers, signs, nil, "truncated"},
		"another module":      {other, signs, nil, `is the module "ext4"`},
		"the signer cuts":     {module, func(m []byte) []byte { return signs(m[:len(m)/2]) }, module, "truncated"},
		"the signer covers":   {module, func([]byte) []byte { return covers }, module, "truncated"},
		"the signer swaps":    {module, func([]byte) []byte { return signs(other) }, module, `is the module "ext4"`},
		"the signer does not": {module, func([]byte) []byte { return nil }, module, "not an ELF file"},
	} {
		t.Run(name, func(t *testing.T) {
			j := &job{Description: *describe(t), staging: staging{raw: t.TempDir()}}
			if err := os.WriteFile(filepath.Join(j.staging.raw, "toy.ko"), tt.module, 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.sign != nil {
				j.Sign = func(_ context.Context, m []byte) ([]byte, error) {
					if !bytes.Equal(m, module) {
						t.Errorf("%d bytes are signed, the module has %d", len(m), len(module))
					}
					return tt.sign(m), nil
				}
			}
			tmp := t.TempDir()
			err := j.seal(t.Context(), j.Conf.Modules[0], tmp)
			got, _ := os.ReadFile(filepath.Join(tmp, "toy.ko"))
			if (err == nil) != (tt.want != nil) || !bytes.Equal(got, tt.want) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, len(tt.want))
			}
			if err == nil {
				err = j.Unsigned
			}
			if (err == nil) != (tt.failed == "") || err != nil && !strings.Contains(err.Error(), tt.failed) {
				t.Errorf("error %v, want one with %q", err, tt.failed)
			}
		})
	}
}
