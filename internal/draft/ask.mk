# SPDX-License-Identifier: GPL-2.0-or-later
# Says what the Kbuild file $(ask_file) builds, to whoever knows $(ask_word). It ends
# before make would run a rule, or make again what it has read.
include $(ask_file)
$(foreach v,$(filter obj-% subdir-%,$(.VARIABLES)),$(info $(ask_word) list $v $($v)))
$(foreach o,$(basename $(filter %.o,$(obj-m))),$(info $(ask_word) of $o $($o-objs) $($o-y) $($o-m)))
$(foreach v,$(ask_exports),$(info $(ask_word) export $v $($v)))
$(foreach v,$(ask_options),$(if $(filter undefined,$(origin $v)),$(info $(ask_word) unset $v)))
$(info $(ask_word) end)
$(error end)
