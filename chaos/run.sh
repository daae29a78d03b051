#!/usr/bin/env bash
# A chaos run on a stack of its own: chaos/run.sh --scenario kill-kafka --seed 7
set -euo pipefail
holdfast="${HOLDFAST:-$(dirname "$0")/../target/release/holdfast}"
exec "$holdfast" chaos run "$@"
