#!/usr/bin/env bash
# Follows one order as a client would: create, watch its status, read its payment and its delivery. Needs a running
# stack (make up). Fails if the order does not end PAID and DELIVERED.
set -euo pipefail

holdfast=${HOLDFAST:-target/release/holdfast}
user=${USER_ID:-user-123}
time_max_s=${TIME_MAX_S:-60}

environment=$("$holdfast" env)
eval "$environment"
token=$("$holdfast" token --user "$user")

call() { # method, path, more arguments of curl
    curl --silent --show-error --fail-with-body --max-time 10 -X "$1" "$HOLDFAST_URL$2" \
        -H "Authorization: Bearer $token" "${@:3}"
}
field() { # name of a text field of the JSON on stdin
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

key="walk-$$-$(date +%s%N)"
order='{"delivery_address":"1 Quay Street, 20457 Hamburg","items":[{"product_id":"tea-100g","quantity":2,"price":12.50}]}'
created=$(call POST /api/orders -H "Idempotency-Key: $key" -H 'Content-Type: application/json' -d "$order")
id=$(field order_id <<<"$created")
echo "created    $created"

# The same key again: the same answer, and no second order.
replayed=$(call POST /api/orders -H "Idempotency-Key: $key" -H 'Content-Type: application/json' -d "$order")
if [ "$replayed" != "$created" ]; then
    echo "the replay has a different answer: $replayed" >&2
    exit 1
fi
echo "replayed   the same order"

seen=""
until_s=$((SECONDS + time_max_s))
while true; do
    now=$(call GET "/api/orders/$id")
    # Before there is a delivery its status is null, which is no text.
    line="$(field status <<<"$now") $(field delivery_status <<<"$now")"
    if [ "$line" != "$seen" ]; then
        echo "status     $line"
        seen=$line
    fi
    case $line in
        "PAID DELIVERED") break ;;
        INSUFFICIENT_FUNDS* | REFUNDED*)
            echo "the order ended differently" >&2
            exit 1
            ;;
    esac
    if [ "$SECONDS" -ge "$until_s" ]; then
        echo "not delivered within $time_max_s s" >&2
        exit 1
    fi
    sleep 0.05
done
echo "payment    $(call GET "/api/orders/$id/payment")"
echo "delivery   $(call GET "/api/orders/$id/delivery")"
echo "account    $(call GET "/api/accounts/$user")"
