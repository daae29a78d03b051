#!/usr/bin/env bash
# Kills parts of a stack under load, and judges what held: chaos/run.sh --scenario kill-kafka --seed 7
# Takes the options of `holdfast chaos run`; see `holdfast chaos run --help` and `holdfast chaos list`.
# The scenario `upgrade` begins with the programs of an earlier commit, which are built first: EARLIER, or that of
# scripts/earlier.sh.
set -euo pipefail
scripts=$(dirname "$0")/../scripts

case " $* " in
    *" --from "* | *" --from="* | *" --help "* | *" -h "*) ;;
    *" --scenario upgrade "* | *" --scenario=upgrade "*)
        from=$("$scripts/earlier.sh" ${EARLIER:+"$EARLIER"})
        set -- "$@" --from "$from"
        ;;
esac
exec "$scripts/holdfast.sh" chaos run "$@"
