# bash completion for dkms
# Made by "make docs" from the program's own description of its command line; do not edit.

# _dkms_list KIND prints the values that are known.
_dkms_list() {
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

# _dkms_offer WORD prints those of the lines it reads that begin with WORD. What
# they hold is quoted, and never evaluated, as compgen -W would do.
_dkms_offer() {
	local line
	while read -r line; do
		[[ -n $line && $line == "$1"* ]] && printf '%q\n' "$line"
	done
}

_dkms() {
	local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} kind='' words='' verb='' i
	# bash makes a word of the = in --option=value.
	if [[ $cur == = ]]; then
		cur=
	elif [[ $before == = ]]; then
		before=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-m | --module | -v | --moduleversion | -k | --kernelver | -a | --arch | --templatekernel | --archive | -c | --conf | --directive | --config | --kernelsourcedir | --dkmstree | --sourcetree | --installtree | -j | --jobs) i=$((i + 1)) && [[ ${COMP_WORDS[i]} == = ]] && i=$((i + 1)) ;;
		-*) ;;
		*) verb=${COMP_WORDS[i]} && break ;;
		esac
	done

	case $before in
	-m | --module) kind='name' ;;
	-v | --moduleversion) kind='version' ;;
	-k | --kernelver) kind='kernel' ;;
	-a | --arch) kind='arch' ;;
	--templatekernel) kind='kernel' ;;
	--archive) kind='file' ;;
	-c | --conf) kind='file' ;;
	--directive) kind='none' ;;
	--config) kind='file' ;;
	--kernelsourcedir) kind='directory' ;;
	--dkmstree) kind='directory' ;;
	--sourcetree) kind='directory' ;;
	--installtree) kind='directory' ;;
	-j | --jobs) kind='none' ;;
	esac
	if [[ -z $kind && $cur == -* ]]; then
		words='-h --help -m --module -v --moduleversion -k --kernelver -a --arch --all --force --force-version-override --no-depmod --modprobe-on-install --symlink-modules --templatekernel --archive --source-only --binaries-only --rpm_safe_upgrade -c --conf --directive --config --kernelsourcedir --dkmstree --sourcetree --installtree -j --jobs -q --quiet --verbose -V --version'
	elif [[ -z $kind && -z $verb ]]; then
		words='add build install uninstall unbuild remove status match autoinstall mktarball ldtarball generate_mok kernel_preinst kernel_postinst kernel_prerm'
	elif [[ -z $kind ]]; then
		case $verb in
		add | build | install | uninstall | unbuild | remove | status | match | autoinstall | mktarball | ldtarball | generate_mok | kernel_preinst | kernel_postinst | kernel_prerm) kind=source ;;
		esac
	fi

	case $kind in
	file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	directory) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
	source)
		case $cur in
		/* | .*) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
		*) mapfile -t COMPREPLY < <(_dkms_list source | _dkms_offer "$cur") ;;
		esac
		;;
	*) mapfile -t COMPREPLY < <({ _dkms_list "$kind" | sort -u && printf '%s\n' "${words// /$'\n'}"; } | _dkms_offer "$cur") ;;
	esac
}
complete -F _dkms dkms
