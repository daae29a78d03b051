#!/usr/bin/env bash
# Everything CI runs: form, lints, dependencies, all tests. Ends with one line that counts the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$1"; }

step "disk"
# What a build from nothing and the stacks of the tests take; an existing build counts. Said first, because a compiler or a container
# engine that finds the disk full says so in many odd ways, after minutes.
needed=16
free=$(df --output=avail -B1G . | tail -n 1 | tr -d ' ')
built=$(du -s -BG "${CARGO_TARGET_DIR:-target}" 2>/dev/null | cut -dG -f1 || true)
echo "$free GB are free, and ${built:-0} GB are built"
if [ $((free + ${built:-0})) -lt "$needed" ] || [ "$free" -lt 4 ]; then
    echo "the tests need $needed GB with what they build, and 4 GB free at any time; \`cargo clean\` deletes what older builds left" >&2
    exit 1
fi

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

step "dependencies"
scripts/deny.sh

step "components"
scripts/components.sh

step "alerts"
scripts/alerts.sh

step "planted bugs"
# First: the build behind it links the normal programs again.
scripts/planted.sh

step "TLS to Kafka"
# As above: a build of its own, and before that of the normal programs.
status=0
scripts/kafka-tls.sh || status=$?
case $status in
0)
    cargo test -p holdfast-common --features kafka-tls --lib --locked kafka
    cargo test -p holdfast-e2e --features kafka-tls --locked --test kafka_tls
    ;;
3) echo "SKIPPED: all of TLS to Kafka, which takes OpenSSL's headers, see above" ;;
*) exit "$status" ;;
esac

step "build"
# Before the tests: those on the real stack start the binaries beside them.
cargo build --workspace --all-targets --locked

step "no bug is planted"
target=${CARGO_TARGET_DIR:-target}
for service in gateway order payment delivery; do
    # The text must be found where it is, or that it is not found would say nothing.
    grep --quiet HOLDFAST_PLANTED_BUG "$target/planted/holdfast-$service"
    if grep --quiet HOLDFAST_PLANTED_BUG "$target/debug/holdfast-$service"; then
        echo "holdfast-$service was built with the feature planted-bugs" >&2
        exit 1
    fi
done

step "kubernetes"
scripts/kubernetes.sh

step "secrets of OpenBao"
scripts/vault.sh

step "containers"
scripts/containers.sh

step "tests"
scripts/run-tests.sh
