#!/usr/bin/env bash
# Builds the services with the bugs that can be planted in them (common/src/planted.rs), and puts them with the command into
# target/planted. The next normal build links its own programs again; nothing else is built twice but our own crates.
set -euo pipefail
cd "$(dirname "$0")/.."

services=(gateway order payment delivery)
packages=(-p holdfast)
features=()
for service in "${services[@]}"; do
    packages+=(-p "holdfast-$service")
    features+=("holdfast-$service/planted-bugs")
done
cargo build --locked "${packages[@]}" --features "$(IFS=,; echo "${features[*]}")"

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/planted"
for program in holdfast "${services[@]/#/holdfast-}"; do
    # A new file: one that runs can't be written to.
    cp --remove-destination "$target/debug/$program" "$target/planted/$program"
done
echo "$target/planted"
