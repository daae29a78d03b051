#!/usr/bin/env python3
"""Writes the Grafana boards in deploy/grafana. Panels are rows of a table here, so that all of them have the same form.

    scripts/dashboards.py [FOLDER]
"""

import json
import pathlib
import sys

HERE = 'job=~"$job",instance=~"$instance"'
WINDOW = "[$__rate_interval]"


def rate(metric, labels="", by=""):
    """Events per second, summed up."""
    selector = ",".join(filter(None, [HERE, labels]))
    return f"sum{by and f' by ({by})'} (rate({metric}{{{selector}}}{WINDOW}))"


def quantile(share, metric, labels="", by=""):
    """A quantile of a histogram, in seconds."""
    buckets = rate(f"{metric}_bucket", labels, ",".join(filter(None, ["le", by])))
    return f"histogram_quantile({share}, {buckets})"


def gauge(metric, labels="", by="", how="max"):
    selector = ",".join(filter(None, [HERE, labels]))
    return f"{how}{by and f' by ({by})'} ({metric}{{{selector}}})"


def or_zero(expression):
    """For what is not there before it has happened once."""
    return f"{expression} or vector(0)"


def quantiles(metric, labels=""):
    return [(quantile(share, metric, labels), name) for share, name in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")]]


# Title, description, unit, (expression, legend) of each series.
OVERVIEW = [
    (
        "Requests",
        "Answers of the API by status. 429 and other 4xx are good answers; 5xx are not.",
        "reqps",
        [(rate("http_server_request_duration_seconds_count", 'http_route=~"/api/.*"', "http_response_status_code"), "{{http_response_status_code}}")],
    ),
    (
        "Failures of the server",
        "Share of the API's answers that are 5xx. 0.1 % are allowed in 30 days.",
        "percentunit",
        [
            (
                "(" + or_zero(rate("http_server_request_duration_seconds_count", 'http_route=~"/api/.*",http_response_status_code=~"5.."')) + ") / "
                + rate("http_server_request_duration_seconds_count", 'http_route=~"/api/.*"'),
                "5xx",
            )
        ],
    ),
    ("Time of a POST", "Creating an order, as the gateway measures it. 99 % should take less than 100 ms.", "s",
     quantiles("http_server_request_duration_seconds", 'http_route="/api/orders",http_response_status_code="201"')),
    ("Time to the decision about a payment", "From the creation of an order. 99 % should take less than 1 s.", "s", quantiles("holdfast_order_payment_seconds")),
    ("Orders", "Created per second, repetitions not counted.", "ops", [(rate("holdfast_orders_created_total"), "created")]),
    ("Stuck orders", "Unfinished for more than a minute. `holdfast reconcile` says why.", "short", [(gauge("holdfast_orders_stuck"), "stuck")]),
    ("Degraded parts", "Parts of processes that wait or have failed; `/readyz` says why. None is good.", "short",
     [(or_zero(gauge("holdfast_component_degraded", "", "job,component", "sum") + " > 0"), "{{job}} {{component}}")]),
    ("Refused by limits", "429 and 503 with Retry-After, by the limit.", "reqps", [(or_zero(rate("holdfast_requests_limited_total", "", "limit")), "{{limit}}")]),
    ("Requests without an answer", "That the gateway works on, by method, and calls that the services work on.", "short",
     [(gauge("http_server_active_requests", "", "http_request_method", "sum"), "{{http_request_method}}"),
      (gauge("holdfast_grpc_calls_in_progress", "", "job", "sum"), "{{job}} calls")]),
    ("Lag of the event loop", "99 % of sleeping tasks are woken earlier than this after their time. Above 0.1 s something computes or blocks.", "s",
     [(quantile(0.99, "holdfast_event_loop_lag_seconds", "", "job,instance"), "{{job}} {{instance}}")]),
    ("Certificates", "Time until the certificate in use expires. Leaves are renewed daily.", "s",
     [(f"min by (job) (holdfast_certificate_not_after_timestamp_seconds{{{HERE}}}) - time()", "{{job}}")]),
]
SAGA = [
    ("Orders and steps of deliveries", "What begins and what moves on.", "ops",
     [(rate("holdfast_orders_created_total"), "orders"), (rate("holdfast_delivery_steps_total"), "steps of deliveries")]),
    ("Decisions about payments", "Payments that were decided, as order has learned of them.", "ops", [(rate("holdfast_order_payment_seconds_count"), "decided")]),
    ("Time to the decision, by bucket", "How many payments per second were decided within each time.", "ops",
     [(rate("holdfast_order_payment_seconds_bucket", "", "le"), "{{le}} s")]),
    ("Events published", "Rows of the outbox that the broker has acknowledged.", "ops", [(rate("messaging_client_sent_messages_total", 'error_type=""', "job"), "{{job}}")]),
    ("Time of a send", "From when the relay gives a row to its producer to the broker's answer, for 99 % of rows.", "s",
     [(quantile(0.99, "messaging_client_operation_duration_seconds", "", "job"), "{{job}}")]),
    ("Age of the oldest row that waits", "Above 10 s the broker is slow or away.", "s", [(gauge("holdfast_outbox_oldest_age_seconds", "", "job"), "{{job}}")]),
    ("Events handled", "Records by how they ended.", "ops", [(rate("messaging_client_consumed_messages_total", "", "job,outcome"), "{{job}} {{outcome}}")]),
    ("Time of transactions", "99 % of the attempts of each transaction are faster than this.", "s",
     [(quantile(0.99, "holdfast_transaction_duration_seconds", "", "job,name"), "{{job}} {{name}}")]),
    ("Time of a batch", "99 % of transactions over a batch of events are faster than this.", "s",
     [(quantile(0.99, "messaging_process_duration_seconds", "", "job"), "{{job}}")]),
    ("Transactions run again", "Lost against another one; a few are normal.", "ops", [(or_zero(rate("holdfast_transaction_conflicts_total", "", "name")), "{{name}}")]),
    ("Streams of events", "Clients that follow their orders.", "short", [(gauge("holdfast_event_streams_open", "", "", "sum"), "open")]),
]
MESSAGES = [
    ("Lag", "Records that wait, by reader and topic.", "short", [(gauge("holdfast_consumer_lag_records", "", "job,topic"), "{{job}} {{topic}}")]),
    ("Time since progress", "Since a consumer has handled something or had nothing to do. Above a minute it stands still.", "s",
     [(f"time() - max by (job) (holdfast_consumer_last_progress_timestamp_seconds{{{HERE}}})", "{{job}}")]),
    ("Partitions without an owner", "Nobody reads them. None is good.", "short", [(gauge("holdfast_consumer_partitions_unowned", "", "job"), "{{job}}")]),
    ("Partitions by owner", "How they are spread over replicas.", "short", [(gauge("holdfast_consumer_partitions_owned", "", "job,instance"), "{{job}} {{instance}}")]),
    ("Dead letters", "Letters that wait for an operator.", "short", [(or_zero(gauge("holdfast_dead_letters_parked", "", "job,topic,class")), "{{job}} {{topic}} {{class}}")]),
    ("Age of the oldest letter", "None should wait for more than 4 hours.", "s", [(gauge("holdfast_dead_letters_oldest_age_seconds", "", "job"), "{{job}}")]),
    ("Parked and redriven", "New letters, and what became of redriven ones.", "ops",
     [(or_zero(rate("holdfast_dead_letters_total", "", "class")), "parked {{class}}"), (or_zero(rate("holdfast_dead_letters_redriven_total", "", "outcome")), "redriven {{outcome}}")]),
    ("Consumers stopped by dead letters", "1 while nearly all that arrives is poison.", "short",
     [(gauge("holdfast_consumer_stopped_by_dead_letters", "", "job"), "{{job}}")]),
    ("Rows held back", "Rows of the outbox that can't be published; `holdfast outbox list` says why.", "short",
     [(gauge("holdfast_outbox_held_back_rows", "", "job"), "{{job}}")]),
    ("Memberships lost", "In consumer groups, by reason.", "ops", [(or_zero(rate("holdfast_consumer_memberships_lost_total", "", "job,reason")), "{{job}} {{reason}}")]),
]
CALLS = [
    ("Calls", "gRPC, by the service that handles them.", "reqps", [(rate("rpc_server_call_duration_seconds_count", "", "job"), "{{job}}")]),
    ("Time of calls where they are handled", "99 % are faster than this, by method.", "s",
     [(quantile(0.99, "rpc_server_call_duration_seconds", "", "rpc_method"), "{{rpc_method}}")]),
    ("Time of calls to the caller", "The same with attempts, pauses and the way, by the service that is called.", "s",
     [(quantile(0.99, "rpc_client_call_duration_seconds", "", "server_address"), "{{server_address}}")]),
    ("Calls that fail", "As the caller sees it, by service and code.", "reqps",
     [(or_zero(rate("rpc_client_call_duration_seconds_count", 'error_type!=""', "server_address,error_type")), "{{server_address}} {{error_type}}")]),
    ("Breakers that are not closed", "By caller and endpoint. None is good.", "short",
     [(or_zero(gauge("holdfast_circuit_breaker_state", 'state!="closed"', "job,endpoint,state") + " > 0"), "{{job}} {{endpoint}} {{state}}")]),
    ("Calls sent again", "Retries, and those that the budget did not allow.", "reqps",
     [(or_zero(rate("holdfast_grpc_client_retries_total", "", "destination")), "{{destination}}"),
      (or_zero(rate("holdfast_grpc_client_retries_over_budget_total", "", "destination")), "{{destination}} over budget")]),
    ("Calls refused or late", "Shed because of overload, or past their deadline.", "reqps",
     [(or_zero(rate("holdfast_grpc_calls_shed_total", "", "job,reason")), "{{job}} shed {{reason}}"),
      (or_zero(rate("holdfast_grpc_deadline_exceeded_total", "", "job")), "{{job}} late")]),
    ("Time of requests", "99 % of answers of the gateway are faster than this, by route.", "s",
     [(quantile(0.99, "http_server_request_duration_seconds", "", "http_route"), "{{http_route}}")]),
    ("Wait for a database connection", "99 % of calls and batches get one of the pool faster than this.", "s",
     [(quantile(0.99, "db_client_connection_wait_time_seconds", "", "job"), "{{job}}")]),
    ("Database connections", "Of each pool, in use and idle, and how often nobody got one in time.", "short",
     [(gauge("db_client_connection_count", "", "job,db_client_connection_state", "sum"), "{{job}} {{db_client_connection_state}}"),
      (or_zero(rate("db_client_connection_timeouts_total", "", "job")), "{{job}} timeouts per second")]),
    ("Connections", "Open at the gateway, by port.", "short", [(gauge("holdfast_http_connections", "", "port", "sum"), "{{port}}")]),
    ("Connections ended by us", "By reason.", "ops", [(or_zero(rate("holdfast_http_connections_ended_total", "", "reason")), "{{reason}}")]),
    ("Orders from the cache", "What clients asked for, by where the answer came from.", "ops", [(rate("holdfast_order_cache_reads_total", "", "outcome"), "{{outcome}}")]),
    ("Tokens refused", "By cause.", "ops", [(or_zero(rate("holdfast_tokens_refused_total", "", "cause")), "{{cause}}")]),
]
CHAOS = [
    ("Answers", "While parts are killed: everything but 5xx is good.", "reqps", [(rate("http_server_request_duration_seconds_count", 'http_route=~"/api/.*"', "http_response_status_code"), "{{http_response_status_code}}")]),
    ("Parts that are away", "Which process waits for what.", "short",
     [(or_zero(gauge("holdfast_component_degraded", "", "job,component", "sum") + " > 0"), "{{job}} {{component}}")]),
    ("Backlog", "Rows and records that wait. It ends at 0, or work does not flow again.", "short",
     [(gauge("holdfast_consumer_lag_records", "", "job", "sum"), "{{job}} lag"), (gauge("holdfast_outbox_oldest_age_seconds", "", "job"), "{{job}} oldest row, s")]),
    ("Time since progress", "Of consumers and relays.", "s",
     [(f"time() - max by (job) (holdfast_consumer_last_progress_timestamp_seconds{{{HERE}}})", "{{job}} consumer"),
      (f"time() - max by (job) (holdfast_outbox_last_progress_timestamp_seconds{{{HERE}}})", "{{job}} relay")]),
    ("Recoveries", "Memberships, producers and breakers that were replaced or changed.", "ops",
     [(or_zero(rate("holdfast_consumer_memberships_lost_total", "", "job")), "{{job}} membership"),
      (or_zero(rate("holdfast_outbox_producer_replacements_total", "", "job")), "{{job}} producer"),
      (or_zero(rate("holdfast_circuit_breaker_transitions_total", "", "to")), "breaker to {{to}}")]),
    ("Duplicates that were recognised", "Records that arrived again and changed nothing.", "ops",
     [(or_zero(rate("messaging_client_consumed_messages_total", 'outcome="duplicate"', "job")), "{{job}}")]),
    ("Batches tried again", "While the infrastructure is away.", "ops", [(or_zero(rate("holdfast_consumer_retries_total", "", "job")), "{{job}}")]),
]
BOARDS = {
    "overview": ("Holdfast: overview", "What users notice, and whether a promise is in danger.", OVERVIEW),
    "saga": ("Holdfast: saga", "From the order to the last step of its delivery.", SAGA),
    "messages": ("Holdfast: Kafka and dead letters", "Who reads what, and what could not be handled.", MESSAGES),
    "calls": ("Holdfast: calls", "gRPC and HTTP: retries, breakers, limits, connections.", CALLS),
    "chaos": ("Holdfast: chaos", "What a chaos run does to the system, and how it recovers.", CHAOS),
}

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 8


def panel(number, title, description, unit, series):
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"x": number % 3 * WIDTH, "y": number // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(series)
        ],
    }


def variable(name, label):
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values(holdfast_component_degraded, {name})", "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def board(uid, title, description, panels):
    return {
        "uid": f"holdfast-{uid}",
        "title": title,
        "description": description,
        "tags": ["holdfast"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                variable("job", "Service"),
                variable("instance", "Replica"),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Degraded",
                    "enable": True,
                    "datasource": DATASOURCE,
                    "expr": "changes(holdfast_component_degraded[1m]) > 0",
                    "titleFormat": "{{job}} {{component}}",
                    "iconColor": "orange",
                }
            ]
        },
        "links": [{"title": "Holdfast", "type": "dashboards", "tags": ["holdfast"], "asDropdown": True}],
        "panels": [panel(number, *row) for number, row in enumerate(panels)],
    }


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "deploy/grafana")
    for uid, (title, description, panels) in BOARDS.items():
        text = json.dumps(board(uid, title, description, panels), indent=2, ensure_ascii=False)
        (folder / f"{uid}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
