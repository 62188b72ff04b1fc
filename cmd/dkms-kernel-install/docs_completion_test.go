// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/testskip"
)

const generated = "# Made by \"make docs\" from the program's own description of its command line; do not edit.\n"

// ident returns the command's name as it is used in the names of shell functions.
func ident(c command) string { return strings.ReplaceAll(c.name, "-", "_") }

// words returns the forms of all options in list.
func words(list []option) []string {
	var all []string
	for _, o := range list {
		all = append(all, o.forms()...)
	}
	return all
}

// bashCompletion returns the completion for bash. It does not need bash-completion.
func bashCompletion(c command, root string) string {
	var b strings.Builder
	f := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	fn := "_" + ident(c)
	b.WriteString("# bash completion for " + c.name + "\n" + generated)
	f(`
# %[1]s_list KIND prints the values that are known.
%[1]s_list() {
	local path
	case $1 in
	kernel)
		for path in %[2]s/lib/modules/*/; do
			[[ -d $path ]] && path=${path%%/} && echo "${path##*/}"
		done
		;;
	package | source | name | version)
		for path in %[2]s/var/lib/dkms/*/*/source; do
			[[ -L $path ]] || continue
			path=${path#%[2]s/var/lib/dkms/} path=${path%%/source}
			case $1 in
			name) echo "${path%%%%/*}" ;;
			version) echo "${path##*/}" ;;
			*) echo "$path" ;;
			esac
		done
		;;
	arch) uname -m ;;
	esac
}

# %[1]s_offer WORD prints those of the lines it reads that begin with WORD. What
# they hold is quoted, and never evaluated, as compgen -W would do.
%[1]s_offer() {
	local line
	while read -r line; do
		[[ -n $line && $line == "$1"* ]] && printf '%%q\n' "$line"
	done
}
`, fn, root)
	f("%s() {", fn)
	f("\tlocal cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} kind='' words='' verb='' i")
	f("\t# bash makes a word of the = in --option=value.")
	f("\tif [[ $cur == = ]]; then")
	f("\t\tcur=")
	f("\telif [[ $before == = ]]; then")
	f("\t\tbefore=${COMP_WORDS[COMP_CWORD - 2]}")
	f("\tfi")
	f("\tfor ((i = 1; i < COMP_CWORD; i++)); do")
	f("\t\tcase ${COMP_WORDS[i]} in")
	if valued := slices.DeleteFunc(allOptions(c), func(o option) bool { return o.value == "" }); len(valued) > 0 {
		f("\t\t%s) i=$((i + 1)) && [[ ${COMP_WORDS[i]} == = ]] && i=$((i + 1)) ;;", strings.Join(words(valued), " | "))
	}
	f("\t\t-*) ;;")
	f("\t\t*) verb=${COMP_WORDS[i]} && break ;;")
	f("\t\tesac")
	f("\tdone")
	f("\n\tcase $before in")
	for _, o := range allOptions(c) {
		if o.value != "" {
			f("\t%s) kind='%s' ;;", strings.Join(o.forms(), " | "), orNone(o.kind))
		}
	}
	f("\tesac")
	f("\tif [[ -z $kind && $cur == -* ]]; then")
	f("\t\twords='%s'", strings.Join(words(c.options), " "))
	var own []command
	for _, sub := range c.subs {
		if len(sub.options) > 0 {
			own = append(own, sub)
		}
	}
	if own != nil {
		f("\t\tcase $verb in")
		for _, sub := range own {
			f("\t\t%s) words+=' %s' ;;", sub.name, strings.Join(words(sub.options), " "))
		}
		f("\t\tesac")
	}
	f("\telif [[ -z $kind && -z $verb ]]; then")
	var names []string
	for _, sub := range c.subs {
		names = append(names, sub.name)
	}
	f("\t\twords='%s'", strings.Join(names, " "))
	f("\telif [[ -z $kind ]]; then")
	f("\t\tcase $verb in")
	for _, k := range kinds(c.subs) {
		var names []string
		for _, sub := range c.subs {
			if argumentKind(sub) == k {
				names = append(names, sub.name)
			}
		}
		f("\t\t%s) kind=%s ;;", strings.Join(names, " | "), k)
	}
	f("\t\tesac")
	f("\tfi")
	f(`
	case $kind in
	file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	directory) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
	source)
		case $cur in
		/* | .*) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
		*) mapfile -t COMPREPLY < <(%[1]s_list source | %[1]s_offer "$cur") ;;
		esac
		;;
	*) mapfile -t COMPREPLY < <({ %[1]s_list "$kind" | sort -u && printf '%%s\n' "${words// /$'\n'}"; } | %[1]s_offer "$cur") ;;
	esac`, fn)
	f("}\ncomplete -F %s %s", fn, c.name)
	return b.String()
}

func orNone(k kind) string {
	if k == anything {
		return "none"
	}
	return string(k)
}

// allOptions returns the options of a program and of its commands, each once.
func allOptions(c command) []option {
	list := slices.Clone(c.options)
	for _, sub := range c.subs {
		for _, o := range sub.options {
			if !slices.ContainsFunc(list, func(p option) bool { return p.long == o.long }) {
				list = append(list, o)
			}
		}
	}
	return list
}

// argumentKind returns the kind of a command's first argument.
func argumentKind(c command) kind {
	if len(c.args) == 0 {
		return anything
	}
	return c.args[0].kind
}

// kinds returns the kinds of the commands' first arguments, each once.
func kinds(list []command) []kind {
	var all []kind
	for _, c := range list {
		if k := argumentKind(c); k != anything && !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return all
}

func zshCompletion(c command, root string) string {
	var b strings.Builder
	f := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	fn := "_" + ident(c)
	b.WriteString("#compdef " + c.name + "\n" + generated)
	f(`
%[1]s_kernels() {
	local -a list=(%[2]s/lib/modules/*(-/N:t))
	compadd "$@" -a list
}

%[1]s_packages() {
	local -a list=(%[2]s/var/lib/dkms/*/*/source(@N:h))
	list=(${list#%[2]s/var/lib/dkms/})
	compadd "$@" -a list
}

%[1]s_names() {
	local -a list=(%[2]s/var/lib/dkms/*/*/source(@N:h:h:t))
	compadd "$@" -a list
}

%[1]s_versions() {
	local -a list=(%[2]s/var/lib/dkms/*/*/source(@N:h:t))
	compadd "$@" -a list
}

%[1]s_archs() { compadd "$@" "$(uname -m)" }

%[1]s_sources() {
	if [[ $PREFIX == [./]* ]]; then
		_files
	else
		%[1]s_packages "$@"
	fi
}
`, fn, root)
	action := func(k kind) string {
		switch k {
		case aFile:
			return "_files"
		case aDirectory:
			return "_files -/"
		case anything:
			return " "
		}
		return fn + "_" + string(k) + "s"
	}
	specs := func(list []option) string {
		var s strings.Builder
		for _, o := range list {
			value, short, long := "", "-"+o.short, "--"+o.long
			if o.value != "" {
				value = ":" + zshQuote(o.value) + ":" + action(o.kind)
				short, long = short+"+", long+"="
			}
			tail := "'[" + zshQuote(o.help) + "]" + value + "'"
			switch {
			case o.repeated && o.short != "":
				fmt.Fprintf(&s, " \\\n\t\t'*'{%s,%s}%s", short, long, tail)
			case o.repeated:
				fmt.Fprintf(&s, " \\\n\t\t'*'%s%s", long, tail)
			case o.short != "":
				fmt.Fprintf(&s, " \\\n\t\t'(%s)'{%s,%s}%s", strings.Join(o.forms(), " "), short, long, tail)
			default:
				fmt.Fprintf(&s, " \\\n\t\t%s%s", long, tail)
			}
		}
		return s.String()
	}
	argument := func(sub command) string {
		k := argumentKind(sub)
		if k == anything {
			return ""
		}
		return fmt.Sprintf(" \\\n\t\t'*:%s:%s'", strings.ToLower(sub.args[0].name), action(k))
	}
	f("%s() {", fn)
	f("\tlocal context state state_descr line")
	f("\tlocal -A opt_args")
	f("\tlocal -a commands=(")
	for _, sub := range c.subs {
		f("\t\t'%s:%s'", sub.name, zshQuote(sub.help))
	}
	f("\t)")
	f("\t_arguments -C -S%s \\\n\t\t'1:command:->command' \\\n\t\t'*::argument:->argument' && return", specs(c.options))
	f("\tcase $state in")
	f("\tcommand) _describe command commands ;;")
	f("\targument)")
	f("\t\tcase $words[1] in")
	var names, texts []string // the commands that take the same words share a case
	for _, sub := range c.subs {
		text := specs(slices.Concat(c.options, sub.options)) + argument(sub)
		if i := slices.Index(texts, text); i >= 0 {
			names[i] += "|" + sub.name
		} else {
			names, texts = append(names, sub.name), append(texts, text)
		}
	}
	for i := range names {
		f("\t\t%s) _arguments -S%s ;;", names[i], texts[i])
	}
	f("\t\tesac")
	f("\t\t;;")
	f("\tesac")
	f("}\n\n%s \"$@\"", fn)
	return b.String()
}

func zshQuote(s string) string {
	return strings.NewReplacer("\\", "\\\\", "[", "\\[", "]", "\\]", ":", "\\:", "'", `'\''`).Replace(s)
}

func fishCompletion(c command, root string) string {
	var b strings.Builder
	f := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	fn := "__" + ident(c)
	b.WriteString("# fish completion for " + c.name + "\n" + generated)
	f(`
function %[1]s_list --argument-names kind
    switch $kind
        case kernel
            for path in %[2]s/lib/modules/*/
                path basename $path
            end
        case package source name version
            for path in %[2]s/var/lib/dkms/*/*/source
                set -l parts (string split / $path)
                switch $kind
                    case name
                        echo $parts[-3]
                    case version
                        echo $parts[-2]
                    case '*'
                        echo $parts[-3]/$parts[-2]
                end
            end
        case arch
            uname -m
    end
end
`, fn, root)
	var names []string
	for _, sub := range c.subs {
		names = append(names, sub.name)
	}
	value := func(k kind) string {
		switch k {
		case anything:
			return " -x"
		case aFile:
			return " -r -F"
		case aDirectory:
			return " -x -a '(__fish_complete_directories)'"
		}
		return fmt.Sprintf(" -x -a '(%s_list %s)'", fn, k)
	}
	options := func(condition string, list []option) {
		for _, o := range list {
			s := "complete -c " + c.name + condition
			if o.short != "" {
				s += " -s " + o.short
			}
			s += " -l " + o.long
			if o.value != "" {
				s += value(o.kind)
			}
			f("%s -d '%s'", s, fishQuote(o.help))
		}
	}
	f("complete -c %s -f", c.name)
	options("", c.options)
	some := "__fish_seen_subcommand_from " + strings.Join(names, " ")
	for _, sub := range c.subs {
		f("complete -c %s -n 'not %s' -a %s -d '%s'", c.name, some, sub.name, fishQuote(sub.help))
	}
	for _, sub := range c.subs {
		one := " -n '__fish_seen_subcommand_from " + sub.name + "'"
		options(one, sub.options)
		switch k := argumentKind(sub); k {
		case anything:
		case aDirectory, aFile:
			f("complete -c %s%s%s", c.name, one, strings.Replace(value(k), " -r -F", " -F", 1))
		case sourceOrRef:
			f("complete -c %s%s -a '(%s_list source)'", c.name, one, fn)
			path := fmt.Sprintf(" -n '__fish_seen_subcommand_from %s; and string match -qr \"^[./]\" -- (commandline -ct)'", sub.name)
			f("complete -c %s%s -F", c.name, path)
		default:
			f("complete -c %s%s -a '(%s_list %s)'", c.name, one, fn, k)
		}
	}
	return b.String()
}

func fishQuote(s string) string { return strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(s) }

// completed makes a root directory that completions look at, with the completions for it
// in dir.
func completed(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, directory := range []string{"lib/modules/6.1.0-1", "lib/modules/6.12.0-2", "var/lib/dkms/toy/1.0", "var/lib/dkms/toy/2.0", "var/lib/dkms/ball/3", "var/lib/dkms/gone/4", "work/sub"} {
		if err := os.MkdirAll(filepath.Join(dir, directory), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"toy/1.0", "toy/2.0", "ball/3"} {
		// Completions do not follow the link.
		if err := os.Symlink("/nowhere", filepath.Join(dir, "var/lib/dkms", id, "source")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "work/toy.tar.gz"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, text := range docs(t, dir) {
		if filepath.Dir(name) != "completions" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// completionCases are command lines whose last word is completed.
var completionCases = []struct {
	line string   // words with single spaces in between; the last may be empty
	want []string // each is offered
	not  []string // none is offered
	only bool     // nothing but want is offered
}{
	{line: "dkms b", want: []string{"build"}, only: true},
	{line: "dkms un", want: []string{"unbuild", "uninstall"}, only: true},
	{line: "dkms build ", want: []string{"ball/3", "toy/1.0", "toy/2.0"}, only: true},
	{line: "dkms build t", want: []string{"toy/1.0", "toy/2.0"}, only: true},
	{line: "dkms -k 6.1.0-1 re", want: []string{"remove"}, only: true},
	{line: "dkms build toy/1.0 -k ", want: []string{"6.1.0-1", "6.12.0-2"}, only: true},
	{line: "dkms build toy/1.0 -k 6.12", want: []string{"6.12.0-2"}, only: true},
	{line: "dkms build -m ", want: []string{"ball", "toy"}, only: true},
	{line: "dkms build -m toy -v ", want: []string{"1.0", "2.0", "3"}, only: true},
	{line: "dkms build --force-v", want: []string{"--force-version-override"}, only: true},
	{line: "dkms status --", want: []string{"--all", "--directive", "--help"}, not: []string{"--debug"}},
	{line: "dkms-kernel-install ", want: []string{"add", "add-all", "remove", "status"}, not: []string{"6.1.0-1"}},
	{line: "dkms-kernel-install add 6", want: []string{"6.1.0-1", "6.12.0-2"}, only: true},
	{line: "dkms-kernel-install status --j", want: []string{"--json"}, only: true},
	{line: "dkms-kernel-install add --j", only: true},
}

// checkCompletions compares what a shell offers with what it should offer.
func checkCompletions(t *testing.T, complete func(t *testing.T, words []string) []string) {
	for _, c := range completionCases {
		t.Run(c.line, func(t *testing.T) {
			t.Parallel()
			got := complete(t, strings.Split(c.line, " "))
			slices.Sort(got)
			got = slices.Compact(got)
			if c.only {
				if diff := cmp.Diff(slices.Sorted(slices.Values(c.want)), got); diff != "" && len(c.want)+len(got) > 0 {
					t.Errorf("offered (+), and to be offered (-): %s", diff)
				}
			}
			for _, s := range c.want {
				if !slices.Contains(got, s) {
					t.Errorf("%s is not offered: %q", s, got)
				}
			}
			for _, s := range c.not {
				if slices.Contains(got, s) {
					t.Errorf("%s is offered", s)
				}
			}
		})
	}
}

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir+"/.config", "XDG_DATA_HOME="+dir+"/.data", "XDG_CACHE_HOME="+dir+"/.cache", "LC_ALL=C.UTF-8")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%q: %v\n%s%s", args, err, out, stderr.String())
	}
	return string(out)
}

func TestBashCompletion(t *testing.T) {
	dir := completed(t)
	// As readline calls it. Bash splits words at = too.
	const script = `
		source "$1"
		name=$2; shift 2
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		_${name//-/_} "$name" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
		if [ ${#COMPREPLY[@]} -gt 0 ]; then printf '%s\n' "${COMPREPLY[@]}"; fi
	`
	complete := func(t *testing.T, words []string) []string {
		return strings.Fields(run(t, filepath.Join(dir, "work"), append([]string{"bash", "--norc", "-c", script, "bash", filepath.Join(dir, words[0]+".bash"), words[0]}, words...)...))
	}
	checkCompletions(t, complete)
	// The name of a kernel must not be evaluated.
	if err := os.MkdirAll(filepath.Join(dir, "lib/modules/$(touch evil)"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := complete(t, []string{"dkms", "status", "-k", "$"}); !slices.Equal(got, []string{`\$\(touch\`, `evil\)`}) {
		t.Errorf("a strange kernel is offered as %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "work/evil")); err == nil {
		t.Error("the name of a directory was evaluated")
	}
	if err := os.Remove(filepath.Join(dir, "lib/modules/$(touch evil)")); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string][]string{
		"dkms build --kernelver = 6.12": {"6.12.0-2"},
		"dkms build --kernelver =":      {"6.1.0-1", "6.12.0-2"},
		"dkms add ./":                   {"./sub", "./toy.tar.gz"},
		"dkms --archive ":               {"sub", "toy.tar.gz"},
		"dkms --archive = t":            {"toy.tar.gz"},
		"dkms --dkmstree ":              {"sub"},
		"dkms --archive = x ad":         {"add"},
	} {
		got := complete(t, strings.Split(line, " "))
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: offered (+), and to be offered (-): %s", line, diff)
		}
	}
	if _, err := exec.LookPath("shellcheck"); err == nil {
		run(t, dir, "shellcheck", "-s", "bash", filepath.Join(dir, "dkms.bash"), filepath.Join(dir, "dkms-kernel-install.bash"))
	}
}

func TestFishCompletion(t *testing.T) {
	testskip.Without(t, "fish")
	dir := completed(t)
	checkCompletions(t, func(t *testing.T, words []string) []string {
		out := run(t, filepath.Join(dir, "work"), "fish", "--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, filepath.Join(dir, words[0]+".fish"), strings.Join(words, " "))
		var got []string
		for line := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			got = append(got, word)
		}
		return got
	})
}

// zshSetup makes an interactive zsh print what the completion offers to the builtin
// compadd. zshCapture runs such a zsh in a terminal and completes a line.
const (
	zshSetup = `
fpath=($dir $fpath)
autoload -Uz compinit && compinit -D
bindkey '^I' complete-word
zstyle ':completion:*' insert-tab false
before_all() { print -r -- BEGIN }
after_all() { exit }
compprefuncs=(before_all) comppostfuncs=(after_all)
compadd() {
	if (( ${argv[(I)-[OAD]]} )); then builtin compadd "$@"; return; fi
	local -a offered
	builtin compadd -O offered "$@"
	(( $#offered )) && print -rl -- "OFFER "${^offered}
	builtin compadd "$@"
}
print READY
`
	zshCapture = `
zmodload zsh/zpty
dir=$1
export dir
zpty z zsh -f -i
zpty -w z 'source $dir/setup'
zpty -r z REPLY $'*READY*'
zpty -w -n z "$2"$'\t'
while zpty -r z REPLY; do print -rn -- "$REPLY"; done
`
)

func TestZshCompletion(t *testing.T) {
	testskip.Without(t, "zsh")
	dir := completed(t)
	if err := os.WriteFile(filepath.Join(dir, "setup"), []byte(zshSetup), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"_dkms", "_dkms-kernel-install"} {
		run(t, dir, "zsh", "-f", "-n", filepath.Join(dir, name))
	}
	checkCompletions(t, func(t *testing.T, words []string) []string {
		out := run(t, filepath.Join(dir, "work"), "timeout", "20", "zsh", "-f", "-c", zshCapture, "zsh", dir, strings.Join(words, " "))
		_, out, ok := strings.Cut(out, "BEGIN")
		if !ok {
			t.Fatalf("nothing was completed: %s", out)
		}
		var got []string
		for line := range strings.Lines(out) {
			if word, ok := strings.CutPrefix(strings.TrimSpace(line), "OFFER "); ok && word != "" {
				got = append(got, word)
			}
		}
		return got
	})
}
