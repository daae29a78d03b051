//! The metrics of all processes: one row each. Code, alerts, runbook and `docs/metrics.md` are checked against these rows.
//!
//! A metric that OpenTelemetry's conventions know has their name, unit and labels, as Prometheus writes them
//! (`http.server.request.duration` in `s` is `http_server_request_duration_seconds`); all others begin with `holdfast_`.

macro_rules! metrics {
    ($($kind:ident $constant:ident = $name:literal, $help:literal;)+) => {
        $(
            #[doc = $help]
            #[allow(clippy::doc_markdown, reason = "this is also `# HELP`, where labels have no backticks")]
            pub const $constant: &str = $name;
        )+

        /// Kind, name and description of each.
        pub const ALL: &[(&str, &str, &str)] = &[$((stringify!($kind), $name, $help)),+];

        /// Gives the descriptions to the recorder, which shows them as `# HELP`.
        pub(crate) fn describe() {
            $(metrics!(@describe $kind $name, $help);)+
        }
    };
    (@describe counter $name:literal, $help:literal) => { metrics::describe_counter!($name, $help) };
    (@describe gauge $name:literal, $help:literal) => { metrics::describe_gauge!($name, $help) };
    (@describe histogram $name:literal, $help:literal) => { metrics::describe_histogram!($name, $help) };
}

metrics! {
    gauge DB_CLIENT_CONNECTION_COUNT = "db_client_connection_count", "connections of the pool, looked at once a second: db_client_connection_state (idle, used)";
    counter DB_CLIENT_CONNECTION_TIMEOUTS_TOTAL = "db_client_connection_timeouts_total", "times that nobody got a connection of the pool in time";
    histogram DB_CLIENT_CONNECTION_WAIT_TIME_SECONDS = "db_client_connection_wait_time_seconds", "time until a connection of the pool was had";
    histogram DB_CLIENT_OPERATION_DURATION_SECONDS = "db_client_operation_duration_seconds", "time of a call of Redis, whatever its outcome: db_system_name, and error_type where there was no answer";
    gauge CERTIFICATE_INFO = "holdfast_certificate_info", "1 for the certificate in use: serial, and a fingerprint over certificate, trust bundle and deny list";
    gauge CERTIFICATE_NOT_AFTER_TIMESTAMP_SECONDS = "holdfast_certificate_not_after_timestamp_seconds", "when the certificate in use expires, in seconds since 1970";
    counter CERTIFICATE_RELOAD_FAILURES_TOTAL = "holdfast_certificate_reload_failures_total", "certificate files were refused; the old ones stay in use";
    counter CIRCUIT_BREAKER_REJECTED_TOTAL = "holdfast_circuit_breaker_rejected_total", "calls that a breaker refused: destination, endpoint";
    gauge CIRCUIT_BREAKER_STATE = "holdfast_circuit_breaker_state", "1 for the state that a breaker is in: destination, endpoint, state";
    counter CIRCUIT_BREAKER_TRANSITIONS_TOTAL = "holdfast_circuit_breaker_transitions_total", "changes of a breaker's state: destination, endpoint, to";
    gauge COMPONENT_DEGRADED = "holdfast_component_degraded", "1 while something is wrong with a part: component, required";
    gauge CONSOLE_READERS = "holdfast_console_readers", "pages of the console that read topics now";
    gauge CONSOLE_STREAMS = "holdfast_console_streams", "pages of the console that update by themselves now";
    gauge CONSUMER_LAG_RECORDS = "holdfast_consumer_lag_records", "records that wait behind the position: topic";
    gauge CONSUMER_LAST_PROGRESS_TIMESTAMP_SECONDS = "holdfast_consumer_last_progress_timestamp_seconds", "when the consumer last made progress or had nothing to do";
    counter CONSUMER_LOGS_REPLACED_TOTAL = "holdfast_consumer_logs_replaced_total", "partitions whose log is a different one than the position refers to: topic";
    counter CONSUMER_MEMBERSHIPS_LOST_TOTAL = "holdfast_consumer_memberships_lost_total", "memberships in the consumer group that ended: reason";
    gauge CONSUMER_PARTITIONS_EXPECTED = "holdfast_consumer_partitions_expected", "partitions of the topics that the service reads";
    gauge CONSUMER_PARTITIONS_OWNED = "holdfast_consumer_partitions_owned", "partitions that this member owns";
    gauge CONSUMER_PARTITIONS_UNOWNED = "holdfast_consumer_partitions_unowned", "partitions that no member of the group owns";
    counter CONSUMER_RECORDS_MISSING_TOTAL = "holdfast_consumer_records_missing_total", "records that were deleted before they were read: topic";
    counter CONSUMER_RETRIES_TOTAL = "holdfast_consumer_retries_total", "batches tried again because the infrastructure was away";
    gauge CONSUMER_STOPPED_BY_DEAD_LETTERS = "holdfast_consumer_stopped_by_dead_letters", "1 while the consumer is stopped by the limit on dead letters";
    counter CONSUMER_STOPS_TOTAL = "holdfast_consumer_stops_total", "times that the limit on dead letters stopped the consumer";
    counter DATABASE_CONNECTIONS_CUT_OFF_TOTAL = "holdfast_database_connections_cut_off_total", "connections closed because a deadline passed or a caller went away in the middle";
    gauge DATABASE_OLDEST_TRANSACTION_SECONDS = "holdfast_database_oldest_transaction_seconds", "age of the oldest open transaction of the database";
    counter DATABASE_PASSWORD_RELOAD_FAILURES_TOTAL = "holdfast_database_password_reload_failures_total", "the file of the database's password can't be used; the old one stays in use";
    counter DATABASE_STALE_PLANS_TOTAL = "holdfast_database_stale_plans_total", "statements whose prepared plan could never run again";
    counter DATABASE_UNTRUSTED_TOTAL = "holdfast_database_untrusted_total", "connections to the database that failed because one side refused the other's certificate, or the server has no TLS";
    gauge DEAD_LETTERS_OLDEST_AGE_SECONDS = "holdfast_dead_letters_oldest_age_seconds", "age of the oldest parked letter";
    gauge DEAD_LETTERS_PARKED = "holdfast_dead_letters_parked", "letters that are parked: topic, class";
    counter DEAD_LETTERS_REDRIVEN_TOTAL = "holdfast_dead_letters_redriven_total", "letters that were redriven: outcome";
    counter DEAD_LETTERS_TOTAL = "holdfast_dead_letters_total", "records parked as dead letters: topic, class";
    counter DELIVERY_STEPS_TOTAL = "holdfast_delivery_steps_total", "deliveries that moved on";
    histogram EVENT_LOOP_LAG_SECONDS = "holdfast_event_loop_lag_seconds", "how late the runtime wakes a task that sleeps: everything else waits as long for its turn";
    histogram EVENT_STREAM_DELAY_SECONDS = "holdfast_event_stream_delay_seconds", "from the commit of a change to when it is written to a client's stream";
    counter EVENT_STREAM_LOOKS_TOTAL = "holdfast_event_stream_looks_total", "times that a stream read for itself, because a change may have been missed or there was more than a page: reason";
    gauge EVENT_STREAMS_OPEN = "holdfast_event_streams_open", "streams of events that are open";
    counter EVENT_STREAMS_REFUSED_TOTAL = "holdfast_event_streams_refused_total", "streams refused because too many are open: reason";
    gauge GRPC_CALLS_IN_PROGRESS = "holdfast_grpc_calls_in_progress", "calls that are being handled";
    counter GRPC_CALLS_SHED_TOTAL = "holdfast_grpc_calls_shed_total", "calls refused because of overload: reason";
    counter GRPC_CALLS_WITHOUT_SUBJECT_TOTAL = "holdfast_grpc_calls_without_subject_total", "calls of a gateway of an earlier version, which does not say for whom it calls";
    counter GRPC_CLIENT_RETRIES_OVER_BUDGET_TOTAL = "holdfast_grpc_client_retries_over_budget_total", "retries that the budget did not allow: destination";
    counter GRPC_CLIENT_RETRIES_TOTAL = "holdfast_grpc_client_retries_total", "calls sent again: destination";
    gauge GRPC_CLIENT_RETRY_BUDGET_ALLOWED = "holdfast_grpc_client_retry_budget_allowed", "retries that the calls of the last 10 s allow in these, those that were sent included: destination";
    gauge GRPC_CLIENT_RETRY_BUDGET_LEFT = "holdfast_grpc_client_retry_budget_left", "retries that the budget allows now: destination";
    counter GRPC_DEADLINE_EXCEEDED_TOTAL = "holdfast_grpc_deadline_exceeded_total", "calls whose deadline passed while they were handled";
    counter GRPC_MESSAGES_LATE_TOTAL = "holdfast_grpc_messages_late_total", "calls whose message did not arrive in time";
    counter GRPC_PERMISSION_DENIED_TOTAL = "holdfast_grpc_permission_denied_total", "calls of an identity that may not make them, or for somebody who may not";
    counter HTTP_ACCEPT_FAILURES_TOTAL = "holdfast_http_accept_failures_total", "connections that could not be accepted, most likely for lack of file descriptors: port";
    gauge HTTP_BODY_BYTES = "holdfast_http_body_bytes", "bytes of request bodies that are held in memory";
    gauge HTTP_CONNECTIONS = "holdfast_http_connections", "connections that are open: port";
    counter HTTP_CONNECTIONS_ENDED_TOTAL = "holdfast_http_connections_ended_total", "connections that we ended: port, reason";
    counter HTTP_CONNECTIONS_REFUSED_TOTAL = "holdfast_http_connections_refused_total", "connections that got no place: port, reason";
    counter HTTP_REQUESTS_REFUSED_TOTAL = "holdfast_http_requests_refused_total", "requests refused because of how they were sent: port, reason";
    counter JWKS_RELOAD_FAILURES_TOTAL = "holdfast_jwks_reload_failures_total", "token keys were refused; the old ones stay in use";
    gauge KAFKA_CLIENTS = "holdfast_kafka_clients", "clients of Kafka by what they show: client (consumer, observer, producer, reader), and a fingerprint over certificate and trust bundle";
    counter KAFKA_CLIENTS_RENEWED_TOTAL = "holdfast_kafka_clients_renewed_total", "clients of Kafka that were replaced because the files of their certificate have changed: client (consumer, observer, producer, reader)";
    counter KAFKA_REFUSALS_TOTAL = "holdfast_kafka_refusals_total", "what was refused to the clients of Kafka, or what they refused: reason (certificate, topic, group, cluster)";
    gauge ORDER_CACHE_BYTES = "holdfast_order_cache_bytes", "memory that the last known states of orders take, about";
    counter ORDER_CACHE_READS_TOTAL = "holdfast_order_cache_reads_total", "orders that clients asked for: outcome (known; shared: known to another gateway; read from order; stale: the last known state, because order is away)";
    histogram ORDER_PAYMENT_SECONDS = "holdfast_order_payment_seconds", "from the creation of an order to the decision about its payment";
    counter ORDERS_CREATED_TOTAL = "holdfast_orders_created_total", "orders created, replays not counted";
    gauge ORDERS_STUCK = "holdfast_orders_stuck", "orders that are unfinished for too long";
    gauge OUTBOX_DEAD_ROWS = "holdfast_outbox_dead_rows", "deleted outbox rows that vacuum has not removed, as PostgreSQL estimates";
    gauge OUTBOX_HELD_BACK_KEYS = "holdfast_outbox_held_back_keys", "keys whose oldest row can't be published";
    gauge OUTBOX_HELD_BACK_OLDEST_AGE_SECONDS = "holdfast_outbox_held_back_oldest_age_seconds", "age of the oldest row that is held back";
    gauge OUTBOX_HELD_BACK_ROWS = "holdfast_outbox_held_back_rows", "rows that are held back";
    gauge OUTBOX_LAST_PROGRESS_TIMESTAMP_SECONDS = "holdfast_outbox_last_progress_timestamp_seconds", "when the relay last published or had nothing to do";
    gauge OUTBOX_OLDEST_AGE_SECONDS = "holdfast_outbox_oldest_age_seconds", "age of the oldest row that waits to be published";
    counter OUTBOX_PRODUCER_REPLACEMENTS_TOTAL = "holdfast_outbox_producer_replacements_total", "producers replaced: reason";
    counter OUTBOX_RELAY_FAILURES_TOTAL = "holdfast_outbox_relay_failures_total", "passes of the relay that failed";
    counter PERIODIC_TASK_FAILURES_TOTAL = "holdfast_periodic_task_failures_total", "runs of a periodic task that failed: task";
    gauge PERIODIC_TASK_LAST_SUCCESS_TIMESTAMP_SECONDS = "holdfast_periodic_task_last_success_timestamp_seconds", "when a periodic task last succeeded: task";
    gauge RATE_LIMIT_KEYS = "holdfast_rate_limit_keys", "clients whose bucket is not full: limit";
    counter RECORDS_SET_ASIDE_TOTAL = "holdfast_records_set_aside_total", "records of which only the place was kept: topic, class";
    counter REDIS_CALLS_TOTAL = "holdfast_redis_calls_total", "calls of Redis, and those that were not made: outcome";
    counter REQUESTS_LIMITED_TOTAL = "holdfast_requests_limited_total", "requests refused because their client is over a limit: limit";
    counter RESOLVE_FAILURES_TOTAL = "holdfast_resolve_failures_total", "names that could not be resolved: destination";
    counter SETTINGS_RELOAD_FAILURES_TOTAL = "holdfast_settings_reload_failures_total", "the file of the settings was refused while the process ran; those that it has stay in use";
    counter TLS_HANDSHAKE_FAILURES_TOTAL = "holdfast_tls_handshake_failures_total", "connections refused in the handshake";
    counter TLS_HANDSHAKES_DROPPED_TOTAL = "holdfast_tls_handshakes_dropped_total", "handshakes dropped because too many were silent";
    counter TOKENS_REFUSED_TOTAL = "holdfast_tokens_refused_total", "access tokens refused: cause";
    counter TRACES_SPANS_TOTAL = "holdfast_traces_spans_total", "spans by what became of them: outcome";
    counter TRANSACTION_CONFLICTS_TOTAL = "holdfast_transaction_conflicts_total", "transactions run again because they lost against another: name";
    histogram TRANSACTION_DURATION_SECONDS = "holdfast_transaction_duration_seconds", "time of one attempt of a transaction, from BEGIN to its end, however it ends: name";
    histogram HTTP_SERVER_REQUEST_DURATION_SECONDS = "http_server_request_duration_seconds", "time of a REST request: http_request_method, url_scheme, http_route, http_response_status_code, and error_type where the fault is ours";
    gauge HTTP_SERVER_ACTIVE_REQUESTS = "http_server_active_requests", "REST requests that have no answer yet: http_request_method, url_scheme";
    counter MESSAGING_CLIENT_CONSUMED_MESSAGES_TOTAL = "messaging_client_consumed_messages_total", "records by how they ended: messaging_system, messaging_operation_name, messaging_consumer_group_name, outcome";
    counter MESSAGING_CLIENT_SENT_MESSAGES_TOTAL = "messaging_client_sent_messages_total", "rows that the relay sent: messaging_system, messaging_operation_name, messaging_destination_name, and error_type where the row was not taken";
    histogram MESSAGING_CLIENT_OPERATION_DURATION_SECONDS = "messaging_client_operation_duration_seconds", "from when a row is given to the producer to the broker's answer: messaging_system, messaging_operation_name, messaging_operation_type, messaging_destination_name, and error_type where the row was not taken";
    histogram MESSAGING_PROCESS_DURATION_SECONDS = "messaging_process_duration_seconds", "time of a batch of events, its transaction included: messaging_system, messaging_operation_name, messaging_consumer_group_name";
    histogram RPC_CLIENT_CALL_DURATION_SECONDS = "rpc_client_call_duration_seconds", "time of a call with all its attempts and pauses, to the head of its answer: rpc_system_name, rpc_method, rpc_response_status_code, server_address, and error_type where it failed";
    histogram RPC_SERVER_CALL_DURATION_SECONDS = "rpc_server_call_duration_seconds", "time of a call that its caller may make, from its head to the head of its answer: rpc_system_name, rpc_method, rpc_response_status_code, and error_type where the fault is ours";
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    /// The page of metrics says what this list says. `UPDATE_METRICS_PAGE=1 cargo test -p holdfast-common metric` writes it.
    #[test]
    fn the_page_of_metrics_is_this_list() {
        let head = "# Metrics\n\nOf each process, at `/metrics` of its admin port. A colon is followed by the labels. Names without `holdfast_` are \
                    those of OpenTelemetry's\n[conventions 1.44](https://github.com/open-telemetry/semantic-conventions/tree/v1.44.0/docs), as Prometheus \
                    writes them; the former names are in\n[CHANGELOG.md](../CHANGELOG.md).\n\n\
                    | metric | kind | what it says |\n|---|---|---|\n";
        let row = |(kind, name, help): &(&str, &str, &str)| format!("| `{name}` | {kind} | {help} |\n");
        let page = head.to_owned() + &ALL.iter().map(row).collect::<String>();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        if env::var_os("UPDATE_METRICS_PAGE").is_some() {
            fs::write(path, &page).expect("written");
        }
        assert_eq!(fs::read_to_string(path).unwrap_or_default(), page);
    }

    /// Those of OpenTelemetry's conventions 1.44 that we have.
    const CONVENTIONAL: &[&str] = &[
        "db_client_connection_count",
        "db_client_connection_timeouts_total",
        "db_client_connection_wait_time_seconds",
        "db_client_operation_duration_seconds",
        "http_server_active_requests",
        "http_server_request_duration_seconds",
        "messaging_client_consumed_messages_total",
        "messaging_client_operation_duration_seconds",
        "messaging_client_sent_messages_total",
        "messaging_process_duration_seconds",
        "rpc_client_call_duration_seconds",
        "rpc_server_call_duration_seconds",
    ];

    /// Names say their kind and their unit as Prometheus asks, and whose they are.
    #[test]
    fn names_say_their_kind() {
        for (kind, name, _) in ALL {
            assert!(name.starts_with("holdfast_") || CONVENTIONAL.contains(name), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
            assert!(*kind != "histogram" || name.ends_with("_seconds"), "{name}");
        }
    }
}
