// SPDX-License-Identifier: GPL-2.0-or-later

package engine

import (
	"context"
	"slices"

	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// Explain says for each of kernels what is true of the packages called name, as
// [explain.Kernel] does.
func (e *Engine) Explain(ctx context.Context, kernels []tree.Target, name, version string) (chains []explain.Chain, err error) {
	seen, err := observe.Look(e.m, kernels)
	if err != nil {
		return nil, err
	}
	all := make([][]explain.Chain, len(kernels))
	files.Each(len(kernels), func(i int) { all[i] = explain.Kernel(ctx, seen, kernels[i], name, version) })
	return slices.Concat(all...), nil
}

// ExplainKey says what is true of the key that modules for k are signed with.
func (e *Engine) ExplainKey(k tree.Target) []explain.Link { return explain.Key(e.m, k) }

// Examine says what is true of the machine, as [explain.Examine] does.
func (e *Engine) Examine() (explain.Examination, error) { return explain.Examine(e.m) }
