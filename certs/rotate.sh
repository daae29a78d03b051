#!/usr/bin/env bash
# Renews every certificate of the running stack, or replaces its authority (--ca), without a failed request.
# Takes the options of `holdfast certs rotate`; see `holdfast certs rotate --help`.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
for holdfast in "${HOLDFAST:-}" "$target/release/holdfast" "$target/debug/holdfast"; do
    if [ -n "$holdfast" ] && [ -x "$holdfast" ]; then
        exec "$holdfast" certs rotate "$@"
    fi
done
echo "holdfast is not built: run \`make build\`" >&2
exit 1
