-- Transactional outbox: what must be published, written in the transaction of the change that it tells.
-- A row exists until the broker has acknowledged it; there is no "sent" state to get wrong.
create table outbox (
    -- Order of insertion. Two transactions may commit in another order; rows of one aggregate can't, because each
    -- writer holds the aggregate's row lock.
    id          bigint generated always as identity primary key,
    topic       text        not null,
    -- Kafka key; null for a record without one (dead-letter copies of such records).
    key         bytea,
    -- Kafka value; null for a tombstone (dead-letter copies of such records).
    value       bytea,
    -- Encoded by common/src/record.rs: names may repeat and values are bytes, which no SQL type holds as it is.
    headers     bytea       not null,
    created_at  timestamptz not null default clock_timestamp()
)
-- Rows live for milliseconds: vacuum early, so that the table stays a few pages.
with (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
