// SPDX-License-Identifier: GPL-2.0-or-later

package secureboot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Firmware is what the variables of the firmware, and those that shim leaves for the
// kernel, say.
type Firmware struct {
	EFI        Answer // the machine was started by EFI
	SecureBoot Answer // it is on in the firmware
	// ValidationOff is whether shim was told not to validate: kernels take Secure Boot
	// for off then.
	ValidationOff Answer
	// Trusted is whether shim lets kernels trust its keys for modules.
	Trusted Answer
	// MOK are the keys that shim knows, Waiting those that it is asked to take at the
	// next boot, DB the firmware's own; Revoked is what either of them does not take.
	MOK, Waiting, DB, Revoked List
	// Errs is why something is not known.
	Errs []error
}

// The owners of variables.
const (
	ownerShim     = "605dab50-e046-4300-abb6-3dd810dd8b23"
	ownerGlobal   = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	ownerSecurity = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
)

// maxVariable is more than any variable has, in bytes.
const maxVariable = 1 << 20

// variables reads variables of the firmware.
type variables struct {
	efivars string // names are NAME-OWNER; four bytes of attributes come first
	mok     string // what shim leaves for the kernel; names are NAME
	err     error  // why efivars says nothing
}

// ReadFirmware reads the variables of the machine whose /sys is in that directory.
func ReadFirmware(sys string) *Firmware {
	f := &Firmware{EFI: hasEFI(sys)}
	if f.EFI == No {
		f.SecureBoot, f.ValidationOff, f.Trusted = No, No, No
		return f
	}
	v := variables{efivars: filepath.Join(sys, "firmware/efi/efivars"), mok: filepath.Join(sys, "firmware/efi/mok-variables")}
	if entries, err := os.ReadDir(v.efivars); err != nil {
		v.err = fmt.Errorf("the variables of EFI cannot be read: %w", err)
	} else if len(entries) == 0 {
		v.err = fmt.Errorf("the variables of EFI cannot be read: efivarfs is not mounted on %s", v.efivars)
	}
	if f.EFI == Unknown {
		v.err = fmt.Errorf("nothing tells whether this machine has EFI: %s/firmware shows nothing", sys)
	}
	if v.err != nil {
		f.Errs = append(f.Errs, v.err)
	}
	f.SecureBoot = f.flag(v, "SecureBoot", ownerGlobal)
	f.ValidationOff = f.flag(v, "MokSBStateRT", ownerShim)
	f.Trusted = f.trusted(v)
	f.MOK = f.list(v, "MokListRT", ownerShim)
	f.Waiting = f.list(v, "MokNew", ownerShim)
	f.DB = f.list(v, "db", ownerSecurity)
	if _, err := v.read("MokIgnoreDB", ownerShim); err == nil {
		f.DB.Err = errors.New("shim lets kernels ignore the keys of the firmware (MokIgnoreDB)")
		f.Errs = append(f.Errs, f.DB.Err)
	}
	f.Revoked = f.list(v, "MokListXRT", ownerShim).and(f.list(v, "dbx", ownerSecurity))
	return f
}

// hasEFI reports whether the kernel has found EFI. Containers often hide all that is in
// firmware.
func hasEFI(sys string) Answer {
	entries, err := os.ReadDir(filepath.Join(sys, "firmware"))
	if err != nil || len(entries) == 0 {
		return Unknown
	}
	_, err = os.Stat(filepath.Join(sys, "firmware/efi"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Unknown
	}
	return If(err == nil)
}

// read returns the data of a variable. The error is [fs.ErrNotExist] if there is none.
func (v variables) read(name, owner string) ([]byte, error) {
	if owner == ownerShim { // the kernel prefers these
		if data, err := readFile(filepath.Join(v.mok, name)); err == nil {
			return data, nil
		}
	}
	if v.err != nil {
		return nil, v.err
	}
	const attributes = 4
	data, err := readFile(filepath.Join(v.efivars, name+"-"+owner))
	if err == nil && len(data) < attributes {
		err = fmt.Errorf("it has %d bytes", len(data))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the variable %s: %w", name, err)
	}
	return data[attributes:], nil
}

// readFile reads a file of at most [maxVariable] bytes.
func readFile(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxVariable+1))
	if err == nil && len(data) > maxVariable {
		err = fmt.Errorf("it has more than %d bytes", maxVariable)
	}
	return data, err
}

// note keeps an error that is not about the variables as a whole, which is known already.
func (f *Firmware) note(v variables, err error) {
	if err != v.err {
		f.Errs = append(f.Errs, err)
	}
}

// flag returns whether a variable of one byte is 1.
func (f *Firmware) flag(v variables, name, owner string) Answer {
	data, err := v.read(name, owner)
	switch {
	case errors.Is(err, fs.ErrNotExist) && v.err == nil:
		return No
	case err == nil && len(data) == 1 && data[0] <= 1:
		return If(data[0] == 1)
	case err == nil:
		err = fmt.Errorf("the variable %s is neither 0 nor 1: %x", name, data[:min(len(data), 16)])
	}
	f.note(v, err)
	return Unknown
}

// list returns what a variable lists: nothing if there is none.
func (f *Firmware) list(v variables, name, owner string) (l List) {
	data, err := v.read(name, owner)
	switch {
	case errors.Is(err, fs.ErrNotExist) && v.err == nil:
		return List{}
	case err != nil:
		l.Err = err
	default:
		if l = parseLists(data); l.Err != nil {
			l.Err = fmt.Errorf("the variable %s: %w", name, l.Err)
		}
	}
	if l.Err != nil {
		f.note(v, l.Err)
	}
	return l
}

// trusted reports whether shim has left MokListTrustedRT, whatever it holds. Whether it is
// there can be seen by everybody.
func (f *Firmware) trusted(v variables) Answer {
	const name = "MokListTrustedRT"
	if entries, err := os.ReadDir(v.mok); err == nil && len(entries) > 0 {
		return If(slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name }))
	}
	_, err := v.read(name, ownerShim)
	switch {
	case err == nil:
		return Yes
	case errors.Is(err, fs.ErrNotExist) && v.err == nil:
		return No
	}
	f.note(v, err)
	return Unknown
}
