#!/usr/bin/env bash
# Does the simulator catch what it should? Puts each deliberate fault of this folder into a scratch copy of the project, runs seeds until one breaks
# a rule, and says how many that took:  p2p-simulator/mutations/run.sh [NAME...]
set -euo pipefail
cd "$(dirname "$0")/../.."

seeds=${SEEDS:-5000}
seconds=${SECONDS_EACH:-120}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Kept, so that the next run compiles little.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/mutations}

names=("$@")
if [ ${#names[@]} = 0 ]; then
    for patch in p2p-simulator/mutations/*.patch; do
        names+=("$(basename "$patch" .patch)")
    done
fi

git ls-files -z | xargs -0 cp --parents -t "$scratch"
cd "$scratch"
missed=0
printf '%-28s %8s  %s\n' fault seeds 'what was broken'
for name in "${names[@]}"; do
    patch -s -p1 <"p2p-simulator/mutations/$name.patch"
    cargo build --quiet --locked -p p2p-simulator
    said=$("$CARGO_TARGET_DIR/debug/p2p-simulator" run --seeds "$seeds" --seconds "$seconds" 2>&1) && caught=no || caught=yes
    ran=$(sed -n 's/^\([0-9]*\) seeds in .*/\1/p' <<<"$said")
    if [ $caught = yes ]; then
        printf '%-28s %8s  %s\n' "$name" "$ran" "$(sed -n 's/^seed [0-9]* broke //p' <<<"$said" | head -1 | cut -c1-90)"
    else
        printf '%-28s %8s  %s\n' "$name" "$ran" 'NOT CAUGHT'
        missed=$((missed + 1))
    fi
    patch -s -R -p1 <"p2p-simulator/mutations/$name.patch"
done
exit "$missed"
