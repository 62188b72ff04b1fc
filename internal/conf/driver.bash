# SPDX-License-Identifier: GPL-2.0-or-later
# Sources shell files for package conf and says what they set.
#
# A request is read from standard input: four lists, each a count and that many
# NUL-terminated strings: assignments made before sourcing, the files,
# assignments made after, and the names to tell. What is told goes to
# descriptor 3 as NUL-terminated fields; the nonce $1 starts each message, so
# that whatever a file prints there itself can be told from it.

__list() {
	local -n __into=$1
	local __count
	__into=()
	IFS= read -r -d '' __count || return
	while ((__count-- > 0)); do
		IFS= read -r -d '' "__into[${#__into[@]}]" || return
	done
}

__evaluate() {
	local __item __index __status=0
	for __item in "${__before[@]}"; do
		printf -v "${__item%%=*}" %s "${__item#*=}"
	done
	for __item in "${__files[@]}"; do
		# A failing last command of a file is none of our business, but
		# 126 is bash's word for a file that is not text.
		source "$__item"
		(($? == 126)) && __status=126
		set +eu
	done
	trap - EXIT DEBUG ERR RETURN
	set +uvxnf +o posix
	shopt -u nocasematch nullglob failglob
	IFS=$' \t\n'
	unset -f printf local declare
	for __item in "${__after[@]}"; do
		printf -v "${__item%%=*}" %s "${__item#*=}"
	done
	{
		printf '\0%s\0set\0%s\0' "$__nonce" "$__status"
		for __item in "${__names[@]}"; do
			local -n __value=$__item
			for __index in "${!__value[@]}"; do
				printf '%s\0%s\0%s\0' "$__item" "$__index" "${__value[$__index]}"
				[[ $__item == *_MATCH || $__item == BUILD_EXCLUSIVE_KERNEL || $__item == BUILD_EXCLUSIVE_ARCH ]] || continue
				# The patterns are the C library's extended regular
				# expressions; only the C library matches them exactly.
				if [[ $__item == *_ARCH ]]; then
					[[ $arch =~ ${__value[$__index]} ]]
				else
					[[ $kernelver =~ ${__value[$__index]} ]]
				fi
				printf '%s\0%s\0%s\0' "matches $__item" "$__index" "$?"
			done
			unset -n __value
		done
		printf '\0'
	} >&3
}

__nonce=$1
shift
while __list __before && __list __files && __list __after && __list __names; do
	# Not ( __evaluate ): in such a subshell bash 5.2 saves a fork by letting
	# the last command of a sourced file replace the subshell.
	__evaluate </dev/null >/dev/null 2>&3 &
	wait "$!"
	printf '\0%s\0end\0%s\0' "$__nonce" "$?" >&3
done
