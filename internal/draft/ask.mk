# SPDX-License-Identifier: GPL-2.0-or-later
# Says what kbuild would build by the Kbuild file $(ask_file), on lines that begin with
# "ask:". It ends before make would run a rule, or make again what it has read. A make
# that the file runs is not to read this: --eval is among the MAKEFLAGS.
unexport MAKEFLAGS

# What kbuild sets, beside M and KERNELRELEASE.
ask_release := $(subst ., ,$(subst -, ,$(subst +, ,$(KERNELRELEASE))))
VERSION := $(word 1,$(ask_release))
PATCHLEVEL := $(word 2,$(ask_release))
SUBLEVEL := $(word 3,$(ask_release))
ARCH := $(shell uname -m | sed 's/i.86/x86/; s/x86_64/x86/; s/aarch64/arm64/; s/armv.*/arm/; s/ppc.*/powerpc/; s/s390x/s390/; s/riscv.*/riscv/; s/loongarch.*/loongarch/')
SRCARCH := $(ARCH)
KBUILD_MODULES := 1
KBUILD_EXTMOD := $(M)
srctree := /lib/modules/$(KERNELRELEASE)/build
objtree := $(srctree)
src := $(ask_dir)
obj := $(ask_dir)

include $(ask_file)

# ask_sed searches the files of the tree that make has read.
ask_sed = $(shell sed -nE '$1' $(filter-out /%,$(MAKEFILE_LIST:$(M)/%=%)) /dev/null)
ask_exports := $(call ask_sed,s/^[[:blank:]]*export[[:blank:]]+([^:?+!=]*).*/\1/p)
ask_options := $(call ask_sed,/^[[:blank:]]*(obj-|subdir-|(else[[:blank:]]+)?if)/s/[^A-Za-z0-9_]+/ /gp)
ask_unset := $(foreach v,$(sort $(filter CONFIG_%,$(ask_options))),$(if $(filter undefined,$(origin $v)),$v))
ask_dirs := $(filter %/,$(obj-y)) $(addsuffix /,$(subdir-m) $(subdir-y))

$(info ask: lists $(filter obj-% subdir-%,$(.VARIABLES)))
$(foreach w,$(obj-m) $(ask_dirs),$(info ask: builds $w $(or $(strip $(foreach s,-objs -y -m,$($(w:.o=)$s))),$w)))
$(foreach v,$(filter-out obj-% subdir-%,$(ask_exports)),$(info ask: export $v=$($v)))
$(if $(ask_unset),$(info ask: note options that are not set here may decide what is built; to set one, give --make-arg $(firstword $(ask_unset))=m, or y: $(ask_unset)),$(info ask: note $(if $(obj-),nothing is set that decides to build $(obj-))))
$(info ask: end here)
$(error end)
