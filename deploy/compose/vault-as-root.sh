#!/bin/sh
# Runs a command with the rights of the administrator of the server in deploy/compose/vault.yml: `bao kv get …`, `setup.sh revoke …`.
set -eu
BAO_TOKEN=$(sed -n 's/.*"root_token": "\([^"]*\)".*/\1/p' /vault/data/init.json)
export BAO_TOKEN PATH="/vault:$PATH"
exec "$@"
