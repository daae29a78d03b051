#!/usr/bin/env bash
# Prints the folder that has `prometheus` and `promtool`: those of this machine, or those of Debian's package, which is unpacked
# once, not installed, because it would start a server. Exit code 3, with the reason, where they can't be had.
set -euo pipefail

if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
    dirname "$(command -v promtool)"
    exit
fi
folder=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/prometheus
if [ ! -x "$folder/usr/bin/promtool" ]; then
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        echo "no promtool, and no apt-get to fetch the package prometheus with" >&2
        exit 3
    fi
    echo "fetching Prometheus (once, 19 MB)" >&2
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    if ! (cd "$download" && timeout 300 apt-get download prometheus) >/dev/null 2>&1; then
        echo "the package prometheus can't be fetched (run apt-get update?)" >&2
        exit 3
    fi
    # Moved when it is whole: several may do this at once.
    dpkg-deb --fsys-tarfile "$download"/prometheus_*.deb | tar -x -C "$download" ./usr/bin
    mkdir -p "$folder/usr/bin"
    mv -f "$download"/usr/bin/* "$folder/usr/bin/"
fi
echo "$folder/usr/bin"
