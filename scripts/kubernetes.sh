#!/usr/bin/env bash
# Checks deploy/kubernetes without a cluster: what is generated, what kustomize makes of each overlay, schemas, and rules of our own.
#
#   scripts/kubernetes.sh [--accept]
#
# --accept takes what the overlays are now as their snapshots. Tools of PyPI are installed once, outside of the work tree. What can't be
# checked here is SKIPPED, with the reason; 1 if a check fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONDONTWRITEBYTECODE=1

failed=0
skipped=0
step() { printf '\n== %s\n' "$1"; }
skip() {
    printf 'SKIPPED: %s\n' "$1"
    skipped=$((skipped + 1))
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast

# Prints the folder of an environment with what FILE lists; fails if it can't be installed.
environment() {
    local file=$1 folder
    folder=$cache/$(tr -c 'a-z0-9.\n' '-' < "$file" | head -n 1)
    if [ ! -e "$folder/installed" ]; then
        echo "installing $(head -n 1 "$file") (once)" >&2
        rm -rf "$folder"
        { python3 -m venv "$folder" \
            && timeout 600 "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$file" \
            && touch "$folder/installed"; } >&2 || return 1
    fi
    echo "$folder"
}

# Components need kustomize 5, which is in kubectl from 1.27 on; Debian's kubectl is older.
KUSTOMIZE_VERSION=v5.7.1
find_kustomize() {
    local version
    version=$(kubectl version --client 2>/dev/null | sed -n 's/^Kustomize Version: v\([0-9]*\).*/\1/p') || true
    if [ "${version:-0}" -ge 5 ]; then
        kustomize=(kubectl kustomize)
    elif kustomize version 2>/dev/null | grep -q '^v5'; then
        kustomize=(kustomize build)
    else
        local folder=$cache/kustomize-$KUSTOMIZE_VERSION
        if [ ! -x "$folder/kustomize" ]; then
            command -v go > /dev/null || return 1
            echo "building kustomize $KUSTOMIZE_VERSION (once)" >&2
            GOBIN=$folder go install "sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE_VERSION" >&2 || return 1
        fi
        kustomize=("$folder/kustomize" build)
    fi
}

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    skip "everything: needs Python 3.11"
    exit 0
fi

step "what is generated is what its tables say"
deploy/kubernetes/generate.py --check && echo "ok" || failed=1

step "overlays"
rendered=$work/rendered
mkdir "$rendered"
if find_kustomize; then
    for overlay in deploy/kubernetes/overlays/*/; do
        name=$(basename "$overlay")
        "${kustomize[@]}" "$overlay" > "$rendered/$name.yaml" || failed=1
        echo "$name: $(grep -c '^kind:' "$rendered/$name.yaml") objects"
    done
    # The components that no overlay has, and a Kafka that is there already, under the name that Strimzi would give it.
    mkdir "$work/existing"
    up=$(realpath --relative-to "$work/existing" deploy/kubernetes)
    cat > "$work/existing/kustomization.yaml" <<END
namespace: holdfast
resources: [$up/base, kafka.yaml]
components:
  - $up/components/cert-manager
  - $up/components/cloudnative-pg
  - $up/components/topics
  - $up/components/redis
  - $up/components/external-secrets
  - $up/components/identity-provider
END
    cat > "$work/existing/kafka.yaml" <<'END'
apiVersion: v1
kind: Service
metadata: {name: holdfast-kafka-bootstrap}
spec:
  clusterIP: None
  ports: [{name: plain, port: 9092}]
END
    cp "$work/existing/kustomization.yaml" "$rendered/existing.kustomization"
    "${kustomize[@]}" "$work/existing" > "$rendered/existing.yaml" || failed=1
    echo "existing: $(grep -c '^kind:' "$rendered/existing.yaml") objects"

    for component in deploy/kubernetes/components/*/; do
        grep -q "components/$(basename "$component")\$" deploy/kubernetes/overlays/*/kustomization.yaml "$work/existing/kustomization.yaml" \
            || { echo "FAILED: nothing that is checked has the component $(basename "$component")"; failed=1; }
    done

    step "schemas, rules, snapshots"
    if python=$(environment scripts/kubernetes/requirements.txt); then
        "$python/bin/python" scripts/kubernetes/check.py "$rendered" "$@" | tee "$work/checks.log" || failed=1
        skipped=$((skipped + $(grep -c '^SKIPPED' "$work/checks.log" || true)))
    else
        skip "schemas, rules and snapshots: $(head -n 1 scripts/kubernetes/requirements.txt) can't be installed here"
    fi

    step "checkov"
    if checkov=$(environment scripts/kubernetes/checkov-requirements.txt); then
        # Its exit code says that there are findings; what they are is judged below.
        "$checkov/bin/checkov" --directory "$rendered" --framework kubernetes --compact --quiet --skip-download --output json \
            > "$work/findings.json" 2> "$work/checkov.log" || true
        python3 scripts/kubernetes/findings.py "$work/findings.json" scripts/kubernetes/checkov-accepted.txt \
            || { cat "$work/checkov.log"; failed=1; }
    else
        skip "checkov: $(head -n 1 scripts/kubernetes/checkov-requirements.txt) can't be installed here"
    fi
else
    skip "overlays, schemas, rules, snapshots and checkov: neither kubectl 1.27, nor kustomize 5, nor Go to build it, is here"
fi

step "a cluster"
skip "nothing was applied: no cluster is here. What an API server or an operator alone can say (rules in CEL, admission, behaviour) is open"

printf '\n%s, %s skipped\n' "$([ "$failed" = 0 ] && echo 'all checks that ran passed' || echo 'FAILED')" "$skipped"
exit "$failed"
