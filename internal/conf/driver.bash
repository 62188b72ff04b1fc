# SPDX-License-Identifier: GPL-2.0-or-later
# Sources shell files for package conf and says what they set.
#
# Standard input has requests. Each is five lists: assignments to make before the
# files are sourced, the files, assignments to make after, the names of the variables
# that are wanted, or "*" for all that are exported, and the names of variables that
# are not exported unless a file does it. A list is a count and that many strings, all
# NUL-terminated.
#
# Descriptor 3 gets the answers, as NUL-terminated fields. Each message begins with
# the nonce $1, which tells it from what a file prints there:
#
#	nonce "set" STATUS (NAME INDEX VALUE)... ""
#	nonce "end" STATUS
#
# STATUS is 125 in the first if a file may not be read, 126 if it is not text, else 0,
# and the exit status of the evaluation in the second. The first is missing if a file
# ended bash. Beside each pattern NAME, "matches NAME" says whether it matches: 0, 1,
# or 2 for an invalid one.

__list() {
	local -n __into=$1
	local __count
	__into=()
	IFS= read -r -d '' __count || return
	while ((__count-- > 0)); do
		IFS= read -r -d '' "__into[${#__into[@]}]" || return
	done
}

# A function of the classic script that confs call: it prints where modules go whose
# conf says $1.
override_dest_module_location() {
	builtin printf '%s\n' "${__addon_modules_dir:-${1-}}"
}

__evaluate() {
	local __item __index __status=0
	for __item in "${__before[@]}"; do
		printf -v "${__item%%=*}" %s "${__item#*=}"
	done
	((${#__unexport[@]})) && export -n "${__unexport[@]}"
	for __item in "${__files[@]}"; do
		[[ -r $__item ]] || __status=125
		# It does not matter whether the last command of a file failed. But
		# 126 means that a file is not text.
		source "$__item"
		(($? == 126)) && __status=126
		set +eu
	done
	trap - EXIT DEBUG ERR RETURN
	set +uvxnf +o posix
	shopt -u nocasematch nullglob failglob
	IFS=$' \t\n'
	unset -f printf local declare compgen
	for __item in "${__after[@]}"; do
		printf -v "${__item%%=*}" %s "${__item#*=}"
	done
	[[ ${__names[0]} == '*' ]] && __names=($(compgen -e))
	{
		printf '\0%s\0set\0%s\0' "$__nonce" "$__status"
		for __item in "${__names[@]}"; do
			local -n __value=$__item
			for __index in "${!__value[@]}"; do
				printf '%s\0%s\0%s\0' "$__item" "$__index" "${__value[$__index]}"
				[[ $__item == *_MATCH || $__item == BUILD_EXCLUSIVE_KERNEL || $__item == BUILD_EXCLUSIVE_ARCH ]] || continue
				# The patterns are extended regular expressions of the C
				# library, and only that matches them exactly.
				# CR LF line ends leave CRs, which are no part of the pattern.
				# Newer versions of bash complain of an invalid one.
				if [[ $__item == *_ARCH ]]; then
					[[ $arch =~ ${__value[$__index]//$'\r'} ]]
				else
					[[ $kernelver =~ ${__value[$__index]//$'\r'} ]]
				fi 2>/dev/null
				printf '%s\0%s\0%s\0' "matches $__item" "$__index" "$?"
			done
			unset -n __value
		done
		printf '\0'
	} >&3
}

__nonce=$1
shift
while __list __before && __list __files && __list __after && __list __names && __list __unexport; do
	# Not ( __evaluate ): in such a subshell bash 5.2 saves a fork by letting
	# the last command of a sourced file replace the subshell.
	__evaluate </dev/null >/dev/null 2>&3 &
	wait "$!"
	printf '\0%s\0end\0%s\0' "$__nonce" "$?" >&3
done
