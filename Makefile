# `make run` and `make test` are all that most people need; `make help` lists the rest.

CARGO  ?= cargo
PYTHON ?= python3
ARGS   ?=

# How long `make fuzz` gives each of its targets.
SECONDS ?= 60

# Downloads go outside the clone, so that a second clone costs nothing.
CACHE := $(or $(BRIGADE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/brigade)
export BRIGADE_TEST_PYTHON ?= $(CACHE)/test-python/bin/python

# `make setup CUDA=1` once is enough: what is built afterwards follows the libtorch that is linked.
# (Asked of the shell: make's own $(wildcard) remembers how the folder was before setup.)
FEATURES = $(if $(shell test -e "$(or $(LIBTORCH),.libtorch)/lib/libc10_cuda.so" && echo yes),--features cuda)

.DEFAULT_GOAL := run
.PHONY: help tools setup run dist dist-test test test-deps lint check-no-torch terraform book bench fuzz deny clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools:
	@for pair in $(firstword $(CARGO)):https://rustup.rs c++:build-essential $(firstword $(PYTHON)):python3; do \
		command -v "$${pair%%:*}" >/dev/null || { echo "$${pair%%:*} is missing; install $${pair#*:}" >&2; exit 1; }; \
	done

setup: tools ## fetch libtorch, once (CUDA=1 for NVIDIA GPUs, CUDA=0 back to the CPU)
	@$(PYTHON) scripts/setup.py $(if $(filter 1,$(CUDA)),--cuda) $(if $(filter 0,$(CUDA)),--cpu)

run: setup ## build, then run the whole system on this machine (ARGS="..." for `brigade demo`)
	$(CARGO) build --release $(FEATURES)
	@$(CARGO) run --quiet --release $(FEATURES) -- demo $(ARGS)

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

dist: setup ## build and pack a release into target/dist (ARGS=--with-libtorch: with CUDA's libraries, gigabytes)
	$(CARGO) build --release $(FEATURES)
	@CARGO="$(CARGO)" $(PYTHON) scripts/dist.py "$(TARGET_DIR)" $(ARGS)

dist-test: ## unpack the release that `make dist` made, and train with nothing else but glibc
	@scripts/dist-test.sh "$(TARGET_DIR)/dist"

test: setup test-deps lint check-no-torch terraform ## everything that must hold: format, lints, documentation, all tests
	$(CARGO) test --workspace --no-fail-fast $(FEATURES)
	@$(MAKE) --no-print-directory fuzz
	@command -v terraform >/dev/null || command -v tofu >/dev/null || echo "not tried, as Terraform is not installed: tests/terraform.rs"
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		echo "not tried, as Chromium is not installed: the browser of tests/screens.rs"

test-deps: tools ## install what the tests compare against: Ceph's object store, a Python with boto3
	@PYTHON="$(PYTHON)" scripts/test-deps.sh

lint: setup ## format, clippy and documentation, with warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets $(FEATURES) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --workspace --no-deps $(FEATURES)

check-no-torch: tools ## the roles that neither train nor score build without libtorch
	@if $(CARGO) tree --package brigade --no-default-features --edges normal,build --prefix none | grep '^torch-sys '; \
		then echo "brigade --no-default-features depends on libtorch" >&2; exit 1; fi
	$(CARGO) clippy --package brigade --no-default-features --all-targets -- -D warnings

terraform: ## format, types and tests of terraform/, where Terraform is installed
	@scripts/terraform.sh

# Beside what is built, not in the tree.
book: BOOK := $(abspath $(or $(CARGO_TARGET_DIR),target))/book
book: tools ## the documentation as a book; needs mdBook
	@if command -v mdbook >/dev/null; then $(PYTHON) scripts/book.py $(BOOK) && mdbook build $(BOOK) && echo "$(BOOK)/book/index.html"; \
	else echo "mdBook is not installed; to build it (minutes): cargo install --locked mdbook" >&2; exit 1; fi

bench: setup ## measure (ARGS="..." for `cargo bench`)
	$(CARGO) bench $(FEATURES) $(ARGS)

# What one run learns the next one begins with: it lies in the cache, and the seeds are only read. Built apart from the
# rest, because everything in it, dependencies too, counts the branches it takes.
fuzz: export CARGO_TARGET_DIR := $(abspath $(or $(addsuffix /fuzz,$(CARGO_TARGET_DIR)),fuzz/target))
fuzz: tools ## throw hostile bytes at what reads them (SECONDS=60 for each target)
	cd fuzz && $(CARGO) build --release --bins
	@cd fuzz && for target in $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs))); do \
		corpus="$(CACHE)/fuzz/$$target"; found=artifacts/$$target; mkdir -p "$$corpus" $$found; \
		if RUST_BACKTRACE=1 $(CARGO) run --quiet --release --bin $$target -- -max_total_time=$(SECONDS) -max_len=4096 \
			-rss_limit_mb=2048 -timeout=10 -dict=dict/$$target -artifact_prefix=$$found/ "$$corpus" seeds/$$target \
			>$$found/log 2>&1; then echo "fuzz $$target: $$(grep -a DONE $$found/log)"; continue; fi; \
		grep -a -A20 'panicked at\|ERROR: libFuzzer' $$found/log | head -30 >&2; input=$$(ls -t $$found/*-* | head -1); \
		echo "fuzz $$target: FAILED (fuzz/$$found/log) on fuzz/$$input; once more:" \
			"cd fuzz && RUST_BACKTRACE=1 $(CARGO) run --release --bin $$target $$input" >&2; exit 1; \
	done

deny: tools ## licences, sources and known flaws of the dependencies; needs cargo-deny
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --all-features check; \
	else echo "cargo-deny is not installed; to build it (minutes): cargo install --locked cargo-deny" >&2; exit 1; fi

clean: ## remove what was built and the demo's run; keep the downloads
	$(CARGO) clean
	rm -rf demo-run .libtorch fuzz/target
