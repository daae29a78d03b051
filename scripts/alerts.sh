#!/usr/bin/env bash
# Tests the alert rules of deploy/prometheus with promtool: that they can be read, and that each stays quiet, fires and ends when it
# should. SKIPPED, with the reason, where promtool can't be had; 1 if a check fails.
#
#   scripts/alerts.sh
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/promtool
promtool=$(command -v promtool || echo "$folder/usr/bin/promtool")
if [ ! -x "$promtool" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    # Unpacked, not installed: the package would start a server.
    echo "fetching promtool (once, 19 MB)"
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    if (cd "$download" && timeout 300 apt-get download prometheus) >/dev/null 2>&1; then
        rm -rf "$folder"
        mkdir -p "$folder"
        dpkg-deb --fsys-tarfile "$download"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/promtool
    fi
fi
if [ ! -x "$promtool" ]; then
    echo "SKIPPED: no promtool, and the package prometheus can't be fetched (run apt-get update?)"
    exit 0
fi

python3 scripts/slo.py | cmp - deploy/prometheus/slo.rules.yml || {
    echo "deploy/prometheus/slo.rules.yml is not what scripts/slo.py writes" >&2
    exit 1
}
"$promtool" check rules deploy/prometheus/*.rules.yml >/dev/null
"$promtool" test rules deploy/prometheus/tests/*.test.yml
