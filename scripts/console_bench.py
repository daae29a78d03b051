#!/usr/bin/env python3
"""Measures the console beside a stack that has done much: how long each page takes, and what it costs the services that it is there.

    scripts/console_bench.py                   a million orders, 10,000 dead letters; then the pages, then CPU
    scripts/console_bench.py --orders 20000    fewer
    scripts/console_bench.py --only pages      or cpu
    scripts/console_bench.py --only cpu --pages-per-second 15    with the console's own limit

It starts a stack of its own and deletes it at the end. A few thousand orders are made by `holdfast bench`, so that topics have messages,
and three dead letters by databases that refuse; all others are copies of rows, written by SQL, whose events nobody has published. HOLDFAST is the
command, by default target/release/holdfast; PSQL is the client of PostgreSQL 15 or later.
"""

import argparse
import collections
import contextlib
import http.client
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).parent.parent
HOLDFAST = os.environ.get("HOLDFAST", str(ROOT / "target/release/holdfast"))
PSQL = os.environ.get("PSQL", "psql")
PORT_OFFSET = 9000
# Service: its server, its database.
DATABASES = {"order": ("orders-db", "orders"), "payment": ("payments-db", "payments"), "delivery": ("deliveries-db", "deliveries")}
GROUPS = {
    "gateway and services": ["gateway", "order", "payment", "delivery"],
    "databases": ["orders-db", "payments-db", "deliveries-db"],
    "kafka": ["kafka"],
    "console": ["console"],
}
AIM_MS = 100
# Of pages that are slower than SLOW_MS so many are asked for.
SLOW_MS, SLOW_REQUESTS, SLOW_WARM_UP = 500, 20, 3
UNFINISHED, STUCK = 2000, 200
HAMMER_SECONDS = 30
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Where a page names services that did not answer in time.
NOT_ASKED = re.compile(rb'aria-label="Not asked">(.*?)</section>', re.S)

# A table whose rows are all refused leaves the event that was to write them as a dead letter.
REFUSE = """
    create function refuse() returns trigger language plpgsql as $$ begin raise exception 'refused' using errcode = '23514'; end $$;
    create trigger refuse before {event} for each row execute function refuse()"""
REFUSALS = {"payment": ("insert on payments", "payments"), "delivery": ("insert on deliveries", "deliveries"), "order": ("update on orders", "orders")}

# An id of version 7 that was made at a time, the same in each database.
SEEDS = """
    set session_replication_role = replica;  -- neither triggers nor foreign keys: each column is said here
    create function pg_temp.id_at(at timestamptz, seed text) returns uuid language sql immutable as $$
        select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(md5(seed), 1, 3)
            || '8' || substr(md5(seed), 4, 15))::uuid $$;
    -- The orders, the oldest first: a month of them, of which the last ones are on their way and a few have been forgotten.
    create temporary view seeds as
        select n, at, pg_temp.id_at(at, 'order' || n) as order_id, 'seed-' || n %% 1000 as user_id, n / 1000 as nth,
            case when n > %(orders)s then 'on its way' when n %% (%(orders)s / %(stuck)s) = 7 then 'stuck' else 'finished' end as kind
        from (select n, timestamptz '%(now)s' - (%(orders)s + %(unfinished)s + 50 - n) * interval '2.4 s' as at
            from generate_series(1, %(orders)s + %(unfinished)s) as n) as numbered;
    insert into inbox (group_name, event_id, topic, payload_hash, handled_at)
        select '%(service)s', pg_temp.id_at(at, 'event' || n), '%(topic)s', sha256(order_id::text::bytea),
            greatest(at, now() - interval '12 days') from seeds;"""
ROWS = {
    "order": """
        insert into orders (order_id, user_id, status, delivery_status, delivery_address, currency, total_minor, version, created_at,
            updated_at, change_position, change_block, finished)
            select order_id, user_id, case when kind = 'stuck' then 'PENDING' else 'PAID' end,
                case kind when 'finished' then 'DELIVERED' when 'on its way' then 'IN_TRANSIT' end, n || ' Quay Street, 20457 Hamburg', 'EUR', 3100,
                case kind when 'finished' then 6 when 'stuck' then 1 else 4 end, at, at + interval '6 s', nth, nth / 256, kind = 'finished' from seeds;
        insert into order_items (order_id, position, product_id, quantity, price_minor)
            select order_id, position, 'tea-' || position, position, 1250 - position * 150 from seeds, generate_series(1, 2) as position;
        insert into user_positions (user_id, position) select user_id, max(nth) from seeds group by user_id;""",
    "payment": """
        insert into payments (payment_id, order_id, user_id, currency, amount_minor, status, created_at, updated_at, delivery_address)
            select pg_temp.id_at(at, 'payment' || n), order_id, user_id, 'EUR', 3100, 'SUCCESS', at, at, n || ' Quay Street, 20457 Hamburg'
            from seeds where kind <> 'stuck';""",
    "delivery": """
        insert into deliveries (delivery_id, order_id, user_id, delivery_address, status, will_fail, due_at, due_from, created_at, updated_at)
            select pg_temp.id_at(at, 'delivery' || n), order_id, user_id, n || ' Quay Street, 20457 Hamburg',
                case kind when 'finished' then 'DELIVERED' else 'IN_TRANSIT' end, false, due_at,
                date_bin('8 seconds', due_at, timestamptz '2000-01-01 00:00:00+00'), at, at + interval '6 s'
            from (select *, case kind when 'on its way' then now() + interval '1 day' end as due_at from seeds) as seeds where kind <> 'stuck';
        insert into delivery_steps (delivery_id, position, status, at)
            select pg_temp.id_at(at, 'delivery' || n), position, (array['PENDING', 'IN_TRANSIT', 'OUT_FOR_DELIVERY', 'DELIVERED'])[position + 1],
                at + position * interval '2 s'
            from seeds, generate_series(0, 3) as position where kind = 'finished' or (kind = 'on its way' and position < 2);""",
}
# Copies of the one dead letter that is there, each of an order of its own; half of the forgotten orders stand behind one of payment.
LETTERS = """
    insert into dead_letters (id, group_name, class, reason, topic, partition, record_offset, record_timestamp_ms, key, value, headers, event_id,
        subject, attempts, redrive_count, first_failed_at, parked_at)
        select pg_temp.id_at(parked_at, 'letter' || nth), group_name, cause, 'refused for a reason of the benchmark', topic, nth %% 3, nth,
            record_timestamp_ms, key, case cause when 'decode' then '\\xff'::bytea else value end, headers, event_id, order_id::text,
            attempts, 0, parked_at, parked_at
        from (select n, at + interval '1 s' as parked_at, order_id, row_number() over (order by n) as nth from seeds
            where (kind = 'finished' and n %% (%(orders)s / %(letters)s) = 3) or (kind = 'stuck' and n / (%(orders)s / %(stuck)s) %% 2 = 0)) as seeds
        cross join lateral (select (array['attempts-exhausted', 'attempts-exhausted', 'attempts-exhausted', 'decode', 'business-invariant']
            )[(nth %% 5 + 1)::int] as cause) as causes
        cross join (select group_name, topic, record_timestamp_ms, key, value, headers, event_id, attempts from dead_letters limit 1) as template;
    insert into dead_letter_audit (id, group_name, at, actor, action, dead_letter_id, detail)
        select pg_temp.id_at(parked_at + interval '1 minute', 'audit' || id), group_name, parked_at + interval '1 minute', 'operator (bench)',
            'redrive-failed', id, 'refused once more' from dead_letters;
    insert into dead_letter_redrives (group_name, id, actor, selection, started_at, seen_at, dead_letters, failed, ended_at, outcome)
        select '%(service)s', pg_temp.id_at(now(), 'redrive' || n), 'operator (bench)', 'class attempts-exhausted', now() - n * interval '1 hour',
            now() - n * interval '1 hour', 100, 100, now() - n * interval '1 hour', 'finished' from generate_series(1, 100) as n;"""
# Share of all dead letters, and the topic of the events that are handled.
SHARES = {"order": (0.2, "payment.completed"), "payment": (0.6, "order.created"), "delivery": (0.2, "payment.completed")}


class Stack:
    """A stack of its own in a folder that is deleted with it."""

    def __init__(self, folder, port_offset=PORT_OFFSET, pages_per_second=100_000):
        self.folder = pathlib.Path(folder) / "stack"
        self.environment = {**os.environ, "HOLDFAST_DATA_DIR": str(self.folder), "USER": "bench"}
        self.run("up", "--port-offset", str(port_offset), "--set", f"console.pages_per_second={pages_per_second}")

    def run(self, *arguments):
        return subprocess.run([HOLDFAST, *arguments], env=self.environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def components(self):
        return {one["name"]: one for one in json.loads((self.folder / "state.json").read_text())["components"]}

    def sql(self, service, text):
        """Runs statements as the server's administrator, who shows the operator's certificate, and returns what the last one has said."""
        server, database = DATABASES[service]
        pki = self.folder / "pki/operator"
        environment = {
            "PATH": os.environ["PATH"],
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.components()[server]["port"]),
            "PGUSER": "holdfast",
            "PGPASSWORD": (self.folder / f"config/{server}.password").read_text().strip(),
            "PGDATABASE": database,
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(pki / "ca.crt"),
            "PGSSLCERT": str(pki / "tls.crt"),
            "PGSSLKEY": str(pki / "tls.key"),
        }
        command = [PSQL, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
        return subprocess.run(command, env=environment, input=text, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def order(self):
        """Creates an order as a client would, and returns its id."""
        token = self.run("token", "--user", "user-123").strip()
        body = {"delivery_address": "1 Quay Street", "items": [{"product_id": "tea-100g", "quantity": 1, "price": 1.5}]}
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(time.time_ns()), "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.components()['gateway']['port']}/api/orders"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=10) as answer:
            return json.load(answer)["order_id"]

    def sign_in(self):
        return Browser(self.run("console", "--allow-write").strip())


class Browser:
    """A kept connection to the console, with a session of its own; `fork` has another one of the same session."""

    def __init__(self, address):
        self.host, self.cookie = re.fullmatch(r"http://([^/]+)/.*", address)[1], None
        self.connection = http.client.HTTPConnection(self.host, timeout=30)
        self.connection.request("GET", address.removeprefix(f"http://{self.host}"))
        answer = self.connection.getresponse()
        answer.read()
        self.cookie = answer.getheader("Set-Cookie").partition(";")[0]

    def fork(self):
        other = object.__new__(Browser)
        other.host, other.cookie = self.host, self.cookie
        other.connection = http.client.HTTPConnection(self.host, timeout=30)
        return other

    def begin(self, path):
        self.connection.request("GET", path, headers={"Cookie": self.cookie})
        return self.connection.getresponse()

    def get(self, path):
        """Status, body, and milliseconds until all of it was there."""
        began = time.perf_counter()
        answer = self.begin(path)
        body = answer.read()
        return answer.status, body, (time.perf_counter() - began) * 1000


def until(what, is_so):
    """Waits for a condition, for two minutes at most."""
    end = time.monotonic() + 120
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within two minutes")
        time.sleep(0.2)


def park_one_each(stack):
    """One real dead letter in each service: of its own order for payment, of another one for the two that read payment.completed."""
    for services in (["payment"], ["order", "delivery"]):
        for service in services:
            stack.sql(service, REFUSE.format(event=REFUSALS[service][0]))
        stack.order()
        for service in services:
            until(f"{service} parks", lambda: stack.sql(service, "select count(*) from dead_letters") == "1")
            stack.sql(service, f"drop trigger refuse on {REFUSALS[service][1]}; drop function refuse")


def seed(stack, options):
    began = time.monotonic()
    stack.run("bench", "--phase", "1s", "--orders", str(options.bench_orders))
    park_one_each(stack)
    now = stack.sql("order", "select now()")

    def fill(service):
        share, topic = SHARES[service]
        values = {
            "service": service,
            "orders": options.orders,
            "unfinished": UNFINISHED,
            "stuck": STUCK,
            "topic": topic,
            "now": now,
            "letters": int(options.letters * share),
        }
        stack.sql(service, (SEEDS + ROWS[service] + LETTERS) % values)
        stack.sql(service, "vacuum analyze")

    failed = []

    def filled(service):
        try:
            fill(service)
        except subprocess.CalledProcessError as error:
            failed.append(f"{service}: {error}")

    threads = [threading.Thread(target=filled, args=[service]) for service in DATABASES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit("; ".join(failed))
    sizes = {service: stack.sql(service, "select pg_size_pretty(pg_database_size(current_database()))") for service in DATABASES}
    print(f"seeded in {time.monotonic() - began:.0f} s: {sizes}", flush=True)


def pages_of(stack):
    """Every page with its address. Those that change something are asked for their confirmation only."""
    id_of = lambda condition: stack.sql("order", f"select order_id from orders where {condition} limit 1")
    finished = id_of("user_id not like 'seed-%' and delivery_status = 'DELIVERED' order by order_id desc")
    seeded = id_of("user_id like 'seed-%' and finished order by order_id desc offset 1000")
    # The oldest one stands behind a letter.
    waiting = id_of("status = 'PENDING' and user_id like 'seed-%' order by order_id")
    letter = stack.sql("payment", f"select id from dead_letters where subject = '{waiting}'")
    cause = "service=payment&class=attempts-exhausted"
    page_token = stack.sql("payment", "select id from dead_letters where class = 'attempts-exhausted' order by id offset 3000 limit 1")
    time_of = lambda ago: stack.sql("order", f"select to_char(now() at time zone 'utc' - interval '{ago}', 'YYYY-MM-DD')")
    places = "select topic, partition from consumer_positions order by next_offset desc limit 1"
    topic, partition = stack.sql("payment", places).split("|")
    topic = f"/topics/{topic}"
    return [
        ("first page", "/"),
        ("order, delivered", f"/orders/{finished}"),
        ("order of a month of others, seeded", f"/orders/{seeded}"),
        ("order behind a letter", f"/orders/{waiting}"),
        ("messages of an order", f"/orders/{finished}/messages"),
        ("stuck orders", "/stuck?older=1m"),
        ("stuck orders, for a day", "/stuck?older=24h"),
        ("letters by cause", "/letters"),
        ("letters of one cause", f"/letters/list?{cause}"),
        ("the same, after 3,000 others", f"/letters/list?{cause}&after={page_token}"),
        ("the same, of the last day", f"/letters/list?{cause}&since=24h"),
        ("the same, until three weeks ago", f"/letters/list?{cause}&until={time_of('21 days')}"),
        ("letters of a state that none has", "/letters/list?state=discarded"),
        ("letters of an order", f"/letters/list?order={waiting}"),
        ("a letter", f"/letters/{letter}"),
        ("edit a letter", f"/letters/{letter}/edit"),
        ("redrive 1 of a cause", f"/desk?action=redrive&{cause}&max=1"),
        ("redrive 50 of a cause", f"/desk?action=redrive&{cause}&max=50"),
        ("redrive all of a cause, 1,000 at a time", f"/desk?action=redrive&{cause}&max=1000"),
        ("discard 50 of a cause", f"/desk?action=discard&{cause}&max=50"),
        ("discard all of a cause, 1,000 at a time", f"/desk?action=discard&{cause}&max=1000"),
        ("redrives", "/redrives"),
        ("consumer groups", "/groups"),
        ("resume consumers", "/groups/resume?service=payment"),
        ("topics", "/topics"),
        ("newest messages of a topic", topic),
        ("the same, one partition", f"{topic}?partition={partition}"),
        ("messages from an offset", f"{topic}?partition={partition}&offset=10"),
        ("a message", f"{topic}/{partition}/10"),
        ("messages of an order in a topic", f"{topic}?order={finished}"),
        ("reconcile an order, delivered", f"/reconcile?order={finished}"),
        ("reconcile an order that lacks events", f"/reconcile?order={seeded}"),
        ("reconcile what is unfinished", "/reconcile?older=5m"),
        ("outbox that holds nothing back", "/outbox"),
        ("audit", "/audit"),
        ("audit of a day", f"/audit?since={time_of('8 days')}&until={time_of('7 days')}"),
        ("components and certificates", "/components"),
    ]


def percentile(times, share):
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * share))]


def what_is_wrong(status, body):
    """Why a page is not what was asked for, or lacks something; empty if it is whole."""
    found = NOT_ASKED.search(body) or (status != 200 and re.search(rb"</h1>(.*?)</main>", body, re.S))
    return f"{status} {' '.join(re.sub(r'<[^>]*>', ' ', found[1].decode()).split())[:300]}" if found else ""


def measure_pages(stack, requests):
    browser = stack.sign_in()
    print("page | n | p50 ms | p99 ms | max ms | KiB | not whole | address")
    for name, path in pages_of(stack):
        first = [browser.get(path) for _ in range(SLOW_WARM_UP)]
        is_slow = statistics.median(milliseconds for _, _, milliseconds in first) > SLOW_MS
        if not is_slow:
            for _ in range(20 - SLOW_WARM_UP):
                browser.get(path)
        answers = [browser.get(path) for _ in range(SLOW_REQUESTS if is_slow else requests)]
        wrong = collections.Counter(filter(None, (what_is_wrong(status, body) for status, body, _ in answers)))
        if not any(status == 200 for status, _, _ in answers):
            raise SystemExit(f"{path}: {wrong}")
        times = [milliseconds for _, _, milliseconds in answers]
        p99 = percentile(times, 0.99)
        missed = " **missed**" if p99 > AIM_MS else ""
        print(
            f"{name} | {len(times)} | {statistics.median(times):.1f} | {p99:.1f}{missed} | {max(times):.1f} | {len(answers[0][1]) / 1024:.0f} "
            f"| {wrong.total()} | `{path}`",
            flush=True,
        )
        for why, count in wrong.items():
            print(f"    {count} times: {why}")


def cpu_ticks(process):
    """Of a process and all that it has started, whether they are still there or not."""
    children = collections.defaultdict(list)
    ticks = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # What is in brackets may have spaces.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                children[int(fields[1])].append(int(folder.name))
                ticks[int(folder.name)] = sum(map(int, fields[11:15]))
    total, rest = 0, [process]
    while rest:
        one = rest.pop()
        total += ticks.get(one, 0)
        rest += children[one]
    return total


def cpu_during(stack, seconds, work=lambda end: time.sleep(max(0, end - time.monotonic()))):
    """Percent of one core that each group of processes takes meanwhile."""
    components = stack.components()
    processes = {group: [components[name]["pid"] for name in names] for group, names in GROUPS.items()}
    look = lambda: {group: sum(map(cpu_ticks, pids)) for group, pids in processes.items()}
    before, began = look(), time.monotonic()
    work(began + seconds)
    after, elapsed = look(), time.monotonic() - began
    again = [name for name, one in stack.components().items() if one["pid"] != components[name]["pid"]]
    if again:
        raise SystemExit(f"{', '.join(again)}: started again meanwhile, so this CPU is of no use. {stack.run('logs', '--tail', '20', *again)}")
    return {group: (after[group] - before[group]) / TICKS_PER_SECOND / elapsed * 100 for group in processes}


@contextlib.contextmanager
def streams(browser, count):
    """So many open streams, spread over the pages that update by themselves, all of whose events are read."""
    pages = ["groups", "letters", "start", "redrives", "stuck&older=1m"]
    open_streams = [browser.fork() for _ in range(count)]
    events = [0] * count
    answers = [one.begin(f"/live?page={pages[number % len(pages)]}") for number, one in enumerate(open_streams)]
    refused = [answer.status for answer in answers if answer.status != 200]
    if refused:
        raise SystemExit(f"streams were refused: {refused}")

    def read(number):
        with contextlib.suppress(OSError, ValueError, AttributeError, http.client.HTTPException):
            for line in answers[number]:
                events[number] += line.startswith(b"data")

    threads = [threading.Thread(target=read, args=[number], daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    yield events
    for one in open_streams:
        one.connection.sock.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()


def hammer(browser, paths, connections):
    """Work that asks for pages by so many connections, one after the other; says how many were answered."""
    statuses = collections.Counter()

    def work(end):
        def ask(number):
            own, turn = browser.fork(), number
            while time.monotonic() < end:
                try:
                    status, body, _ = own.get(paths[turn % len(paths)])
                    statuses["not whole" if status == 200 and what_is_wrong(status, body) else status] += 1
                except (OSError, http.client.HTTPException) as error:
                    statuses[type(error).__name__] += 1
                    own = browser.fork()
                turn += 1

        threads = [threading.Thread(target=ask, args=[number]) for number in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return work, statuses


def measure_cpu(stack, seconds):
    console = stack.components()["console"]["pid"]
    show = lambda what, cpu: print(what, *(f"{cpu[group]:.2f}" for group in GROUPS), sep=" | ", flush=True)
    print("percent of one core", *GROUPS, sep=" | ")
    for round_ in (1, 2, 3):
        # Stopped as by a debugger: killed, it would be started again at once, and like this after 30 s.
        subprocess.run(["kill", "-STOP", str(console)], check=True)
        try:
            show(f"console stopped ({round_})", cpu_during(stack, seconds))
        finally:
            subprocess.run(["kill", "-CONT", str(console)], check=True)
        idle = cpu_during(stack, seconds)
        show(f"nobody looks ({round_})", idle)
    browser = stack.sign_in()
    for count in (1, 100):
        with streams(browser, count) as events:
            cpu = cpu_during(stack, seconds)
            show(f"{count} streams, {sum(events)} events", cpu)
    paths = [path for name, path in pages_of(stack) if not name.startswith(("redrive", "reconcile", "discard"))]
    work, statuses = hammer(browser, paths, connections=8)
    cpu = cpu_during(stack, HAMMER_SECONDS, work)
    pages = statuses.total()
    show(f"8 connections, {pages / HAMMER_SECONDS:.0f} pages/s {dict(statuses)}", cpu)
    of_page = lambda group: (cpu[group] - idle[group]) / 100 * HAMMER_SECONDS / pages * 1000
    print("each of these pages costs", ", ".join(f"{group} {of_page(group):.1f} ms" for group in GROUPS), "of CPU")
    print("share of the machine:", ", ".join(f"{group} {cpu[group] / os.cpu_count():.1f} %" for group in GROUPS))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--letters", type=int, default=10_000)
    parser.add_argument("--bench-orders", type=int, default=2000, help="orders that are really made")
    parser.add_argument("--requests", type=int, default=200, help="of each page")
    parser.add_argument("--seconds", type=int, default=20, choices=range(1, 26), metavar="1-25", help="for which CPU is measured, each time")
    parser.add_argument("--pages-per-second", type=int, default=100_000, help="that one person may ask for; the console's own limit is 15")
    parser.add_argument("--only", choices=["pages", "cpu"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-console-bench-") as folder:
        # Components may run as another user.
        os.chmod(folder, 0o755)
        stack = Stack(folder, pages_per_second=options.pages_per_second)
        try:
            seed(stack, options)
            if options.only != "cpu":
                measure_pages(stack, options.requests)
            if options.only != "pages":
                measure_cpu(stack, options.seconds)
        finally:
            stack.run("down", "--delete-data", "--yes")


if __name__ == "__main__":
    main()
