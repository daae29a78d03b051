#!/usr/bin/env bash
# Sends a gateway what schemathesis makes up from its OpenAPI document, right and wrong requests and chains of them, and checks that
# each answer is one that the document describes. Installs schemathesis once, outside of the work tree.
#
#   HOLDFAST_USER=U HOLDFAST_TOKEN=T scripts/schemathesis.sh URL [ARGUMENT of `schemathesis run`]...
#
# The token is U's, with all scopes. U needs money, and an order that can still change, because a stream of nothing never ends; the
# gateway must not limit its clients. Exit code 77: schemathesis can't be installed here.
set -euo pipefail
cd "$(dirname "$0")/schemathesis"

version=$(sed -n 's/^schemathesis==//p' requirements.txt)
root=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/schemathesis-$version
if [ ! -e "$root/installed" ]; then
    echo "installing schemathesis $version (once)" >&2
    rm -rf "$root"
    if ! { python3 -m venv "$root" \
        && "$root/bin/pip" install --quiet --disable-pip-version-check --requirement requirements.txt \
        && touch "$root/installed"; } >&2; then
        exit 77
    fi
fi
# Nothing is left behind in the tree.
export PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=$root/hypothesis
# The same requests each time; SEED=… makes others.
exec "$root/bin/schemathesis" run "$1/openapi.json" --seed "${SEED:-1}" --max-examples "${EXAMPLES:-60}" --no-shrink --no-color "${@:2}"
