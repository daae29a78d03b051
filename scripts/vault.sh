#!/usr/bin/env bash
# Checks what is for OpenBao and HashiCorp Vault: form and rights of deploy/vault, and, where the program is, a server, agents and services
# that really run with it. What can't be checked here is SKIPPED, with the reason; 1 if a check fails.
#
#   scripts/vault.sh
#
# The program is BAO, or `bao` in PATH. The services are those that the tests have built (`cargo build --workspace --bins`).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONDONTWRITEBYTECODE=1

step() { printf '\n-- %s\n' "$1"; }
skip() { printf 'SKIPPED: %s\n' "$1"; }

step "the agents' files"
agents=$(mktemp -d)
trap 'rm -rf "$agents"' EXIT
cp deploy/vault/agent/common.hcl "$agents"
scripts/vault/agents.py "$agents"
if ! diff -r "$agents" deploy/vault/agent; then
    echo "deploy/vault/agent is not what scripts/vault/agents.py writes" >&2
    exit 1
fi

step "form, rights, files"
file=scripts/vault/requirements.txt
folder=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/$(head -n 1 "$file")
if [ ! -e "$folder/installed" ]; then
    echo "installing $(tr '\n' ' ' <"$file")(once)"
    rm -rf "$folder"
    { python3 -m venv "$folder" \
        && timeout 300 "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$file" \
        && touch "$folder/installed"; } >&2 || true
fi
if [ -e "$folder/installed" ]; then
    "$folder/bin/python" scripts/vault/check.py
else
    skip "form and rights: they need Python 3.11, and $(head -n 1 "$file"), which can't be installed here"
fi
for script in deploy/vault/setup.sh deploy/compose/vault-*.sh; do
    sh -n "$script"
done

step "OpenBao, really run"
bao=${BAO:-$(command -v bao || true)}
if [ -z "$bao" ]; then
    skip "a server, agents, and services that follow them: there is no program \`bao\` here"
elif ! command -v openssl >/dev/null; then
    skip "a server, agents, and services that follow them: they need openssl"
else
    programs=${CARGO_TARGET_DIR:-target}/debug
    if [ ! -x "$programs/holdfast-order" ]; then
        skip "services that follow what agents write: they are not built"
        programs=
    fi
    timeout 900 python3 scripts/vault/really.py "$bao" ${programs:+"$programs"}
fi
