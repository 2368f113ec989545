# Everything a person or CI does with this repository. `make demo` and `make test` start from a
# bare Debian or Ubuntu machine.

ISOL8 := ./target/release/isol8

.PHONY: demo test test-valkey build setup check bench chaos

## Set everything up and run one program of each runtime through HTTP.
demo: setup
	sh examples/five-runtimes.sh $(ISOL8)

## Set everything up, gVisor too, and run all checks and tests.
test: SETUP_FLAGS := --gvisor
test: setup check
	command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
	cargo build --locked --workspace --bins
	cargo nextest run --workspace --locked --no-fail-fast

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

## Measure: rewrites docs/performance/.
bench: setup
	cargo build --release --locked --package loadtest
	sh loadtest/suite.sh

## Have everything fail under load for ten minutes, and check that nothing was lost or doubled.
chaos: setup
	cargo run --release --locked --package tests --bin chaos
