#!/usr/bin/env bash
# Runs all tests, several targets at a time: those on the real stack wait more than they compute, and each has a stack of its own.
# Prints the output of each when it has ended, and at last how many tests passed and failed; 1 if one failed, or if a target did not run.
#
#   scripts/run-tests.sh [LANES]
#
# LANES is how many targets run at a time, by default 2.
set -euo pipefail
cd "$(dirname "$0")/.."
lanes=${1:-2}

logs=$(mktemp -d)
export logs
trap 'rm -rf "$logs"' EXIT

# What there is to run, as cargo says it. The whole workspace each time: with fewer packages cargo chooses other features, and builds again.
cargo test --workspace --locked --no-run 2>&1 | tee "$logs/built"
mapfile -t names < <(sed -nE 's|^ *Executable tests/([a-z0-9_]+)\.rs .*|\1|p' "$logs/built" | sort -u)

# The longest first, so that none of them is left alone at the end.
longest=(chaos faults planted reconcile dead_letters live walks)
targets=()
for name in "${longest[@]}" "${names[@]}"; do
    case " ${names[*]} " in
    *" $name "*) [[ " ${targets[*]} " == *" --test=$name "* ]] || targets+=("--test=$name") ;;
    *) echo "there is no test $name any more: take it out of the list in $0" >&2; exit 1 ;;
    esac
done
targets+=("--lib --bins" --doc)

run() { # what to run, as arguments of cargo
    local log=$logs/${1//[^a-z0-9_]/}.log begin=$SECONDS status=0
    # shellcheck disable=SC2086  # several words
    cargo test --workspace --locked --no-fail-fast $1 >"$log" 2>&1 || status=$?
    flock "$logs/built" bash -c 'cat "$1"; echo "$2"; echo' - "$log" "-- $1: $((SECONDS - begin)) s, exit $status"
    [ "$status" -eq 0 ]
}
export -f run
status=0
printf '%s\0' "${targets[@]}" | xargs -0 -P "$lanes" -I{} bash -c 'run "$1"' - {} || status=1

sum() { cat "$logs"/*.log | awk -v field="$1" '/^test result:/ { sum += $field } END { print sum + 0 }'; }
passed=$(sum 4)
failed=$(sum 6)
built=$(grep -c '^ *Executable ' "$logs/built")
ran=$(cat "$logs"/*.log | grep -c '^ *Running ')
echo "$passed passed, $failed failed, in $ran of $built targets"
if [ "$passed" -eq 0 ] || [ "$ran" -ne "$built" ]; then
    echo "not everything ran" >&2
    exit 1
fi
exit "$status"
