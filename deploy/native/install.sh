#!/usr/bin/env bash
# Installs what the native stack and its build need and this machine lacks. Says what it does; does nothing if
# everything is there. Works as root, and as a user with sudo; elsewhere it says what is missing.
set -euo pipefail

missing=()
need() { # command, Debian package
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need gcc gcc
need make make
need bash bash
need curl curl
need tar tar
need xz xz-utils
need unzip unzip
need pkill procps
need mvn maven
# For `holdfast up --with redis`, and the tests of it.
need redis-server redis-server
# librdkafka's gzip support.
echo '#include <zlib.h>' | gcc -E -x c - >/dev/null 2>&1 || missing+=(zlib1g-dev libc6-dev)

java_major() {
    java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}
if ! command -v java >/dev/null 2>&1 || [ "$(java_major)" -lt 17 ] 2>/dev/null; then
    missing+=(openjdk-17-jre-headless)
fi

# For scripts/kafka-tls.sh and its tests: an opt-in, without which everything else is built and run.
optional=()
command -v pkg-config >/dev/null 2>&1 || optional+=(pkg-config)
echo '#include <openssl/ssl.h>' | gcc -E -x c - >/dev/null 2>&1 || optional+=(libssl-dev)

sudo=()
cannot=
if ! command -v apt-get >/dev/null 2>&1; then
    cannot="there is no apt here: install these (named as in Debian) by your system's own means, then run this again"
elif [ "$(id -u)" -ne 0 ]; then
    sudo=(sudo)
    command -v sudo >/dev/null 2>&1 || cannot="neither root nor sudo: ask somebody who may to run apt-get install"
fi

# Says what is missing; fails if it can't be installed.
announce() { # Debian packages
    echo "missing on this machine: $*" >&2
    [ -z "$cannot" ] || { echo "$cannot" >&2 && return 1; }
}
install() { # Debian packages
    "${sudo[@]}" apt-get update -qq \
        && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

if [ ${#missing[@]} -gt 0 ]; then
    announce "${missing[@]}"
    # Debian starts a service as soon as it is installed, and at each boot; stacks start their own Redis, on the same port. A policy
    # that is there already is the machine's own.
    redis=no
    policy=/usr/sbin/policy-rc.d
    if [[ " ${missing[*]} " == *" redis-server "* ]]; then
        redis=yes
        if [ ! -e "$policy" ]; then
            trap '"${sudo[@]}" rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
            "${sudo[@]}" chmod 755 "$policy"
        fi
    fi
    install "${missing[@]}"
    if [ "$redis" = yes ] && command -v systemctl >/dev/null 2>&1; then
        now=()
        [ -d /run/systemd/system ] && now=(--now)
        "${sudo[@]}" systemctl disable --quiet "${now[@]}" redis-server || echo "redis-server could not be disabled: it starts at boot" >&2
    fi
fi
if [ ${#optional[@]} -gt 0 ] && ! { announce "${optional[@]}" && install "${optional[@]}"; }; then
    echo "without these there is no TLS to Kafka (docs/kafka.md), and its tests are skipped; nothing else needs them" >&2
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing: install rustup (https://rustup.rs), which brings the version that rust-toolchain.toml names" >&2
    exit 1
fi
