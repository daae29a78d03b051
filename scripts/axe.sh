#!/usr/bin/env bash
# Prints where axe-core is, which finds what keeps people out of a page; only a test uses it. Fetches it once, outside of the work tree,
# and checks that it is the one that is meant. Exit code 77: it can't be had here.
set -euo pipefail

version=4.14.1
sha256=29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
root=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/axe-core-$version
file=$root/package/axe.min.js
if [ ! -e "$file" ]; then
    echo "fetching axe-core $version (once)" >&2
    mkdir -p "$root"
    if ! { cd "$root" && npm pack --silent "axe-core@$version" && tar -xzf "axe-core-$version.tgz"; } >&2; then
        exit 77
    fi
fi
echo "$sha256  $file" | sha256sum --check --status
echo "$file"
