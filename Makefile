# SPDX-License-Identifier: GPL-2.0-or-later
# dkms-kernel-install: see README.md.

PREFIX   = /usr
SYSCONF  = /etc
SBINDIR  = $(PREFIX)/sbin
ZSHDIR   = $(PREFIX)/share/zsh/site-functions
DESTDIR  =
DIST     = $(CURDIR)/dist
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GO       = go
# The binary is static: it runs with any C library, and without one.
export CGO_ENABLED = 0
BIN      = dkms-kernel-install

# One root file system for demo, integration tests and benchmarks.
export DKMS_TEST_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dkms-kernel-install
# The kernel's sign-file, to compare signatures with; empty if the root cannot be made.
sign_file = $$(integration/mkroot >/dev/null && echo $(CURDIR)/integration/sign-file)

# The environment of tools/package: the version of this checkout, the architecture,
# and the time of the last commit.
MAINTAINER = dkms-kernel-install maintainers <root@localhost>
package_env = PACKAGE_VERSION="$$(tools/package-version '$(VERSION)' "$$(git rev-list --count HEAD 2>/dev/null || echo 0)")" \
	PACKAGE_ARCH="$$($(GO) env GOARCH)" SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)}" \
	MAINTAINER='$(MAINTAINER)'

.PHONY: build install install-debian install-redhat install-arch install-gentoo uninstall deb rpm arch \
	docs check test test-all lint lint-ports fuzz demo screens bench tools clean

build:
	$(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/dkms-kernel-install

# The plugin is the program, and the commands are links to it. An existing
# framework.conf is the administrator's, and stays.
install: build
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/lib/kernel/install.d/40-dkms.install
	install -d $(DESTDIR)$(SBINDIR)
	ln -sf ../lib/kernel/install.d/40-dkms.install $(DESTDIR)$(SBINDIR)/dkms
	ln -sf ../lib/kernel/install.d/40-dkms.install $(DESTDIR)$(SBINDIR)/dkms-kernel-install
	install -d $(DESTDIR)$(SYSCONF)/dkms/framework.conf.d $(DESTDIR)/var/lib/dkms
	test -e $(DESTDIR)$(SYSCONF)/dkms/framework.conf || install -m 644 install.d/framework.conf $(DESTDIR)$(SYSCONF)/dkms/framework.conf
	install -D -m 644 install.d/framework.conf $(DESTDIR)$(PREFIX)/share/doc/dkms-kernel-install/framework.conf
	install -D -m 644 install.d/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/dkms-kernel-install.conf
	test -n "$(DESTDIR)" || ! command -v systemd-sysusers >/dev/null || systemd-sysusers dkms-kernel-install.conf
	for page in dkms-kernel-install.8 dkms.8 dkms.conf.5 framework.conf.5; do \
	  install -D -m 644 install.d/man/$$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$page || exit 1; done
	for name in dkms dkms-kernel-install; do \
	  install -D -m 644 install.d/completions/$$name.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$name && \
	  install -D -m 644 install.d/completions/$$name.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$name.fish && \
	  install -D -m 644 install.d/completions/_$$name $(DESTDIR)$(ZSHDIR)/_$$name || exit 1; done

# The scripts that packages of modules call, and the unit that runs at boot.
common = install -D -m 755 install.d/common.postinst $(DESTDIR)$(PREFIX)/lib/dkms/common.postinst && \
	install -D -m 755 install.d/with-grub $(DESTDIR)$(PREFIX)/lib/dkms/with-grub && \
	install -D -m 755 install.d/dkms_autoinstaller $(DESTDIR)$(PREFIX)/lib/dkms/dkms_autoinstaller
unit = install -d $(DESTDIR)$(PREFIX)/lib/systemd/system && \
	sed 's|/usr/sbin/|$(SBINDIR)/|' install.d/systemd/dkms.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/dkms.service && \
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/dkms.service

# Debian's kernel packages run their own hooks. Debian's dkms builds for all kernels.
install-debian: ZSHDIR = $(PREFIX)/share/zsh/vendor-completions
install-debian: install
	$(common)
	$(unit)
	for hook in preinst postinst prerm header_postinst; do \
	  install -D -m 755 install.d/debian/$$hook $(DESTDIR)$(SYSCONF)/kernel/$$hook.d/dkms || exit 1; done
	sed -i 's|/usr/lib/|$(PREFIX)/lib/|' $(DESTDIR)$(SYSCONF)/kernel/header_postinst.d/dkms
	install -D -m 644 install.d/debian/grub.cfg $(DESTDIR)$(SYSCONF)/default/grub.d/dkms.cfg
	install -D -m 644 install.d/debian/apt.conf $(DESTDIR)$(SYSCONF)/apt/apt.conf.d/50dkms
	file=$(DESTDIR)$(SYSCONF)/dkms/framework.conf.d/autoinstall_all_kernels.conf; \
	test -e $$file || install -m 644 install.d/debian/autoinstall_all_kernels.conf $$file

# The kernel packages of Red Hat and SUSE call kernel-install, which calls the plugin: the
# earlier one in images for ostree.
install-redhat: install
	ln -sf 40-dkms.install $(DESTDIR)$(PREFIX)/lib/kernel/install.d/04-dkms.install
	$(common)
	$(unit)

# On Arch /usr/sbin is a link: a package must not have files there. The unit is enabled
# as packages of Arch do it, by a link of their own: it comes and goes with them.
install-arch: SBINDIR = $(PREFIX)/bin
install-arch: install
	$(unit)
	for hook in 70-dkms-install 71-dkms-remove 72-dkms-settle; do \
	  install -D -m 644 install.d/arch/$$hook.hook $(DESTDIR)$(PREFIX)/share/libalpm/hooks/$$hook.hook || exit 1; done
	install -D -m 755 install.d/arch/dkms $(DESTDIR)$(PREFIX)/share/libalpm/scripts/dkms
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system/multi-user.target.wants
	ln -sf ../dkms.service $(DESTDIR)$(PREFIX)/lib/systemd/system/multi-user.target.wants/dkms.service

# dkms.eclass calls dkms itself. Only the services for the boot are added.
install-gentoo: install
	$(unit)
	install -d $(DESTDIR)$(SYSCONF)/init.d
	sed 's|/usr/sbin/|$(SBINDIR)/|' install.d/openrc/dkms >$(DESTDIR)$(SYSCONF)/init.d/dkms
	chmod 755 $(DESTDIR)$(SYSCONF)/init.d/dkms

# The tree and the settings stay.
uninstall:
	for name in dkms dkms-kernel-install; do \
	  rm -f $(DESTDIR)$(PREFIX)/sbin/$$name $(DESTDIR)$(PREFIX)/bin/$$name $(DESTDIR)$(SBINDIR)/$$name \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$name \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$name.fish \
	    $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_$$name $(DESTDIR)$(ZSHDIR)/_$$name; done
	rm -f $(DESTDIR)$(PREFIX)/lib/kernel/install.d/40-dkms.install $(DESTDIR)$(PREFIX)/lib/kernel/install.d/04-dkms.install $(DESTDIR)$(PREFIX)/lib/sysusers.d/dkms-kernel-install.conf
	rm -f $(DESTDIR)$(PREFIX)/share/doc/dkms-kernel-install/framework.conf
	test ! -d $(DESTDIR)$(PREFIX)/share/doc/dkms-kernel-install || rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/share/doc/dkms-kernel-install
	for page in dkms-kernel-install.8 dkms.8 dkms.conf.5 framework.conf.5; do \
	  rm -f $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$page; done
	rm -f $(DESTDIR)$(PREFIX)/lib/dkms/common.postinst $(DESTDIR)$(PREFIX)/lib/dkms/with-grub $(DESTDIR)$(PREFIX)/lib/dkms/dkms_autoinstaller
	test ! -d $(DESTDIR)$(PREFIX)/lib/dkms || rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/lib/dkms
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/dkms.service $(DESTDIR)$(PREFIX)/lib/systemd/system/multi-user.target.wants/dkms.service
	rm -f $(DESTDIR)$(SYSCONF)/init.d/dkms
	for hook in preinst postinst prerm header_postinst; do rm -f $(DESTDIR)$(SYSCONF)/kernel/$$hook.d/dkms; done
	rm -f $(DESTDIR)$(SYSCONF)/default/grub.d/dkms.cfg $(DESTDIR)$(SYSCONF)/apt/apt.conf.d/50dkms
	for hook in 70-dkms-install 71-dkms-remove 72-dkms-settle; do rm -f $(DESTDIR)$(PREFIX)/share/libalpm/hooks/$$hook.hook; done
	rm -f $(DESTDIR)$(PREFIX)/share/libalpm/scripts/dkms

# Packages for GOARCH, in dist/, beside directories with their files. The rpm wants rpmbuild, which
# Debian's package rpm has.
deb rpm arch: stage = $(DIST)/$@
deb:
	rm -rf $(stage)
	$(MAKE) install-debian DESTDIR=$(stage)
	$(package_env) tools/package deb $(stage)

rpm:
	rm -rf $(stage)
	$(MAKE) install-redhat DESTDIR=$(stage)
	$(package_env) tools/package rpm $(stage)

arch:
	rm -rf $(stage)
	$(MAKE) install-arch DESTDIR=$(stage)
	$(package_env) tools/package archlinux $(stage)

# The completions, and the parts of manual pages about commands and options, are
# made from the program's own description of its command lines; the table of
# docs/security.md from attacks, by root.
docs:
	$(GO) test -count=1 -run '^(TestDocs|TestSecurityTable)$$' ./cmd/dkms-kernel-install -update

lint:
	@files=$$(gofmt -l cmd internal integration); test -z "$$files" || { echo "not gofmt-clean: $$files"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags=vm ./internal/sandbox
	$(GO) tool staticcheck ./...
	@dead=$$($(GO) tool deadcode ./cmd/... ./integration/figures && $(GO) tool deadcode -test ./...) && test -z "$$dead" || \
	  { echo "not used, or only by tests:"; echo "$$dead"; exit 1; }
	@files=$$(grep -rL --include=*.go 'SPDX-License-Identifier: GPL-2.0-or-later' cmd internal integration); \
	  test -z "$$files" || { echo "no license: $$files"; exit 1; }

lint-ports:
	for arch in arm64 riscv64 ppc64le s390x; do GOARCH=$$arch $(GO) vet ./cmd/... ./internal/... || exit 1; done

# What needs no root file system but this machine's own.
local = ./cmd/... ./internal/... ./integration/figures
# Of these, those that start no goroutine, and compress so much that the race detector
# takes minutes for them.
sequential = ./internal/kmod ./internal/initramfs
# Whole-program tests that take half a minute each, mostly to attack.
slow = sandbox_denies|sandbox_worlds|dkms_statuses|killed_verbs|hostile_values
# Those, and others with much to do, one thing at a time: the race detector has nothing to
# see there, and takes minutes.
single = $(slow)|archive|bad_conf|bad_modules|bad_names|build_environment|cache_builds|cache_damaged|cache_key|deferred|failed_before|gentoo_phases|rpm_scriptlets_other|status_missing|upgrade_keeps|weak_links|weak_scripts
# These, and those that go by chance or have more to do without -short.
long = $(single)|$$(cd cmd/dkms-kernel-install/testdata/script && grep -lE '^(endures|filling|hostile|walks|\[short\]) ' *.txtar | sed 's/[.]txtar$$//' | paste -sd '|')

# To run after each change: it takes three minutes.
check: lint tools
	integration/in-memory $(GO) test -count=1 -short -skip '^TestScript$$/^($(slow))$$' $(local)

# All that CI runs: what check does, most of it with the race detector; what takes too long
# for the one or the other; and the integration tests.
test: tools
	integration/mkroot >/dev/null 2>&1 & $(MAKE) lint lint-ports # it takes a minute of one processor
	DKMS_TEST_SIGN_FILE=$(sign_file) CGO_ENABLED=1 integration/in-memory $(GO) test -count=1 -short -race -timeout 30m -skip '^TestScript$$/^($(single))$$' \
	  $$($(GO) list $(local) | grep -vxF "$$($(GO) list $(sequential))")
	DKMS_TEST_SIGN_FILE=$(sign_file) $(GO) test -count=1 -short $(sequential)
	integration/in-memory $(GO) test -count=1 -timeout 30m -run "^TestScript$$/^($(long))$$|^TestFindEnds$$" ./cmd/dkms-kernel-install ./internal/draft
	DKMS_TEST_SIGN_FILE=$(sign_file) $(GO) test -count=1 -timeout 60m ./integration

# Also the tests that take hours: those of all packages of the archive.
test-all: lint lint-ports tools
	DKMS_TEST_ALL=1 DKMS_TEST_SIGN_FILE=$(sign_file) $(GO) test -count=1 -timeout 6h ./...

# Programs that the tests need. On Debian, root installs them.
tools:
	@for p in gcc patch strip xz zstd man mandoc zsh fish rpmbuild; do command -v $$p >/dev/null || missing=$$p; done; \
	test -e /usr/include/stdlib.h || missing=libc6-dev; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update; DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev patch binutils xz-utils zstd man-db mandoc zsh fish rpm; \
	fi

# How long each target of fuzz takes.
FUZZTIME = 30s

fuzz:
	@set -e; for pkg in version conf draft codec initramfs kmod build archive store secureboot; do \
	  for target in $$($(GO) test -list '^Fuzz' ./internal/$$pkg | grep ^Fuzz); do \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./internal/$$pkg; \
	  done; \
	done

demo: build
	integration/demo

# The pictures in docs/screens, of real runs on a terminal.
screens:
	$(GO) test -count=1 -run '^TestScreens$$' ./integration -screens

# What they print, and the picture of it.
bench: SHELL = /bin/bash
bench: .SHELLFLAGS = -o pipefail -c
bench: build
	mkdir -p $(DIST)
	{ $(GO) test -count=1 -timeout 12h -run '^$$' -bench '^BenchmarkMany$$' -benchtime 1x ./cmd/dkms-kernel-install && \
	  $(GO) test -count=1 -timeout 12h -run '^$$' -bench '^BenchmarkPeer$$' -benchtime 1x ./integration; } | tee $(DIST)/bench.md
	$(GO) run ./integration/figures <$(DIST)/bench.md >$(DIST)/figures.svg
	mv $(DIST)/figures.svg docs/figures.svg

clean:
	rm -f $(BIN)
	rm -rf dist
