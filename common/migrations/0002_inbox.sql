-- Inbox: the events that a consumer group has dealt with. The row is written in the transaction of the effects, so an
-- event has its effects once, however often it is delivered.
create table inbox (
    group_name    text        not null,
    -- ce_id of the event; for a record without a usable one an id derived from topic, partition and offset.
    event_id      uuid        not null,
    topic         text        not null,
    -- SHA-256 of the value: an id that comes again with another payload is not a duplicate.
    payload_hash  bytea       not null,
    handled_at    timestamptz not null default now(),
    primary key (group_name, event_id)
);

-- Rows are written in the order of their age, so a few bytes per block are enough to find the old ones.
create index inbox_age on inbox using brin (handled_at);

-- The account of each partition: records = applied + duplicates + parked, exactly.
create table consumer_positions (
    group_name   text   not null,
    topic        text   not null,
    partition    int    not null,
    -- The offset after the last record that was counted. A record below it is a redelivery and isn't counted again.
    next_offset  bigint not null default 0,
    applied      bigint not null default 0,
    duplicates   bigint not null default 0,
    parked       bigint not null default 0,
    primary key (group_name, topic, partition)
);
