#!/bin/sh
# The server of deploy/compose/vault.yml.
set -eu
umask 077
key=/vault/data/seal.key
if [ ! -s "$key" ]; then
    head -c 32 /dev/urandom >"$key.draft"
    mv "$key.draft" "$key"
fi
exec bao server -config=/vault/server.hcl
