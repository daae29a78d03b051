#!/usr/bin/env bash
# Really runs compose.yml: orders are placed while containers are killed, paused and cut off from their network, and while each service is
# restarted with two replicas. Every order that was accepted must be delivered, be charged once, and no request may fail during
# the restarts.
#
#   deploy/compose/test.sh                  all of this, and the operator's commands from the container `cli`
#   deploy/compose/test.sh quick            one container is killed; the operator's commands
#   deploy/compose/test.sh three-brokers    three brokers, of which one after the other is killed
#   deploy/compose/test.sh observability    Prometheus sees every replica, has our alerts, and one sees an absent database
#   deploy/compose/test.sh kafka-tls        who gets in at a broker with TLS and what they may do there, while all certificates are renewed
#   deploy/compose/test.sh vault            secrets of OpenBao, which is killed, and changes a password and all certificates under load
#
# CURL: how to reach the published port, if not by `curl` on this machine. CRASH: a command that kills the process of a container
# from outside of the engine, if there is one. KEEP=1 leaves everything running.
set -euo pipefail
cd "$(dirname "$0")/../.."

mode=${1:-everything}
case $mode in
everything | quick) ;;
three-brokers) export COMPOSE_ENV_FILES=deploy/compose/three-brokers.env ;;
observability) export COMPOSE_PROFILES=observability ;;
kafka-tls | vault) export COMPOSE_ENV_FILES=deploy/compose/$mode.env ;;
*)
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-holdfast-test}
export DELIVERY_STEP=200ms
export USER=tester
read -r -a curl <<<"${CURL:-curl}"
port=${GATEWAY_PORT:-127.0.0.1:8080}
url=http://127.0.0.1:${port##*:}
console_port=${CONSOLE_PORT:-127.0.0.1:8090}
# Those that `holdfast status` asks.
serving="gateway order payment delivery console"
orders=$(mktemp)
failures=$(mktemp)
talk=$(mktemp)
load_pid=

say() { printf '%6s s  %s\n' "$SECONDS" "$*"; }

finish() { # the command that ended the script
    local status=$?
    [ -z "$load_pid" ] || kill "$load_pid" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        docker compose ps --all
        docker compose logs --no-color --tail 20
        tail -n 40 "$talk"
        # Last, where it is looked for.
        say "FAILED with status $status in ${FUNCNAME[*]:1}: $1"
    fi
    [ -n "${KEEP:-}" ] || docker compose down --volumes --timeout 15 >/dev/null 2>&1
    rm -f "$orders" "$failures" "$talk"
}
trap 'finish "$BASH_COMMAND"' EXIT

# Whether such a line comes in, as `grep` takes it. All of it is read, which `grep --quiet` does not do: docker's client fails when what it
# writes is no longer read, now and then with 255.
has() { [ "$(grep --count "$@")" -gt 0 ]; }
# What it says is of interest if it fails.
compose() { docker compose "$@" >>"$talk" 2>&1; }

call() { # method, path, more arguments of curl
    "${curl[@]}" --silent --show-error --max-time 10 -X "$1" "$url$2" -H "Authorization: Bearer $token" "${@:3}"
}
field() { # name of a text field of the JSON on stdin
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}
place() { # idempotency key; the answer and its status
    call POST /api/orders -H "Idempotency-Key: $1" -H 'Content-Type: application/json' \
        -d '{"delivery_address":"1 Quay Street","items":[{"product_id":"tea","quantity":1,"price":0.01}]}' \
        --write-out ' %{http_code}' 2>&1
}

# Places one order after the other. What is answered by anything but 201 is noted.
load() {
    local number=0
    while true; do
        number=$((number + 1))
        local answer status
        answer=$(place "load-$number") || true
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
container() { docker compose ps --quiet "$1" | sed -n 1p; }

# `docker kill` counts as stopped by hand: the restart policy does nothing then. A crash from outside is one that it mends.
kill_container() {
    if [ -n "${CRASH:-}" ]; then
        read -r -a crash <<<"$CRASH"
        "${crash[@]}" "$(container "$1")" >/dev/null
    else
        compose kill "$1"
        sleep 2
        compose start "$1"
    fi
}

# A new order is placed and its id noted; `placed` is the id.
place_one() {
    placed=
    one_is_placed() {
        local answer
        answer=$(place "$1") && [ "${answer##* }" = 201 ] && placed=$(field order_id <<<"$answer") && [ -n "$placed" ]
    }
    wait_for "an order is accepted" one_is_placed "$1"
    echo "$placed" >>"$orders"
}
has_status() { # order, status
    [ "$(call GET "/api/orders/$1" | field status)" = "$2" ]
}
delivered() {
    [ "$(call GET "/api/orders/$1" | field delivery_status)" = DELIVERED ]
}

# The operator's command, where it is told nothing about where things are.
cli() { docker compose run --rm --no-TTY cli "$@" </dev/null 2>>"$talk"; }
# Kafka's own tools, as the broker's administrator where that has to be shown.
as_administrator=()
[ "$mode" != kafka-tls ] || as_administrator=(--command-config /etc/kafka/secrets/client.properties)
kafka_tool() { # name, arguments
    docker compose exec --no-TTY kafka "/opt/kafka/bin/kafka-$1.sh" --bootstrap-server kafka:9092 "${as_administrator[@]}" "${@:2}"
}
all_ready() { [ "$(cli status | grep -cE ' ready( |$)')" = "$1" ]; }
database_of() { [ "$1" = delivery ] && echo deliveries || echo "$1s"; }
sql() { docker compose exec --no-TTY "$1-db" psql --username holdfast --dbname "$(database_of "$1")" --quiet --command "$2" </dev/null; }
queried() { docker compose exec --no-TTY "$1-db" psql --username "${3:-holdfast}" --dbname "$(database_of "$1")" -tA --command "$2" </dev/null; }

# The role of each service has rows and nothing else: it owns nothing, and what it is refused is said by the server, as who it is inside of the
# container. Its process has no other login.
rights() {
    local service
    for service in order payment delivery; do
        queried "$service" "select count(*) > 10 and bool_and(pg_get_userbyid(relowner) = '$service-owner')
                and (select pg_get_userbyid(datdba) = '$service-owner' from pg_database where datname = current_database())
            from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'S')" | has -x t
        # What its work is, or the refusals would prove nothing.
        queried "$service" "begin; insert into outbox_audit (actor, action, outbox_id, topic, reason) values ('a', 'drop', 1, 't', 'r');
            select 'has ' || count(*) from outbox_audit; rollback" "$service" | has -x 'has [0-9]*'
        local forbidden said
        forbidden=$(
            for audit in dead_letter_audit outbox_audit; do
                printf '%s\n' "update $audit set actor = 'x';" "delete from $audit;" "truncate $audit;" "drop table $audit;" \
                    "alter table $audit owner to \"$service\";" "grant update on $audit to \"$service\"; update $audit set actor = 'x';"
            done
            printf '%s\n' "alter table outbox add column more text;" "create table more (n int);" "delete from _sqlx_migrations;" \
                "set role \"$service-owner\";" "alter role \"$service\" superuser;" "create role more;" "copy (select 1) to program 'true';"
        )
        said=$(docker compose exec --no-TTY "$service-db" psql --username "$service" --dbname "$(database_of "$service")" -tA 2>&1 <<<"$forbidden") || true
        if [ "$(grep -cE 'ERROR: +(permission denied|must be (able|owner))' <<<"$said")" -ne "$(wc -l <<<"$forbidden")" ]; then
            say "$service is not refused everything:"
            printf '%s\n' "$said"
            return 1
        fi
        said=$(docker inspect --format '{{.Config.Env}} {{.Mounts}}' $(docker compose ps --quiet "$service"))
        if has -i owner <<<"$said"; then
            say "$service has something of the owner"
            return 1
        fi
    done
    say "services have rows of their databases, and no right to a table or to what operators did"
}

# A system from before there were owners: everything belongs to the services' roles, and so it does when it is started again.
from_before_owners() {
    local service
    compose stop order payment delivery
    for service in order payment delivery; do
        sql "$service" "alter database $(database_of "$service") owner to \"$service\""
        sql "$service" "do \$\$ declare relation regclass; begin
            for relation in select oid from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
            loop execute format('alter table %s owner to %I', relation, '$service'); end loop; end \$\$"
        queried "$service" "select bool_and(pg_get_userbyid(relowner) = '$service') from pg_class
            where relnamespace = 'public'::regnamespace and relkind in ('r', 'S')" | has -x t
    done
    compose up --detach --wait
    rights
    place_one "after-the-owners"
    wait_for "it is delivered" delivered "$placed"
    say "a system from before there were owners was changed by its next start"
}

# Each service is in its own database, by TLS with its own certificate, and is no superuser; without TLS or a certificate nobody gets as far
# as a password. Renewed certificates are with the servers within seconds, and open no gap.
databases() {
    local service
    for service in order payment delivery; do
        docker compose exec --no-TTY "$service-db" psql --username holdfast --tuples-only --no-align --dbname postgres --command "
            select count(*) > 0 and bool_and(ssl and client_dn = '/CN=$service') and not bool_or(usesuper)
            from pg_stat_activity join pg_stat_ssl using (pid) join pg_user using (usename)
            where backend_type = 'client backend' and client_addr is not null" | has -x t
    done
    is_refused() { # libpq's settings, why
        local said
        said=$(docker compose exec --no-TTY order-db psql "host=payment-db dbname=payments user=payment password=guessed $1" 2>&1 </dev/null) || true
        grep -q "$2" <<<"$said"
    }
    is_refused sslmode=disable 'no encryption'
    is_refused sslmode=require 'requires a valid client certificate'
    has_new_certificate() {
        docker compose exec --no-TTY order-db bash -c "cmp --silent /pki/tls.crt /tls/tls.crt && ! cmp --silent /tls/tls.crt /tmp/before.crt"
    }
    docker compose exec --no-TTY order-db cp /tls/tls.crt /tmp/before.crt
    cli certs rotate
    wait_for "the database has its new certificate" has_new_certificate
    compose restart --timeout 10 payment-db
    place_one "after-renewal"
    wait_for "it is delivered" delivered "$placed"
    say "services are in their databases by TLS, and nobody else is"
}

# The pages for operators: an address lets one browser in, once, and nobody comes without one, or by another name.
console() {
    local site=http://127.0.0.1:${console_port##*:} address cookie
    console_page() { "${curl[@]}" --silent --show-error --max-time 10 "$site$1" "${@:2}"; }
    console_status() { console_page "$@" --output /dev/null --write-out '%{http_code}'; }
    [ "$(console_status /topics)" = 401 ]
    [ "$(console_status /topics --header 'Host: console:8090')" = 421 ]
    address=$(docker compose exec --no-TTY console /holdfast-console ticket --author tester </dev/null 2>>"$talk")
    cookie=$(console_page "${address#"$site"}" --output /dev/null --dump-header - | sed -n 's/^set-cookie: \([^;]*\);.*/\1/p')
    [ -n "$cookie" ]
    [ "$(console_status "${address#"$site"}")" = 401 ]
    console_shows() { console_page "$1" --header "Cookie: $cookie" | has "$2"; }
    wait_for "the console shows topics" console_shows /topics order.created.payment.dlq
    wait_for "the console shows where services read" console_shows /groups payment.completed
    wait_for "the console shows each service" console_shows /components certificate
    say "the console lets in who has an address, and shows topics, groups and services"
}

# Every accepted order is delivered and charged once.
settle() {
    if [ -n "$load_pid" ]; then
        kill "$load_pid"
        wait "$load_pid" 2>/dev/null || true
        load_pid=
    fi
    say "$(accepted) orders were accepted; waiting for the last"
    while read -r id; do
        wait_for "order $id is delivered" delivered "$id"
    done <"$orders"
    if [ "$(sort "$orders" | uniq -d | wc -l)" -ne 0 ]; then
        say "an order was accepted twice"
        return 1
    fi
    # Alice had 1,000.00, and each order costs a cent. What was accepted although its answer was lost is an order too.
    for service in order payment; do
        queried "$service" "select count(*) from ${service}s where user_id = 'alice'"
    done | {
        read -r placed
        read -r paid
        balance=$(call GET /api/accounts/alice | sed -n 's/.*"balance":\([0-9.]*\).*/\1/p')
        expected=$(awk -v paid="$paid" 'BEGIN { printf "%.2f", 1000 - paid / 100 }')
        say "$placed orders, $paid payments, balance $balance"
        [ "$placed" -ge "$(accepted)" ] && [ "$paid" -eq "$placed" ] && [ "$balance" = "$expected" ]
    }
    say "every order was delivered and charged once"
}

# A record that can't be handled becomes a letter, is listed, and is redriven or given up: all from the container `cli`.
operate() {
    say "the operator's commands"
    wait_for "all that runs is ready" all_ready "$(docker compose ps --quiet $serving | wc -l)"
    [ "$(cli dlq list >/dev/null; echo "$?")" = 3 ] # nothing yet

    sql payment "create function refuse() returns trigger language plpgsql as
        \$\$ begin raise exception 'refused' using errcode = '23514'; end \$\$;
        create trigger refuse before insert on payments for each row when (new.user_id = 'bob') execute function refuse()"
    local alices=$token
    token=$(cli token --user bob)
    place_one "refused-payment"
    local refused=$placed
    sed -i "/^$refused\$/d" "$orders" # not alice's
    wait_for "the letter is listed" cli dlq list --order "$refused"
    sql payment "drop trigger refuse on payments"
    cli dlq redrive --order "$refused" --execute | grep redriven
    wait_for "the order is delivered" delivered "$refused"
    token=$alices
    say "a refused order was parked, listed, redriven and delivered"

    kafka_tool console-producer --topic order.created <<<"no event" >/dev/null 2>&1
    wait_for "the letter is listed" cli dlq list --service payment --class schema-violation
    local letter
    letter=$(cli dlq list --service payment --class schema-violation --output json | sed -n 's/.*"id": "\([^"]*\)".*/\1/p')
    cli dlq discard "$letter" --reason "no event" --yes >/dev/null
    cli dlq audit "$letter" | grep tester
    [ "$(cli positions | grep -c order.created)" = 4 ]
    cli reconcile --service order >/dev/null || [ "$?" = 3 ]
    say "a record that is no event was parked, listed and given up"
}

everything() {
    load &
    load_pid=$!
    goes_on

    for service in payment delivery order payment-db order-db kafka redis gateway certificates; do
        kill_container "$service"
        local killed_ms=$(($(date +%s%N) / 1000000))
        goes_on
        if [ "$service" = payment ]; then
            place_one "after-payment"
            wait_for "it is paid" has_status "$placed" PAID
            say "it was paid $(($(date +%s%N) / 1000000 - killed_ms)) ms after the kill"
        fi
        say "$service was killed; $(accepted) orders"
    done

    for service in payment kafka order-db redis; do
        compose pause "$service"
        sleep 5
        compose unpause "$service"
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
    compose up --detach --wait --no-recreate --scale order=2 --scale payment=2 --scale delivery=2
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
        return 1
    fi
    databases
    rights
    console
    from_before_owners
    settle
    operate
}

quick() {
    place_one "before"
    wait_for "it is delivered" delivered "$placed"
    say "an order was delivered"
    load &
    load_pid=$!
    goes_on
    kill_container payment
    local killed_ms=$(($(date +%s%N) / 1000000))
    place_one "after"
    wait_for "it is paid" has_status "$placed" PAID
    say "payment was killed; an order was paid $(($(date +%s%N) / 1000000 - killed_ms)) ms after that"
    databases
    rights
    console
    from_before_owners
    settle
    operate
}

three_brokers() {
    load &
    load_pid=$!
    goes_on
    for broker in kafka kafka-2 kafka-3; do
        compose kill "$broker"
        # Not only accepted: what needs the brokers goes on while one is away.
        local killed_ms=$(($(date +%s%N) / 1000000))
        place_one "without-$broker"
        wait_for "an order is delivered without $broker" delivered "$placed"
        say "$broker was killed; an order was delivered $(($(date +%s%N) / 1000000 - killed_ms)) ms after that, without it"
        compose start "$broker"
        wait_for "every partition is in sync" bash -c "
            under=\$(docker compose exec --no-TTY kafka /opt/kafka/bin/kafka-topics.sh --bootstrap-server \
                kafka:9092,kafka-2:9092,kafka-3:9092 --describe --under-replicated-partitions 2>/dev/null) && [ -z \"\$under\" ]"
    done
    docker compose exec --no-TTY kafka /opt/kafka/bin/kafka-topics.sh --bootstrap-server kafka:9092 --describe --topic order.created \
        2>/dev/null | has 'ReplicationFactor: 3.*min.insync.replicas=2'
    settle
}

observability() {
    asked() { "${curl[@]}" --silent --max-time 10 "http://127.0.0.1:9090/api/v1/$1"; }
    is_seen() { [ "$(asked targets | grep -o '"health":"up"' | wc -l)" = "$1" ]; }
    fires() { asked alerts | has "\"alertname\":\"$1\""; }
    compose up --detach --wait --no-recreate --scale order=2
    wait_for "every replica is seen" is_seen 6
    local wanted has
    wanted=$(grep -ch '^ *- alert:' deploy/prometheus/*.rules.yml | awk '{ sum += $1 } END { print sum }')
    has=$(asked rules | grep -o '"type":"alerting"' | wc -l)
    say "Prometheus sees 6 replicas and has $has of $wanted alerts"
    [ "$has" = "$wanted" ]
    place_one "observed"
    wait_for "it is delivered" delivered "$placed"
    wait_for "its metrics are there" \
        bash -c "${curl[*]} --silent 'http://127.0.0.1:9090/api/v1/query?query=messaging_client_consumed_messages_total' | grep -q '\"job\":\"payment\"'"
    compose stop payment-db
    wait_for "the alert on payment is pending" fires CannotServe
    compose start payment-db
    say "CannotServe saw that payment has no database"
    settle
}

kafka_tls() {
    # The broker's own view of its certificate, of which all that matters is whether it changes.
    shown() { docker compose exec --no-TTY kafka keytool -printcert -rfc -sslserver kafka:9092 2>/dev/null; }
    given() { docker compose exec --no-TTY kafka-certificates cat /pki/tls.crt; }
    # keytool ends lines as in mail.
    is_shown() { local now; now=$(shown | tr -d '\r' | sed -n '/BEGIN/,/END/p') && [ -n "$now" ] && [ "$now" = "$(given)" ]; }
    started() { docker inspect --format '{{.State.StartedAt}}' $(docker compose ps --quiet kafka order payment delivery); }
    grants() { kafka_tool acls --list 2>/dev/null | grep -c 'permissionType=ALLOW'; }

    load &
    load_pid=$!
    goes_on
    say "orders are delivered by way of a broker with TLS"
    place_one "by-tls"
    wait_for "it is delivered" delivered "$placed"

    # What a tool of Kafka says that shows the certificate of an identity, or comes without one, or without TLS.
    said_to() { # identity, "nobody" or "plain"; name of the tool, its arguments
        local settings volumes=()
        settings=$(docker compose exec --no-TTY kafka sed 's#keystore.location=.*#keystore.location=/tmp/tls.pem#' \
            /etc/kafka/secrets/client.properties)
        case $1 in
        plain) settings= ;;
        nobody) settings=$(grep -v keystore <<<"$settings") ;;
        *) volumes=(--volume "${COMPOSE_PROJECT_NAME}_pki-$1:/identity:ro") ;;
        esac
        docker compose run --rm --no-TTY --no-deps "${volumes[@]}" --entrypoint bash kafka-certificates -c "
            printf '%s\n' '$settings' request.timeout.ms=4000 default.api.timeout.ms=5000 max.block.ms=5000 delivery.timeout.ms=6000 \
                > /tmp/client.properties
            cat /identity/tls.key /identity/tls.crt > /tmp/tls.pem
            echo forged | timeout 30 /opt/kafka/bin/kafka-$2.sh --bootstrap-server kafka:9092 \
                --command-config /tmp/client.properties ${*:3} 2>&1" 2>>"$talk" </dev/null || true
    }
    is_refused() { # how; as above
        local said
        said=$(said_to "${@:2}")
        if ! grep -qi "$1" <<<"$said"; then
            say "not refused ($1): ${*:2}"
            tail -n 5 <<<"$said"
            return 1
        fi
    }
    [ "$(said_to order topics --list | grep -c '^order.created')" -ge 1 ] # or the refusals would prove nothing
    is_refused 'not authorized to access topics' order console-producer --topic payment.completed
    is_refused 'not authorized to access group' order console-consumer --topic payment.completed --group payment --timeout-ms 5000
    is_refused 'not authorized to access topics' gateway console-consumer --topic order.created --group gateway --timeout-ms 5000
    is_refused 'authoriz' order topics --create --topic forged
    is_refused 'ssl' nobody topics --list
    # It takes what the broker says of TLS for the length of an answer.
    is_refused 'TimeoutException' plain topics --list
    say "who shows no certificate, or another's, gets nowhere"

    # Whoever changes what they may do has it put right, and strangers keep theirs.
    local before
    before=$(grants)
    kafka_tool acls --add --allow-principal User:order --operation Write --topic payment.completed >/dev/null 2>&1
    kafka_tool acls --add --allow-principal User:reporting --operation Read --topic order.created >/dev/null 2>&1
    kafka_tool acls --remove --force --allow-principal User:delivery --operation Read --topic payment.completed >/dev/null 2>&1
    docker compose run --rm --no-TTY topics >/dev/null 2>>"$talk" </dev/null
    [ "$(grants)" = $((before + 1)) ]
    [ "$(kafka_tool acls --list --principal User:reporting 2>/dev/null | grep -c 'permissionType=ALLOW')" = 1 ]
    [ "$(kafka_tool acls --list --principal User:order --topic payment.completed 2>/dev/null | grep -c 'operation=WRITE')" = 0 ]
    say "topics ensure says who may do what: $before entries"
    console

    : >"$failures"
    local began
    began=$(started)
    cli certs rotate
    wait_for "the broker shows its new certificate" is_shown
    place_one "after-renewal"
    wait_for "it is delivered" delivered "$placed"
    # Long enough for every client to be replaced.
    sleep 15
    place_one "after-all-renewals"
    wait_for "it is delivered" delivered "$placed"
    goes_on
    if [ -s "$failures" ]; then
        say "requests failed while certificates were renewed:"
        cat "$failures"
        return 1
    fi
    [ "$(started)" = "$began" ]
    say "all certificates were renewed, nothing was started again, and no request failed; $(accepted) orders"

    kill_container kafka
    goes_on
    place_one "after-kafka"
    wait_for "it is delivered" delivered "$placed"
    say "kafka was killed, and came back with its certificate; $(accepted) orders"
    settle
    operate
}

vault() {
    vault_admin() { docker compose run --rm --no-TTY vault-admin "$@" </dev/null 2>>"$talk"; }
    # What an agent has written: `in_files order ca.crt`.
    in_files() { docker compose exec --no-TTY "agent-$1" cat "$([ "$1" = operator ] && echo /operator || echo /pki)/$2"; }
    written() { in_files "$1" "$([ "$1" = operator ] && echo tls.crt || echo identity.pem)" | sed '/PRIVATE KEY/,$d'; }
    knows() { [ "$(in_files "$1" ca.crt | grep -c BEGIN)" = "$2" ]; }
    differs() { [ "$(written order)" != "$1" ]; }
    # That of order has changed by then.
    signed_by_the_new_one() { [ "$(written "$1" | openssl x509 -noout -issuer)" = "$(written order | openssl x509 -noout -issuer)" ]; }
    logged() { docker compose logs --no-color --no-log-prefix "$1" 2>/dev/null | grep '"reloaded"' | has "\"$2\""; }

    load &
    load_pid=$!
    goes_on
    kill_container vault
    goes_on
    say "the server was killed; $(accepted) orders"

    local identities="gateway order payment delivery operator" identity before
    : >"$failures"
    vault_admin setup.sh authority next >/dev/null
    for identity in $identities; do
        wait_for "both authorities are known to $identity" knows "$identity" 2
    done
    sleep 3 # files are compared each 2 s
    vault_admin setup.sh authority use >/dev/null
    before=$(written order)
    for identity in $identities; do
        compose restart "agent-$identity"
    done
    wait_for "another certificate is written" differs "$before"
    for identity in $identities; do
        wait_for "the new authority signs for $identity" signed_by_the_new_one "$identity"
    done
    sleep 3
    vault_admin setup.sh authority drop >/dev/null
    for identity in $identities; do
        wait_for "the new authority alone is known to $identity" knows "$identity" 1
    done
    sleep 3
    goes_on
    if [ -s "$failures" ]; then
        say "requests failed while the authority was replaced:"
        cat "$failures"
        return 1
    fi
    say "the authority and every certificate were replaced, and no request failed; $(accepted) orders"

    # The service first: its open connections stay.
    vault_admin bao kv put -mount=holdfast order password=changed >/dev/null
    wait_for "order takes another password" logged order "database password"
    sql order "alter role \"order\" password 'changed'"
    sql order "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'order'" >/dev/null
    goes_on
    say "the password of a database was changed; $(accepted) orders"
    rights
    settle
    operate
}

say "starting"
compose up --detach --wait
token=$(cli token --user alice --ttl 1h)
say "ready"
"${mode//-/_}"
