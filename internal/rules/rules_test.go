// SPDX-License-Identifier: GPL-2.0-or-later

package rules_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/rules"
)

// shape returns the fields of a struct and of the structs in it, with their types: what
// is kept on disk, or hashed, depends on them.
func shape(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice, reflect.Pointer:
		return t.Kind().String() + " " + shape(t.Elem())
	case reflect.Map:
		return "map " + shape(t.Key()) + " " + shape(t.Elem())
	case reflect.Struct:
		var fields []string
		for i := range t.NumField() {
			f := t.Field(i)
			fields = append(fields, f.Name+" "+shape(f.Type))
		}
		return "{" + strings.Join(fields, "; ") + "}"
	}
	return t.String()
}

// TestShapes fails if the fields of what a count is about changed and the count did not.
// After a change, count up in rules.go and put what this prints in place of
// what it wants. What neither the key nor the comparison of fingerprints looks at, such as
// Signer, needs no count.
func TestShapes(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{fmt.Sprintf("Conf %d: %s", rules.Conf, shape(reflect.TypeFor[conf.Conf]())), `Conf 5: {Name string; Version string; Modules slice {BuiltName string; BuiltLocation string; DestName string; DestLocation string; Strip bool}; Make string; Patches slice string; PreBuild string; PostBuild string; PreInstall string; PostInstall string; PostAdd string; PostRemove string; BuildDepends slice string; BuildDependsRebuild bool; Autoinstall bool; NoWeakModules bool; Excluded string; Warnings slice string}`},
		{fmt.Sprintf("Build %d, Key %d: %s", rules.Build, rules.Key, shape(reflect.TypeFor[fingerprint.Fingerprint]())), `Build 2, Key 3: {Rules int; Source string; Settings string; Headers string; Compiler string; Depends map string string; Signer string}`},
	} {
		if tt.got != tt.want {
			t.Errorf("got  %s\nwant %s", tt.got, tt.want)
		}
	}
}
