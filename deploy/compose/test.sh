#!/usr/bin/env bash
# Really runs compose.yml: orders are placed while containers are killed, paused and cut off from their network, and while each service is
# restarted with two replicas. Every order that was accepted must be delivered, be charged once, and no request may fail during
# the restarts. Ends what it started; KEEP=1 keeps it. Needs docker with compose 2.
#
# CURL: how to reach the published ports, if that is not `curl` on this machine. CRASH: a command that kills the process of a container
# from outside of the engine, if there is one.
set -euo pipefail
cd "$(dirname "$0")/../.."

export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-holdfast-test}
export DELIVERY_STEP=200ms
read -r -a curl <<<"${CURL:-curl}"
port=${GATEWAY_PORT:-127.0.0.1:8080}
url=http://127.0.0.1:${port##*:}
orders=$(mktemp)
failures=$(mktemp)
load_pid=

say() { printf '%6s s  %s\n' "$SECONDS" "$*"; }

finish() {
    local status=$?
    [ -z "$load_pid" ] || kill "$load_pid" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        docker compose ps --all
        docker compose logs --no-color --tail 20
    fi
    [ -n "${KEEP:-}" ] || docker compose down --volumes --timeout 15 >/dev/null 2>&1
    rm -f "$orders" "$failures"
}
trap finish EXIT

call() { # method, path, more arguments of curl
    "${curl[@]}" --silent --show-error --max-time 10 -X "$1" "$url$2" -H "Authorization: Bearer $token" "${@:3}"
}
field() { # name of a text field of the JSON on stdin
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

# Places one order after the other. What is answered by anything but 201 is noted.
load() {
    local number=0
    while true; do
        number=$((number + 1))
        local answer status
        answer=$(call POST /api/orders -H "Idempotency-Key: load-$number" -H 'Content-Type: application/json' \
            -d '{"delivery_address":"1 Quay Street","items":[{"product_id":"tea","quantity":1,"price":0.01}]}' \
            --write-out ' %{http_code}' 2>&1) || true
        status=${answer##* }
        if [ "$status" = 201 ]; then
            field order_id <<<"$answer" >>"$orders"
        else
            echo "order $number: $answer" >>"$failures"
        fi
        sleep 0.1
    done
}

wait_for() { # what, command: until it succeeds, a minute at most
    local until_s=$((SECONDS + 60)) what=$1
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$until_s" ]; then
            say "$what: not within a minute"
            return 1
        fi
        sleep 0.2
    done
}

accepted() { wc -l <"$orders"; }
# An order that is placed now is accepted.
goes_on() {
    local before
    before=$(accepted)
    wait_for "orders are accepted" bash -c "[ \$(wc -l <'$orders') -gt $before ]"
}
container() { docker compose ps --quiet "$1" | head -1; }

say "starting"
docker compose up --detach --wait 2>/dev/null
token=$(docker compose run --rm cli token --dir /pki --user alice --ttl 1h 2>/dev/null | tr -d '\r\n')
say "ready"

load &
load_pid=$!
goes_on

for service in payment delivery order payment-db order-db kafka redis gateway certificates; do
    # `docker kill` counts as stopped by hand: the restart policy does nothing then. A crash from outside is one that it mends.
    if [ -n "${CRASH:-}" ]; then
        read -r -a crash <<<"$CRASH"
        "${crash[@]}" "$(container "$service")" >/dev/null
    else
        docker compose kill "$service" >/dev/null 2>&1
        sleep 2
        docker compose start "$service" >/dev/null 2>&1
    fi
    goes_on
    say "$service was killed; $(accepted) orders"
done

for service in payment kafka order-db redis; do
    docker compose pause "$service" >/dev/null 2>&1
    sleep 5
    docker compose unpause "$service" >/dev/null 2>&1
    goes_on
    say "$service was paused; $(accepted) orders"
done

network=${COMPOSE_PROJECT_NAME}_default
for service in payment kafka; do
    cut_off=$(container "$service")
    docker network disconnect "$network" "$cut_off"
    sleep 5
    docker network connect --alias "$service" "$network" "$cut_off"
    goes_on
    say "$service was cut off; $(accepted) orders"
done

say "two replicas of each service"
docker compose up --detach --wait --no-recreate --scale order=2 --scale payment=2 --scale delivery=2 2>/dev/null
wait_for "the gateway is well" bash -c "${curl[*]} --silent $url/readyz | grep -q '\"degraded\":false'"
sleep 6 # names are resolved again each 5 s
: >"$failures"
for service in order payment delivery; do
    for replica in $(docker compose ps --quiet "$service"); do
        docker restart --time 12 "$replica" >/dev/null
        wait_for "$service is healthy" \
            bash -c "[ \"\$(docker inspect --format '{{.State.Health.Status}}' $replica)\" = healthy ]"
        sleep 6
    done
    goes_on
    say "$service was restarted, replica by replica"
done
if [ -s "$failures" ]; then
    say "requests failed during the restarts:"
    cat "$failures"
    exit 1
fi

kill "$load_pid"
wait "$load_pid" 2>/dev/null || true
load_pid=
say "$(accepted) orders were accepted; waiting for the last"

delivered() {
    [ "$(call GET "/api/orders/$1" | field delivery_status)" = DELIVERED ]
}
while read -r id; do
    wait_for "order $id is delivered" delivered "$id"
done <"$orders"
if [ "$(sort "$orders" | uniq -d | wc -l)" -ne 0 ]; then
    say "an order was accepted twice"
    exit 1
fi
# Alice had 1,000.00, and each order costs a cent. What was accepted although its answer was lost is an order too.
for service in order payment; do
    database=${service}s
    docker compose exec --no-TTY "$service-db" psql --username holdfast --dbname "$database" --tuples-only --no-align --command "
        select count(*) from ${service}s where user_id = 'alice'"
done | {
    read -r placed
    read -r paid
    balance=$(call GET /api/accounts/alice | sed -n 's/.*"balance":\([0-9.]*\).*/\1/p')
    expected=$(awk -v paid="$paid" 'BEGIN { printf "%.2f", 1000 - paid / 100 }')
    say "$placed orders, $paid payments, balance $balance"
    [ "$placed" -ge "$(accepted)" ] && [ "$paid" -eq "$placed" ] && [ "$balance" = "$expected" ]
}
say "every order was delivered and charged once"
