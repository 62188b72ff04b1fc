# dkms-kernel-install: see README.md.

PREFIX   = /usr
SYSCONF  = /etc
DESTDIR  =
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GO       = go
BIN      = dkms-kernel-install

# One root file system for demo, integration tests and benchmarks.
export DKMS_TEST_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dkms-kernel-install
# The kernel's sign-file, to compare signatures with; nothing where there can be no such root.
sign_file = $$(integration/mkroot >/dev/null && echo $(CURDIR)/integration/sign-file)

.PHONY: build install uninstall test test-all lint fuzz demo bench tools clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/dkms-kernel-install

# The plugin is the program; the commands are links to it. A framework.conf that
# is there is the administrator's.
install: build
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/lib/kernel/install.d/40-dkms.install
	install -d $(DESTDIR)$(PREFIX)/sbin
	ln -sf ../lib/kernel/install.d/40-dkms.install $(DESTDIR)$(PREFIX)/sbin/dkms
	ln -sf ../lib/kernel/install.d/40-dkms.install $(DESTDIR)$(PREFIX)/sbin/dkms-kernel-install
	install -d $(DESTDIR)$(SYSCONF)/dkms/framework.conf.d $(DESTDIR)/var/lib/dkms
	test -e $(DESTDIR)$(SYSCONF)/dkms/framework.conf || install -m 644 install.d/framework.conf $(DESTDIR)$(SYSCONF)/dkms/framework.conf

# The tree and the settings stay: they hold keys, builds and decisions.
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/dkms $(DESTDIR)$(PREFIX)/sbin/dkms-kernel-install
	rm -f $(DESTDIR)$(PREFIX)/lib/kernel/install.d/40-dkms.install

lint:
	@files=$$(gofmt -l cmd internal integration); test -z "$$files" || { echo "not gofmt-clean: $$files"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	for arch in arm64 riscv64 ppc64le s390x; do GOARCH=$$arch $(GO) vet ./cmd/... ./internal/... || exit 1; done

test: lint tools
	DKMS_TEST_SIGN_FILE=$(sign_file) $(GO) test -count=1 -timeout 60m ./...

# Everything that is too long for every day: all packages of the archive.
test-all: lint tools
	DKMS_TEST_ALL=1 DKMS_TEST_SIGN_FILE=$(sign_file) $(GO) test -count=1 -timeout 6h ./...

# What the tests run on this machine itself; as root on Debian it is installed.
tools:
	@for p in gcc patch strip xz zstd; do command -v $$p >/dev/null || missing=$$p; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update; DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc patch binutils xz-utils zstd; \
	fi

fuzz:
	@set -e; for pkg in version conf kmod build archive; do \
	  for target in $$($(GO) test -list '^Fuzz' ./internal/$$pkg | grep ^Fuzz); do \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime 30s ./internal/$$pkg; \
	  done; \
	done

demo: build
	integration/demo

bench: build
	$(GO) test -count=1 -timeout 2h -run '^$$' -bench . -benchtime 1x ./integration

clean:
	rm -f $(BIN)
