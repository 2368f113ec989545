# Everything a person or CI does with this repository. `make demo` and `make test` start from a
# bare Debian or Ubuntu machine.

ISOL8 := ./target/release/isol8

# How long `make fuzz` runs each target, and which.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))

# What `make test` runs in gVisor: both security suites, in sandboxes that are used again.
GVISOR_TESTS := (binary(escapes) | binary(leaks)) & not test(where_no_sandbox_is_used_again)
# And what `make test-gvisor` does: the same where no sandbox is used again, and of the other tests the core, but for what looks
# at a container's control group or asks the GNU tools for details of files, which an older gVisor has not.
GVISOR_CORE := binary(isolation) | binary(api) \
  | (binary(jobs) & (test(programs_of_every_runtime) | test(many_at_once) | test(secrets_do_not))) \
  | (binary(streams) & (test(programs_stream) | test(output_comes) | test(input_and_signals) | test(secrets_and_limits) | test(sessions_stream))) \
  | (binary(limits) & (test(output) | test(time)))

.PHONY: demo test test-gvisor test-valkey build setup check deny bench chaos fuzz

## Set everything up and run one program of each runtime through HTTP.
demo: setup
	sh examples/five-runtimes.sh $(ISOL8)

## Set everything up, gVisor too, and run all checks and tests.
test: SETUP_FLAGS := --gvisor
test: setup check
	command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
	cargo build --locked --workspace --bins
	cargo nextest run --workspace --locked --no-fail-fast
	ISOL8_TEST_ISOLATION=gvisor cargo nextest run --workspace --locked --no-fail-fast --profile gvisor -E '$(GVISOR_TESTS)'

## Run both security suites whole, and the core of the other tests, in gVisor: half an hour, as most jobs have a sandbox of their own.
test-gvisor: SETUP_FLAGS := --gvisor
test-gvisor: setup
	command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
	cargo build --locked --workspace --bins
	ISOL8_TEST_ISOLATION=gvisor cargo nextest run --workspace --locked --no-fail-fast --profile gvisor \
	  -E 'binary(escapes) | binary(leaks) | $(GVISOR_CORE)'

## Run the queue's tests against the Valkey that is installed.
test-valkey:
	mkdir -p target/valkey
	ln -sf "$$(command -v valkey-server)" target/valkey/redis-server
	PATH="$(CURDIR)/target/valkey:$$PATH" cargo nextest run --package shared --locked -E 'binary(queue)'

## Build tools first: nothing else can be built without them.
build:
	sh deploy/bootstrap.sh
	cargo build --release --locked --package cli

setup: build
	$(ISOL8) setup $(SETUP_FLAGS)

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings

## Licences, origins and bans of all dependencies; where the network allows it, `cargo deny check advisories` too.
deny:
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check licenses bans sources
	cargo deny --locked --config deny.toml --manifest-path fuzz/Cargo.toml check --allow unused-wrapper licenses bans sources

## Fuzz each target for FUZZ_SECONDS. Stable Rust will do: it is told to let sanitizers be used.
fuzz:
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target || exit 1; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 || exit 1; \
	done

## Measure: rewrites docs/performance/.
bench: setup
	cargo build --release --locked --package loadtest
	sh loadtest/suite.sh

## Have everything fail under load for ten minutes, and check that nothing was lost or doubled.
chaos: setup
	cargo run --release --locked --package tests --bin chaos
