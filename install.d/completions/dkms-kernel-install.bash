# bash completion for dkms-kernel-install
# Made by "make docs" from the program's own description of its command line; do not edit.

# _dkms_kernel_install_list KIND prints the values that are known.
_dkms_kernel_install_list() {
	local path
	case $1 in
	kernel)
		for path in /lib/modules/*/; do
			[[ -d $path ]] && path=${path%/} && echo "${path##*/}"
		done
		;;
	package | source | name | version)
		for path in /var/lib/dkms/*/*/source; do
			[[ -L $path ]] || continue
			path=${path#/var/lib/dkms/} path=${path%/source}
			case $1 in
			name) echo "${path%%/*}" ;;
			version) echo "${path##*/}" ;;
			*) echo "$path" ;;
			esac
		done
		;;
	arch) uname -m ;;
	esac
}

# _dkms_kernel_install_offer WORD prints those of the lines it reads that begin with WORD. What
# they hold is quoted, and never evaluated, as compgen -W would do.
_dkms_kernel_install_offer() {
	local line
	while read -r line; do
		[[ -n $line && $line == "$1"* ]] && printf '%q\n' "$line"
	done
}

_dkms_kernel_install() {
	local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} kind='' words='' verb='' i
	# bash makes a word of the = in --option=value.
	if [[ $cur == = ]]; then
		cur=
	elif [[ $before == = ]]; then
		before=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--root | --timeline | --kernel | --package | --headers | --junit | --html | --name | --package-version | --module | --make-arg) i=$((i + 1)) && [[ ${COMP_WORDS[i]} == = ]] && i=$((i + 1)) ;;
		-*) ;;
		*) verb=${COMP_WORDS[i]} && break ;;
		esac
	done

	case $before in
	--root) kind='directory' ;;
	--timeline) kind='file' ;;
	--kernel) kind='kernel' ;;
	--package) kind='name' ;;
	--headers) kind='none' ;;
	--junit) kind='file' ;;
	--html) kind='file' ;;
	--name) kind='name' ;;
	--package-version) kind='none' ;;
	--module) kind='name' ;;
	--make-arg) kind='none' ;;
	esac
	if [[ -z $kind && $cur == -* ]]; then
		words='-h --help -v --verbose --version --root --timeline'
		case $verb in
		add) words+=' --force' ;;
		add-all) words+=' --force' ;;
		sync) words+=' --kernel --package --only-missing --no-initramfs --hook-next --tell-once --dry-run' ;;
		status) words+=' --json --check' ;;
		why) words+=' --json' ;;
		doctor) words+=' --json' ;;
		check) words+=' --headers --symbols --json --junit --html' ;;
		fsck) words+=' --repair' ;;
		held) words+=' --hold-restart' ;;
		init) words+=' --name --package-version --module --make-arg --no-kernelrelease --no-autoinstall --force --print' ;;
		esac
	elif [[ -z $kind && -z $verb ]]; then
		words='add add-all sync remove status why reload doctor check fsck key postinst held init'
	elif [[ -z $kind ]]; then
		case $verb in
		add | remove | status) kind=kernel ;;
		why | reload | check | postinst) kind=name ;;
		init) kind=directory ;;
		esac
	fi

	case $kind in
	file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	directory) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
	source)
		case $cur in
		/* | .*) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
		*) mapfile -t COMPREPLY < <(_dkms_kernel_install_list source | _dkms_kernel_install_offer "$cur") ;;
		esac
		;;
	*) mapfile -t COMPREPLY < <({ _dkms_kernel_install_list "$kind" | sort -u && printf '%s\n' "${words// /$'\n'}"; } | _dkms_kernel_install_offer "$cur") ;;
	esac
}
complete -F _dkms_kernel_install dkms-kernel-install
