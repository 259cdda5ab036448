# Entry points. `make help` lists them. Each works as the first command on a fresh clone.
#   CARGO_TARGET_DIR   where cargo builds, if set
#   SCATTER_CACHE      where RocksDB's one build is kept (default ~/.cache/scatter)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

# cargo with RocksDB, for whatever includes the node; plain cargo does for core and simulator.
CARGO := scripts/cargo.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)

SEEDS ?= 200
SEED ?=
ARGS ?=
MODEL ?=

.PHONY: help deps deps-lint run test verify fmt-check fmt clippy doc deny fix settings sim processes planted model loom bench bench-groups scale churn clean

# verify's steps go one after the other: each uses every core.
.NOTPARALLEL:

help: ## Lists the targets
	@echo "Scatter: targets"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	    || sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  \1  \2/p' $(MAKEFILE_LIST)

deps: ## Installs what the build needs, if it is missing
	@scripts/deps.sh

deps-lint:
	@scripts/deps.sh lint

run: deps ## Builds and runs a local cluster: three nodes, a gateway, the admin page
	@$(CARGO) build -p scatter-node -p scatter-gateway -p scatter-admin
	@exec scripts/run.sh

# Tests of scatter-e2e start the programs, which must be there and up to date.
BUILD_TESTS := $(CARGO) build --workspace --bins --tests
PROGRAMS := SCATTER_PROGRAMS="$(abspath $(TARGET))/debug"
NEXTEST := cargo nextest --version >/dev/null 2>&1

test: deps ## Runs every test; ARGS goes to the test runner
	@$(CARGO) test --workspace --doc --quiet
	@$(BUILD_TESTS)
	@if $(NEXTEST); then \
	    $(PROGRAMS) exec $(CARGO) nextest run --workspace $(ARGS); \
	else \
	    $(CARGO) test --workspace --exclude scatter-e2e --lib --bins --tests --no-fail-fast $(ARGS); \
	    $(MAKE) processes; \
	fi

verify: fmt-check clippy doc deny test ## All that a change must pass: format, lints, docs, licences, tests, simulator
	@$(MAKE) loom
	@$(MAKE) sim SEEDS=$(SEEDS)
	@echo "verify: everything passed"

fmt-check: deps-lint
	cargo fmt --all --check

fmt: deps-lint ## Formats the code
	cargo fmt --all

clippy: deps-lint
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p scatter-sim -p scatter-core --all-targets --features scatter-sim/planted -- -D warnings

doc: deps
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

deny:
	@if cargo deny --version >/dev/null 2>&1; then \
	    cargo deny check bans licenses sources; \
	else \
	    echo "deny: cargo-deny is not installed; licences and sources of dependencies were not checked"; \
	fi

fix: deps-lint ## Formats, and applies clippy's suggestions
	cargo fmt --all
	$(CARGO) clippy --fix --allow-dirty --allow-staged --workspace --all-targets
	cargo fmt --all

settings: deps ## Brings the settings of the sample files into docs/operations.md
	WRITE_SETTINGS=1 cargo test -q -p scatter-service --test settings_reference

sim: deps ## Simulates SEEDS=200 fault schedules, or replays SEED=n with its trace
	@exec cargo run -q -p scatter-sim -- run $(if $(SEED),--seed $(SEED) --trace,--seeds $(SEEDS)) $(ARGS)

processes: deps ## Runs only those tests that start real processes: kills, pauses, damage, full disks
	@$(BUILD_TESTS)
	@if $(NEXTEST); then \
	    $(PROGRAMS) exec $(CARGO) nextest run --workspace --filterset 'package(scatter-e2e) + (package(scatter-churn) & kind(test))' $(ARGS); \
	else \
	    $(PROGRAMS) RUST_TEST_THREADS=1 exec $(CARGO) test --workspace --test processes $(ARGS); \
	fi

planted: deps ## Shows that the simulator catches every planted bug
	@exec cargo run -q --target-dir "$(TARGET)/planted" -p scatter-sim --features planted -- planted $(ARGS)

model: deps ## Explores the model of the operations between groups, every state of it (minutes; MODEL=planted shows the mistakes)
	@exec cargo run -q --release -p scatter-model -- $(MODEL) $(ARGS)

loom: deps ## Checks the read word under every interleaving of threads
	RUSTFLAGS="--cfg loom" cargo test --release --target-dir "$(TARGET)/loom" -p scatter-core \
	    --test loom_read_word $(ARGS)

bench: deps ## Measures Scatter against etcd and rewrites docs/benchmarks.md
	@exec scripts/bench.sh $(ARGS)

bench-groups: deps ## Measures what groups cost, split, merge and replace their dead; rewrites its part of docs/benchmarks.md
	@$(CARGO) build --release -p scatter-node -p scatter-gateway -p scatter-admin -p scatter-bench
	@exec "$(TARGET)/release/scatter-bench" groups --made-by 'make bench-groups$(if $(ARGS), ARGS="$(ARGS)")' \
	    --json "$(TARGET)/release/groups.json" --write docs/benchmarks.md $(ARGS)

scale: deps ## Models a ring of 100,000 groups and rewrites its part of docs/benchmarks.md
	@exec cargo run --release -p scatter-scale -- --write $(ARGS)

churn: deps ## Kills and replaces real nodes under load for two minutes; ARGS="--duration 1h --median-lifetime 10m"
	@$(CARGO) build -p scatter-churn -p scatter-node -p scatter-gateway -p scatter-admin
	@exec "$(TARGET)/debug/scatter-churn" --out "$(TARGET)/churn" $(ARGS)

clean: ## Removes what was built; data/ stays
	cargo clean
