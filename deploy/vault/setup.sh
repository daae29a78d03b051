#!/bin/sh
# Makes OpenBao (or HashiCorp Vault) ready for Holdfast. What is there stays, so that it can be run again at any time.
#
#   setup.sh engines              secrets, authority, roles and policies; passwords that are missing are made up
#   setup.sh kubernetes           each ServiceAccount of the namespace HOLDFAST_NAMESPACE (holdfast) may be the service of its name
#   setup.sh approle DIR NAME...  the same for agents outside of a cluster: DIR/NAME/role-id and secret-id
#   setup.sh revoke SERIAL        has everybody refuse a certificate
#   setup.sh authority next       begins to trust a further authority, which does not sign yet
#   setup.sh authority use        has it sign
#   setup.sh authority drop       no longer trusts the one before
#
# Needs `bao` or `vault` and what they need (BAO_ADDR, BAO_TOKEN, or VAULT_ADDR, VAULT_TOKEN) with the rights of an administrator. Names are
# fixed: secrets are in `holdfast` (KV version 2), certificates in `holdfast-pki`. The walk is docs/secrets.md.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
bao=${BAO:-$(command -v bao || command -v vault)}
identities="gateway order payment delivery operator console"
# Who owns the tables of each service: an identity that migrates them and is nobody to the services.
owners="order-owner payment-owner delivery-owner"
# Those that are known to a cluster, or run an agent. Redis has no certificate, but a password; `databases` sets up servers in containers.
everybody="$identities $owners redis databases"
trust_domain=holdfast.internal

has() { # kind, path: whether it is mounted
    "$bao" "$1" list -format=json | grep -q "^ *\"$2/\": {"
}

engines() {
    has secrets holdfast || "$bao" secrets enable -path=holdfast -version=2 kv
    if ! has secrets holdfast-pki; then
        "$bao" secrets enable -path=holdfast-pki pki
        "$bao" secrets tune -max-lease-ttl=87600h holdfast-pki
    fi
    known=$(issuers)
    [ -n "$known" ] || new_authority
    signs=$(default_issuer)
    if [ -z "$signs" ]; then
        known=$(issuers)
        use "$(echo "$known" | head -n 1)"
    fi

    for name in $identities $owners; do
        # One name and one URI, for both ends of a connection. A day at most, five minutes for clocks that differ. Nothing is kept of a
        # certificate that ends so soon: what is stolen goes on the deny list.
        "$bao" write "holdfast-pki/roles/$name" \
            allowed_domains="$name" allow_bare_domains=true allow_localhost=false allow_ip_sans=false \
            allow_wildcard_certificates=false allowed_uri_sans="spiffe://$trust_domain/$name" \
            key_type=ec key_bits=256 key_usage=DigitalSignature server_flag=true client_flag=true \
            ttl=24h max_ttl=24h not_before_duration=5m no_store=true generate_lease=false >/dev/null
    done
    for name in agent $everybody; do
        "$bao" policy write "holdfast-$name" "$here/policies/$name.hcl" >/dev/null
    done
    for name in order payment delivery $owners order-db payment-db delivery-db redis; do
        is_there "$name" || random | "$bao" kv put -cas=0 -mount=holdfast "$name" password=- >/dev/null
    done
    is_there trust || "$bao" kv put -cas=0 -mount=holdfast trust ca.crt= revoked= >/dev/null
    trust
}

# Whether there is a secret. `put -cas=0` writes only what is not there, so that a mistake here overwrites nothing.
is_there() {
    "$bao" kv metadata get -mount=holdfast "$1" >/dev/null 2>&1
}

# 256 bits in characters that need no escape anywhere.
random() {
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

# Their ids. That there is none is a failure to the command, whose answer tells it from others.
issuers() {
    answer=$("$bao" list -format=json holdfast-pki/issuers) || [ "$answer" = "{}" ]
    echo "$answer" | sed -n 's/^ *"\([0-9a-f-]\{36\}\)",\{0,1\}$/\1/p'
}

default_issuer() {
    "$bao" read -field=default holdfast-pki/config/issuers
}

use() { # issuer: it signs from now on
    "$bao" write holdfast-pki/config/issuers default="$1" >/dev/null
}

new_authority() {
    # Signs leaves only.
    "$bao" write holdfast-pki/issuers/generate/root/internal common_name="Holdfast $(date -u +%Y-%m-%dT%H:%M:%SZ)" \
        key_type=ec key_bits=256 ttl=87600h max_path_length=0 >/dev/null
}

# All authorities of the engine are trusted. Nothing is written unless all of them were read.
trust() {
    known=$(issuers)
    bundle=
    for issuer in $known; do
        certificate=$("$bao" read -field=certificate "holdfast-pki/issuer/$issuer")
        bundle="$bundle$certificate
"
    done
    [ -n "$bundle" ] || { echo "no authority was found" >&2 && exit 1; }
    printf '%s' "$bundle" | "$bao" kv patch -mount=holdfast trust ca.crt=- >/dev/null
}

kubernetes() {
    has auth kubernetes || "$bao" auth enable kubernetes
    for name in $everybody; do
        "$bao" write "auth/kubernetes/role/holdfast-$name" \
            bound_service_account_names="$name" bound_service_account_namespaces="${HOLDFAST_NAMESPACE:-holdfast}" audience=openbao \
            token_policies="holdfast-agent,holdfast-$name" token_no_default_policy=true token_ttl=1h token_max_ttl=12h >/dev/null
    done
}

approle() { # folder, names
    has auth approle || "$bao" auth enable approle
    folder=$1
    shift
    for name in "$@"; do
        # An agent issues a new certificate whenever its token ends: at half of a certificate's life.
        "$bao" write "auth/approle/role/holdfast-$name" \
            token_policies="holdfast-agent,holdfast-$name" token_no_default_policy=true token_ttl=1h token_max_ttl=12h >/dev/null
        mkdir -p "$folder/$name"
        [ -s "$folder/$name/secret-id" ] || (
            umask 077
            "$bao" read -field=role_id "auth/approle/role/holdfast-$name/role-id" >"$folder/$name/role-id"
            "$bao" write -f -field=secret_id "auth/approle/role/holdfast-$name/secret-id" >"$folder/$name/secret-id"
        )
    done
}

revoke() { # serial, with or without colons
    serial=$(echo "$1" | tr -d : | tr '[:upper:]' '[:lower:]')
    # As in the certificate, where a number whose first bit is set begins with a zero byte.
    case $serial in
    *[!0-9a-f]* | '') echo "$1 is not a serial" >&2 && exit 2 ;;
    [89a-f]*) serial=00$serial ;;
    esac
    refused=$("$bao" kv get -mount=holdfast -field=revoked trust)
    printf '%s\n%s\n' "$refused" "$serial" | sed '/^$/d' | sort -u | "$bao" kv patch -mount=holdfast trust revoked=- >/dev/null
}

authority() { # step
    known=$(issuers)
    signs=$(default_issuer)
    others=$(echo "$known" | grep -vxF "$signs" || true)
    case "$1 $(echo "$others" | grep -c .)" in
    "next 0")
        # It does not sign yet: that would be before everybody trusts it.
        new_authority
        trust
        ;;
    "use 1") use "$others" ;;
    "drop 1")
        "$bao" delete "holdfast-pki/issuer/$others" >/dev/null
        trust
        ;;
    *)
        echo "next needs one authority, use and drop two; there are:" >&2
        echo "$known" >&2
        exit 1
        ;;
    esac
}

case ${1:-} in
engines | kubernetes) "$1" ;;
revoke | authority) "$1" "${2:?}" ;;
approle)
    : "${3:?}"
    "$@"
    ;;
*)
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
