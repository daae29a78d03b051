#!/usr/bin/env bash
# Kills parts of a stack under load, and judges what held: chaos/run.sh --scenario kill-kafka --seed 7
# Takes the options of `holdfast chaos run`; see `holdfast chaos run --help` and `holdfast chaos list`.
set -euo pipefail
exec "$(dirname "$0")/../scripts/holdfast.sh" chaos run "$@"
