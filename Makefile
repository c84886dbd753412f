# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# `make demo` shows the main job, `make test` proves it; both install what is
# missing first.

CARGO ?= cargo
CLANG_FORMAT ?= clang-format-19
BPF_SOURCES = bpf/*.[ch] include/*.h benches/*.c

.PHONY: all build setup setup-vmlinux demo test bench lint format clean

all: build

setup:
	@.ci/setup.sh

# Only to make vmlinux/ anew.
setup-vmlinux:
	@.ci/setup.sh --vmlinux

build: setup
	$(CARGO) build --locked --release

demo: build
	examples/demo.sh target/release/xvsctl

test: setup
	@test "$$(id -u)" = 0 || { echo "make test needs root: it makes network namespaces and loads programs" >&2; exit 1; }
	$(CARGO) test --locked

bench: setup
	@test "$$(id -u)" = 0 || { echo "make bench needs root: it loads programs" >&2; exit 1; }
	$(CARGO) bench --locked --features bench --bench packets --bench control

lint: setup
	$(CARGO) fmt --check
	$(CLANG_FORMAT) --dry-run --Werror $(BPF_SOURCES)
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

format: setup
	$(CARGO) fmt
	$(CLANG_FORMAT) -i $(BPF_SOURCES)

clean:
	$(CARGO) clean
