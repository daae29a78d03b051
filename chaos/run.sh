#!/usr/bin/env bash
# Kills parts of a stack under load, and judges what held: chaos/run.sh --scenario kill-kafka --seed 7
# Takes the options of `holdfast chaos run`; see `holdfast chaos run --help` and `holdfast chaos list`.
set -euo pipefail

target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}
for holdfast in "${HOLDFAST:-}" "$target/release/holdfast" "$target/debug/holdfast"; do
    if [ -n "$holdfast" ] && [ -x "$holdfast" ]; then
        exec "$holdfast" chaos run "$@"
    fi
done
echo "holdfast is not built: run \`make build\`" >&2
exit 1
