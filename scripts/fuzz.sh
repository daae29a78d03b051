#!/usr/bin/env bash
# Makes up input for whatever strangers reach, for a given time each, and ends with the first property that fails, whose input proptest prints.
# `cargo test` tries 256 inputs of each property.
#
#   scripts/fuzz.sh [SECONDS [MODULE...]]
#
# SECONDS is how long each group goes on at least, by default 600; with MODULEs only those groups.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
chosen=" ${*:2} "
export PROPTEST_CASES=${PROPTEST_CASES:-2000}

# A package and the module of its properties: bodies, orders, parameters, tokens, problem documents; bytes of a connection, heads, PROXY headers.
groups=(
    "gateway http::json::fuzz"
    "gateway api::orders::create::fuzz"
    "gateway api::params::fuzz"
    "gateway auth::token::fuzz"
    "gateway problem::render::fuzz"
    "common http::tests::fuzz"
    "common http::scanner::fuzz"
    "common http::proxy"
)

cargo test --workspace --locked --lib --no-run
ran=0
for group in "${groups[@]}"; do
    read -r package module <<<"$group"
    [[ $chosen = "  " || $chosen == *" $module "* ]] || continue
    program=$(cargo test --workspace --locked --lib --no-run 2>&1 |
        sed -nE "s|.*\((.*/deps/holdfast_$package-[0-9a-f]+)\)|\1|p")
    program=$(realpath "$program")
    end=$((SECONDS + seconds))
    rounds=0
    properties=0
    until [ "$SECONDS" -ge "$end" ]; do
        said=$(cd "$package" && "$program" "$module" 2>&1) || {
            printf '%s\n' "$said"
            echo "FAILED: $module of $package, after $rounds rounds of $PROPTEST_CASES inputs" >&2
            exit 1
        }
        properties=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' <<<"$said")
        if [ "$properties" -eq 0 ]; then
            echo "there is no test $module in $package any more: correct the list in $0" >&2
            exit 1
        fi
        rounds=$((rounds + 1))
    done
    echo "$package $module: $properties tests, $((rounds * PROPTEST_CASES)) inputs each, none failed"
    ran=$((ran + 1))
done
if [ "$ran" -eq 0 ]; then
    echo "no group is called so: $0 has their names" >&2
    exit 2
fi
