// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"bytes"
	"encoding/json"
	"errors"
)

// ReadState returns the value that [WriteState] wrote to the file called path. If the
// file is missing or damaged, it returns the zero value and false: a run can do
// without any state.
func ReadState[T any](path string) (v T, ok bool) {
	text, err := ReadFile(path)
	if err != nil || json.Unmarshal(text, &v) != nil {
		var none T // v may have been read in part
		return none, false
	}
	return v, true
}

// WriteState writes v, as JSON, to the file called path, which all users may read.
func WriteState(path string, v any, o Options) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return Write(path, bytes.NewReader(append(text, '\n')), 0o644, o)
}

// Update replaces the state in the file called path with what change returns for it.
// If the file is missing or damaged, change gets the zero value. Updates of one file
// exclude each other, in all processes.
func Update[T any](path string, change func(T) T) error {
	f, err := Create(path, 0o644, Options{})
	if err != nil {
		return err
	}
	v, _ := ReadState[T](path)
	if err := json.NewEncoder(f).Encode(change(v)); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Commit()
}
