#!/usr/bin/env bash
# Proves the checker: plants each bug of common/src/planted.rs and expects the invariants that it breaks to be found; expects no
# finding without a bug, and none when services crash at their durable steps. docs/chaos-proof.md has the figures.
#
#   chaos/prove.sh [--seeds N] [BUG | control:SCENARIO | crash]...      everything, if nothing is named
#
# Evidence and reports go to target/planted/proof. Exits 1 if anything is not as expected.
set -euo pipefail
cd "$(dirname "$0")/.."

planted=${CARGO_TARGET_DIR:-target}/planted
# Above the ports that the kernel gives to outgoing connections, which may be taken when a stack starts.
port_offset=${PORT_OFFSET:-12000}
first_seed=${FIRST_SEED:-11}

# What is planted, in which scenario it shows, and which invariants must find it: one of them is enough.
cases='
address-in-log          proof-quiet      I13
balance-without-entry   proof-quiet      I5
blocked-not-parked      proof-poison     I9
breaker-never-closes    proof-breaker    I14
consumer-never-rejoins  proof-pause      I14
delivery-without-payment proof-quiet     I6
dropped-refund          proof-quiet      I4,I5
foreign-read            proof-quiet      I11
new-key-on-retry        proof-kill       I2
no-inbox                proof-databases  I8
no-retry-after          proof-kill       I12
outbox-after-last-id    proof-quiet      I3,I8
outbox-delete-before-ack proof-kill      I3,I8
poison-dropped          proof-poison     I9
position-before-commit  proof-kill       I3,I8
status-goes-back        proof-quiet      I10
control:quiet           proof-quiet      -
control:kill            proof-kill       -
control:databases       proof-databases  -
control:pause           proof-pause      -
control:poison          proof-poison     -
crash                   proof-crash      -
'

seeds=1
wanted=()
while [ $# -gt 0 ]; do
    case $1 in
        --seeds) seeds=$2; shift ;;
        -*) sed -n '2,7p' "$0" >&2; exit 2 ;;
        *) wanted+=("$1") ;;
    esac
    shift
done
if [ ! -x "$planted/holdfast" ]; then
    echo "$planted/holdfast is not there: scripts/planted.sh builds it" >&2
    exit 2
fi
for name in ${wanted[@]+"${wanted[@]}"}; do
    if ! grep -q "^$name " <<<"$cases"; then
        echo "there is no $name" >&2
        exit 2
    fi
done

# Runs one case with one seed; sets code, violated and crashes.
run() { # name, scenario, seed
    local folder=$planted/proof/$1-$3 bug=$1
    rm -rf "$folder" "$folder.crashes"
    mkdir -p "$planted/proof" "$folder.crashes"
    case $bug in control:* | crash) bug= ;; esac
    code=0
    HOLDFAST_PLANTED_BUG=$bug HOLDFAST_CRASH_POINTS=$(realpath "$folder.crashes") \
        "$planted/holdfast" chaos run --scenario "$2" --seed "$3" --port-offset "$port_offset" --report "$folder" \
        >"$folder.txt" 2>"$folder.log" || code=$?
    violated=$(awk '$1 == "FAIL" && $2 ~ /^I[0-9]+$/ { printf "%s%s", sep, $2; sep = " " }' "$folder.txt")
    crashes=0
    [ ! -e "$folder.crashes/crashes" ] || crashes=$(wc -l <"$folder.crashes/crashes")
}

# Whether the run shows what its case is to show.
is_as_expected() { # name, expected invariants
    local invariant
    case $1 in
        # An unknown verdict is the machine's: it is too slow. A wrong finding would be the checker's.
        control:*) [ "$code" -eq 0 ] || [ "$code" -eq 5 ] ;;
        crash) { [ "$code" -eq 0 ] || [ "$code" -eq 5 ]; } && [ "$crashes" -gt 0 ] ;;
        *)
            [ "$code" -eq 1 ] || return 1
            for invariant in ${2//,/ }; do
                case " $violated " in *" $invariant "*) return 0 ;; esac
            done
            return 1
            ;;
    esac
}

failed=0
printf '%-26s %-17s %-11s %-9s %s\n' planted scenario as-expected seconds violated
while read -r name scenario expected; do
    [ -n "$name" ] || continue
    if [ ${#wanted[@]} -gt 0 ] && ! printf '%s\n' "${wanted[@]}" | grep -qx "$name"; then
        continue
    fi
    found=0
    all=""
    begin=$SECONDS
    for ((seed = first_seed; seed < first_seed + seeds; seed++)); do
        run "$name" "$scenario" "$seed" </dev/null
        if is_as_expected "$name" "$expected"; then
            found=$((found + 1))
        else
            failed=1
        fi
        note=${violated:-none}
        [ -e "$planted/proof/$name-$seed/report.json" ] || note="no report, see $planted/proof/$name-$seed.log"
        [ "$code" -le 1 ] || note="$note (exit code $code)"
        [ "$name" != crash ] || note="$note, $crashes crashes"
        all="$all${all:+; }$note"
    done
    printf '%-26s %-17s %-11s %-9s %s\n' "$name" "$scenario" "$found of $seeds" "$(((SECONDS - begin) / seeds))" "$all"
done <<<"$cases"
exit "$failed"
