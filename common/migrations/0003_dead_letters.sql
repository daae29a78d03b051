-- Dead letters: records that can never succeed as they are, and those that wait behind one. Parked in the transaction
-- that records them in the inbox (docs/adr/0001-dead-letters-in-the-database.md).
create table dead_letters (
    -- UUIDv7; the dlq-id header of the copy in the dead-letter topic.
    id                   uuid        primary key,
    group_name           text        not null,
    -- decode, unknown-type, unknown-version, schema-violation, wrong-topic, business-invariant, attempts-exhausted,
    -- blocked-by-key.
    class                text        not null,
    -- At most 512 bytes, never a part of the payload.
    reason               text        not null check (octet_length(reason) <= 512),
    -- parked: waits for an operator. redriven: handled after all. discarded: given up, with a reason in the audit.
    state                text        not null default 'parked' check (state in ('parked', 'redriven', 'discarded')),
    topic                text        not null,
    partition            int         not null,
    record_offset        bigint      not null,
    record_timestamp_ms  bigint,
    -- The record, byte for byte; headers encoded by common/src/record.rs.
    key                  bytea,
    value                bytea,
    headers              bytea       not null,
    -- The inbox key under which it was recorded.
    event_id             uuid        not null,
    -- The aggregate (ce_subject), where the record names one.
    subject              text,
    -- The letter that it waits behind.
    blocked_by           uuid        references dead_letters (id),
    attempts             int         not null,
    redrive_count        int         not null default 0,
    first_failed_at      timestamptz not null,
    parked_at            timestamptz not null default now()
);

-- Each batch asks whether one of its aggregates is parked.
create index dead_letters_parked on dead_letters (group_name, subject, id) where state = 'parked';
