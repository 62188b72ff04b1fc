// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzReadLiteral compares readLiteral with bash. If a file is plain enough for
// readLiteral, both must agree.
func FuzzReadLiteral(f *testing.F) {
	for _, s := range []string{
		"a=b\n", "# a\n\n a=\"b c\" # d\n", "a='$x'\nb=/x/y:z,1@2%3+4-5\n", "a=b c=d\n", "a=b\\\n", "a=\"b\\$c\"\n",
		"a=~\n", "a=b;c=d\n", "a=(b)\n", "a=b\x00c\n", "a='b\n'\n", "a=b\r\n", "a=\"b\rc\r\"\n", "a=\"\x00\"\n", "a='\x00b'\n",
		"a=\"é\"\n", "a=b#c\n", "a=~/x:~\n", "a=x:~\n",
	} {
		f.Add(s)
	}
	sh := &Shell{}
	f.Cleanup(sh.Close)
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "framework.conf")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		literal, err := readLiteral(file)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for name := range literal {
			// Some variables are special in bash.
			if len(name) <= 2 && name != "_" {
				names = append(names, name)
			}
		}
		if names == nil {
			return
		}
		v, err := sh.eval(request{files: []string{file}, names: names})
		if err != nil {
			t.Fatalf("readLiteral takes it, but bash says %v", err)
		}
		for _, name := range names {
			if literal[name] != v.get(name) {
				t.Errorf("%s is %q, in bash %q", name, literal[name], v.get(name))
			}
		}
	})
}
