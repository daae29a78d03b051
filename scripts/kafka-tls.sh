#!/usr/bin/env bash
# Builds the services and the command with TLS to Kafka (docs/adr/0016-tls-to-kafka.md) into target/kafka-tls. The next normal build
# links its own programs again; beside our own crates only the Kafka client is built twice. Needs OpenSSL's headers (Debian: libssl-dev);
# 3 if they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! pkg-config --exists 'openssl >= 3'; then
    echo "OpenSSL 3 with its headers is missing: install it (Debian: apt-get install libssl-dev pkg-config), then run this again" >&2
    exit 3
fi
target=${CARGO_TARGET_DIR:-target}
programs=(holdfast holdfast-console holdfast-gateway holdfast-order holdfast-payment holdfast-delivery)
# The gateway has no client of Kafka.
cargo build --locked "${programs[@]/#/--package=}" \
    --features holdfast/kafka-tls,holdfast-order/kafka-tls,holdfast-payment/kafka-tls,holdfast-delivery/kafka-tls,holdfast-console/kafka-tls "$@"
mkdir -p "$target/kafka-tls"
folder=debug
for argument in "$@"; do
    [ "$argument" = --release ] && folder=release
done
for program in "${programs[@]}"; do
    # A new file: one that runs can't be written to.
    cp --remove-destination "$target/$folder/$program" "$target/kafka-tls/$program"
done
echo "$target/kafka-tls"
