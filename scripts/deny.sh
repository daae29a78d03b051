#!/usr/bin/env bash
# Licences, bans and sources of all dependencies (deny.toml). Builds cargo-deny once, outside of the work tree.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
root=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/cargo-deny-$version
deny=$root/bin/cargo-deny
if [ ! -x "$deny" ]; then
    echo "building cargo-deny $version (once)"
    # Unoptimised: it runs for a second, and an optimised build takes minutes longer.
    cargo install cargo-deny --version "$version" --locked --debug --no-default-features --quiet \
        --target-dir "$root/target" --root "$root"
    rm -rf "$root/target"
fi
# Advisories are left out: their database comes by Git, which a machine with package registries only can't reach.
"$deny" --all-features --locked check bans licenses sources
