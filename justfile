# The commands of CONTRIBUTING.md by name. Nothing needs this file.

# List the recipes
default:
    @just --list

# A newcomer's first look
demo:
    cargo run --release -- demo

# Everything that a change must pass
ci:
    .ci/run

test *args:
    cargo test --workspace {{args}}

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets -- -D warnings

doc *args:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps {{args}}

bench *args:
    cargo bench -p annals-benches {{args}}

# What the index costs, for each event and each look-up
bench-index:
    cargo run --release -p annals-store --example index_cost

# The test that holds docs/format.md to the code
format:
    cargo test -p annals-tests --test format

# The command, built with optimization
build:
    cargo build --release

# Orders of threads: 300 of each exploration, or ANNALS_SCHEDULES
schedules *args:
    RUSTFLAGS="--cfg annals_shuttle" cargo test -p annals-tests --test schedules --target-dir target/shuttle {{args}}

# Look for inputs that fail, with cargo-fuzz on nightly: `just fuzz recovery 60`
fuzz target seconds="20":
    mkdir -p fuzz/found/{{target}}
    cargo +nightly fuzz run {{target}} fuzz/found/{{target}} fuzz/corpus/{{target}} -- -max_total_time={{seconds}} -max_len=4096
