#!/bin/sh
# Builds what is measured, and prints one table: benches/run.sh [links] [functions] [commands] [blobs] [idle] [wan]
set -eu
cd "$(dirname "$0")/.."
cargo build --release -p p2p-cli -p benches
for program in parallel ssh-keygen python3 twist3 rsync wormhole-william; do
    command -v "$program" > /dev/null || echo "run.sh: $program is missing, so its rows are; on Debian: apt install parallel openssh-client python3 magic-wormhole-transit-relay python3-magic-wormhole-mailbox-server rsync wormhole-william" >&2
done
exec "${CARGO_TARGET_DIR:-target}/release/benches" "$@"
