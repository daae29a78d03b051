#!/usr/bin/env bash
# Tests the alert rules of deploy/prometheus with promtool: that they can be read, and that each stays quiet, fires and ends when it
# should; and that the boards of deploy/grafana are what their script writes. SKIPPED, with the reason, where promtool can't be had;
# 1 if a check fails.
#
#   scripts/alerts.sh
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/slo.py | cmp - deploy/prometheus/slo.rules.yml || {
    echo "deploy/prometheus/slo.rules.yml is not what scripts/slo.py writes" >&2
    exit 1
}
boards=$(mktemp -d)
trap 'rm -rf "$boards"' EXIT
scripts/dashboards.py "$boards"
diff -r "$boards" deploy/grafana || {
    echo "deploy/grafana is not what scripts/dashboards.py writes" >&2
    exit 1
}
status=0
programs=$(scripts/prometheus.sh) || status=$?
if [ "$status" -eq 3 ]; then
    echo "SKIPPED: the rules are not tested, see above"
    exit 0
fi
[ "$status" -eq 0 ]
"$programs/promtool" check rules deploy/prometheus/*.rules.yml >/dev/null
"$programs/promtool" test rules deploy/prometheus/tests/*.test.yml
