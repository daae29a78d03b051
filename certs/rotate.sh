#!/usr/bin/env bash
# Renews every certificate of the running stack, or replaces its authority (--ca), without a failed request.
# Takes the options of `holdfast certs rotate`; see `holdfast certs rotate --help`.
set -euo pipefail
cd "$(dirname "$0")/.."
exec scripts/holdfast.sh certs rotate "$@"
