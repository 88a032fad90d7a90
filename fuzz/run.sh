#!/bin/sh
# Fuzzes every target for a while, from its kept corpus:  fuzz/run.sh SECONDS [TARGET...]
#
# New inputs go to a scratch folder that later runs go on from, never into the kept corpus. Exits non-zero when a target crashed,
# hung or used too much memory, and says how to replay. Once that is fixed, copy the input into `fuzz/corpus/TARGET/`: every
# ordinary test run replays what is there.
#
# Stable Rust is enough: the flags below are what libFuzzer needs of the compiler's coverage pass.
set -eu
cd "$(dirname "$0")/.."

all="board_line link_record handshake blob transit"
case ${1:-} in
    [1-9]*) seconds=$1; shift ;;
    *) echo "usage: $0 SECONDS [TARGET...]" >&2; exit 2 ;;
esac
targets=${*:-$all}

# An input, bytes: a full record and its direction, a few lines, a handshake message.
max_len() {
    case $1 in
        link_record) echo 65536 ;;
        board_line) echo 16384 ;;
        *) echo 4096 ;;
    esac
}

target_dir=${CARGO_TARGET_DIR:-target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks --cfg fuzzing"
# --target keeps these flags away from build scripts, which have no libFuzzer to link with.
cargo build --package fuzz --bins --features fuzzing --release --target "$host" --target-dir "$target_dir"
unset RUSTFLAGS

failed=""
for target in $targets; do
    program=$target_dir/$host/release/$target
    kept=fuzz/corpus/$target
    scratch=$target_dir/corpus/$target
    artifacts=$target_dir/artifacts/$target
    mkdir -p "$kept" "$scratch" "$artifacts"
    echo "== $target for $seconds s"
    "$program" -max_total_time="$seconds" -max_len="$(max_len "$target")" -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -timeout=10 -print_final_stats=1 -artifact_prefix="$artifacts/" "$scratch" "$kept" || {
        failed="$failed $target"
        echo "== $target FAILED; the input is the newest file of $artifacts; replay it with:" >&2
        echo "   $program $artifacts/$(ls -t "$artifacts" | head -n 1)" >&2
    }
done
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
