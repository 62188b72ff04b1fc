// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"bytes"
	"encoding/json"
	"errors"
)

// ReadState returns the value that [WriteState] wrote to the file called path. It
// reports false, with the zero value, if the file is missing or damaged: state
// is what a run can do without.
func ReadState[T any](path string) (v T, ok bool) {
	text, err := ReadFile(path)
	if err != nil || json.Unmarshal(text, &v) != nil {
		var none T // a part of it may have been read
		return none, false
	}
	return v, true
}

// WriteState keeps v, as JSON, in the file called path, which everybody may read.
func WriteState(path string, v any, o Options) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return Write(path, bytes.NewReader(append(text, '\n')), 0o644, o)
}

// Update replaces the state in the file called path with what change makes of it;
// of its zero value, if the file is missing or damaged. No other Update of the file
// comes between.
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
