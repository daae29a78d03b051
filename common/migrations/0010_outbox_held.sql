-- Outbox rows that can't be published for a reason of their own (topic gone, too large), and what waits behind them.
-- They leave the table `outbox`, so that the relay's claim never visits them: others are published as if they weren't
-- there. A lane is the rows of one topic and key; its order is kept.
create table outbox_lanes (
    -- SHA-256 of topic and key (common/src/outbox/flight.rs): a key can be larger than an index entry.
    lane        bytea       primary key,
    -- Failures in a row of the lane's oldest row; 0 once it could be published.
    attempts    integer     not null,
    -- Not tried before.
    retry_at    timestamptz not null,
    -- Of the last failure, at most 512 characters; no part of the record.
    last_error  text        not null,
    held_since  timestamptz not null default clock_timestamp()
);

create index outbox_lanes_due on outbox_lanes (retry_at);

create table outbox_held (
    -- As it was in `outbox`: the order within a lane.
    id          bigint      primary key,
    lane        bytea       not null references outbox_lanes (lane),
    topic       text        not null,
    key         bytea,
    value       bytea,
    headers     bytea       not null,
    created_at  timestamptz not null
);

create index outbox_held_lane on outbox_held (lane, id);

-- What operators did to rows of the outbox: one row per action, in the transaction of the action.
create table outbox_audit (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default clock_timestamp(),
    -- The identity that called, and in brackets whom it named as the author.
    actor       text        not null,
    -- retry, drop.
    action      text        not null,
    outbox_id   bigint      not null,
    topic       text        not null,
    -- SHA-256 of the value, so that a dropped record can be told from another one.
    value_hash  bytea,
    reason      text        not null
);
