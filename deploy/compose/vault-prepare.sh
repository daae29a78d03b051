#!/bin/sh
# Initialises the server of deploy/compose/vault.yml, once, and makes it ready for Holdfast, each time.
set -eu
umask 077

# 0 is unsealed, 2 is not yet, 1 is no answer.
until_s=$(($(date +%s) + 60))
while status=0; bao status >/dev/null 2>&1 || status=$?; [ "$status" -eq 1 ]; do
    [ "$(date +%s)" -lt "$until_s" ] || { echo "no server at $BAO_ADDR within a minute" >&2; exit 1; }
    sleep 1
done
# What it says is said once: who loses it begins anew, with an empty volume.
if [ ! -s /vault/data/init.json ]; then
    bao operator init -format=json -recovery-shares=1 -recovery-threshold=1 >/vault/data/init.json
fi
until bao status >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$until_s" ] || { echo "the server does not unseal itself within a minute" >&2; exit 1; }
    sleep 1
done

as_root=/vault/vault-as-root.sh
"$as_root" setup.sh engines
"$as_root" setup.sh approle /approle gateway order payment delivery operator console databases
# Tokens of whoever tries it: the key that signs them, and the one that the gateway checks them with.
put() { # secret, fields
    secret=$1
    shift
    "$as_root" bao kv metadata get -mount=holdfast "$secret" >/dev/null 2>&1 \
        || "$as_root" bao kv put -cas=0 -mount=holdfast "$secret" "$@" >/dev/null
}
put gateway jwks.json=@/token/jwks.json
put operator token.key=@/token/token.key token.kid=@/token/token.kid
