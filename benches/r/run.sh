#!/usr/bin/env bash
# Measures futures of R on this machine beside R's own multisession and sequential plans, and prints a table:  benches/r/run.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --locked -p p2p-cli --bin p2p
export P2P_EXECUTABLE="${CARGO_TARGET_DIR:-$PWD/target}/release/p2p"
in_root=
[ "$(id -u)" != 0 ] || in_root=scripts/r-root
exec $in_root Rscript benches/r/bench.R "${1:-5}"
