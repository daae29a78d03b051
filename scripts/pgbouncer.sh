#!/usr/bin/env bash
# Prints the path of a PgBouncer that knows prepared statements (1.21 or newer), for the test of it: the installed one, or else that of
# Debian 13, built from its source once, outside of the work tree. Exit code 77: neither can be had here; standard error says why.
set -euo pipefail

is_new_enough() { # program
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/^PgBouncer \([0-9.]*\).*/\1/p') && [ -n "$version" ] || return 1
    printf '1.21\n%s\n' "$version" | sort --version-sort --check=quiet
}
cannot() {
    echo "$1. PgBouncer 1.21 or newer is needed (Debian 13: apt-get install pgbouncer)" >&2
    exit 77
}

PATH=$PATH:/usr/sbin
root=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/pgbouncer
for program in "$(command -v pgbouncer || true)" "$root/pgbouncer"; do
    if [ -n "$program" ] && is_new_enough "$program"; then
        echo "$program"
        exit 0
    fi
done

keys=/usr/share/keyrings/debian-archive-keyring.gpg
command -v apt-get >/dev/null && [ -e "$keys" ] || cannot "there is none, and no Debian whose source could be built"
needed=()
for header in event2/event.h:libevent-dev openssl/ssl.h:libssl-dev; do
    echo "#include <${header%:*}>" | gcc -E -x c - >/dev/null 2>&1 || needed+=("${header#*:}")
done
command -v pkg-config >/dev/null || needed+=(pkg-config)
if [ ${#needed[@]} -gt 0 ]; then
    [ "$(id -u)" -eq 0 ] || cannot "to build it takes ${needed[*]}, which only root can install"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}"; } >&2 \
        || cannot "${needed[*]} can't be installed"
fi

echo "building PgBouncer from the source of Debian 13 (once)" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source"
echo "deb-src [signed-by=$keys] http://deb.debian.org/debian trixie main" >"$work/sources.list"
apt() {
    apt-get -qq -o APT::Sandbox::User="$(id -un)" -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" "$@" >&2
}
# apt checks signature and checksum of what it fetches.
apt update && (cd "$work" && apt source --download-only pgbouncer) || cannot "its source can't be fetched"
tar --extract --file "$work"/pgbouncer_*.orig.tar.gz --directory "$work/source" --strip-components 1
(cd "$work/source" && ./configure --without-cares --without-pam --without-systemd && make --jobs 2 pgbouncer) >"$work/log" 2>&1 \
    || { tail -n 20 "$work/log" >&2 && cannot "it can't be built"; }
mkdir -p "$root"
mv "$work/source/pgbouncer" "$root/pgbouncer"
is_new_enough "$root/pgbouncer" || cannot "what was built is older"
echo "$root/pgbouncer"
