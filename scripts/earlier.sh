#!/usr/bin/env bash
# Builds the services of an earlier commit, for `holdfast chaos run --scenario upgrade --from DIR`, and prints the folder of their
# programs. Does nothing else if they are there.
#
#   scripts/earlier.sh [COMMIT]
#
# PROFILE is `release` or `dev`: by default that of the build that scripts/holdfast.sh would run, whose dependencies are shared.
set -euo pipefail
cd "$(dirname "$0")/.."

# The oldest one whose programs run in today's stack; docs/chaos-upgrade.md says why none before it does.
name=${1:-5e7cb11}
if ! commit=$(git rev-parse --verify --quiet "$name^{commit}"); then
    echo "there is no commit $name here; a shallow clone gets it by \`git fetch --unshallow\`" >&2
    exit 1
fi
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
profile=${PROFILE:-$([ -x "$target/release/holdfast" ] && echo release || echo dev)}
output=$profile
[ "$profile" != dev ] || output=debug
programs=$target/earlier/$output-${commit:0:12}
if [ -d "$programs" ]; then
    echo "$programs"
    exit 0
fi

work=$programs.build
source=$work/source
mkdir -p "$work"
if [ ! -d "$source" ]; then
    git worktree add --quiet --force --detach "$source" "$commit"
fi
# What is not ours is compiled once: deps as links, because nothing is ever written into a library that is there; the rest as
# copies, with their times, by which Cargo knows that they are fresh.
if [ ! -d "$work/target" ] && [ -d "$target/$output/deps" ]; then
    echo "sharing the dependencies of $target/$output" >&2
    mkdir -p "$work/seed/$output"
    cp -a --link "$target/$output/deps" "$work/seed/$output/"
    cp -a "$target/$output/build" "$target/$output/.fingerprint" "$work/seed/$output/"
    find "$work/seed/$output" -mindepth 2 -maxdepth 2 -name '*holdfast*' -exec rm -rf {} +
    mv "$work/seed" "$work/target"
fi

services=(gateway order payment delivery)
(
    cd "$source"
    CARGO_TARGET_DIR=$work/target cargo build --locked --profile "$profile" "${services[@]/#/--package=holdfast-}" >&2
)
mkdir -p "$work/programs"
for service in "${services[@]}"; do
    mv "$work/target/$output/holdfast-$service" "$work/programs/"
done
# Only what is whole gets the name that is looked for.
mv "$work/programs" "$programs"
git worktree remove --force "$source"
rm -rf "$work"
echo "$programs"
