# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# `make demo` shows the main job, `make test` proves it, `make kernels` proves it
# on other kernels; all install what is missing first.

CARGO ?= cargo
CLANG_FORMAT ?= clang-format-19
BPF_SOURCES = bpf/*.[ch] include/*.h benches/*.c

# What `make kernels` runs: names joined by commas, all if empty. `TEST` is part
# of a test's name; one in `SHARE` of the random tests' steps is done.
KERNEL =
SUITE =
TEST =
SHARE = 1
KERNELS = .ci/kernels/run.sh --kernel "$(KERNEL)" --suite "$(SUITE)" --test "$(TEST)" \
	--share "$(SHARE)"

.PHONY: all build setup setup-vmlinux setup-kernels demo test lint format clean
.PHONY: bench bench-check bench-baseline
.PHONY: kernels kernels-ci kernels-update kernels-table kernel-shell

all: build

setup:
	@.ci/setup.sh

# Only to make vmlinux/ anew.
setup-vmlinux:
	@.ci/setup.sh --vmlinux

# Only for kernels other than the running one.
setup-kernels:
	@.ci/setup.sh --kernels

build: setup
	$(CARGO) build --locked --release

demo: setup
	$(CARGO) build --locked --release --bins --example health
	examples/demo.sh target/release/xvsctl

test: setup
	@test "$$(id -u)" = 0 || { echo "make test needs root: it makes network namespaces and loads programs" >&2; exit 1; }
	$(CARGO) test --locked

# The root tests on packaged kernels in VMs; docs/kernels.md tells how.
kernels: setup-kernels
	@$(KERNELS)

# The shorter form for every change: a tenth of the random tests' steps, and on the
# kernels between the oldest and the newest only what kernels differ in most.
ENDS = 5.10,newest
BETWEEN = 6.1,6.12
DIFFER = load,packets,harmless,model,trunks,crossings,decap,capture

kernels-ci: SHARE = 10
kernels-ci: setup-kernels
ifeq ($(KERNEL)$(SUITE),)
	@$(MAKE) --no-print-directory kernels-ci SHARE=$(SHARE) KERNEL=$(ENDS)
	@$(MAKE) --no-print-directory kernels-ci SHARE=$(SHARE) KERNEL=$(BETWEEN) SUITE=$(DIFFER)
else
	@$(KERNELS)
endif

# The same with what is the newest build of each series now.
kernels-update: setup-kernels
	@$(KERNELS) --update

# What the last run measured becomes what the next ones are compared with.
kernels-table:
	cp target/kernels/verifier.md docs/verifier.md

kernel-shell: setup-kernels
	@.ci/kernels/run.sh --shell "$(KERNEL)"

# What packets and the control plane cost: docs/performance.md.
bench: setup
	@test "$$(id -u)" = 0 || { echo "make bench needs root: it loads programs" >&2; exit 1; }
	$(CARGO) bench --locked --features bench --bench packets --bench control

# Fails if a path of packets costs more than benches/baseline.json says.
bench-check: setup
	@test "$$(id -u)" = 0 || { echo "make bench-check needs root: it loads programs" >&2; exit 1; }
	$(CARGO) bench --locked --features bench --bench packets -- check

# What the last run measured becomes what the next ones are compared with.
bench-baseline: setup
	$(CARGO) bench --locked --features bench --bench packets -- baseline

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
