#!/usr/bin/env bash
# The operator's command as it is built: `scripts/holdfast.sh status`. $HOLDFAST wins over what is in the target folder.
set -euo pipefail

target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}
for holdfast in "${HOLDFAST:-}" "$target/release/holdfast" "$target/debug/holdfast"; do
    if [ -n "$holdfast" ] && [ -x "$holdfast" ]; then
        exec "$holdfast" "$@"
    fi
done
echo "holdfast is not built: run \`make build\`" >&2
exit 1
