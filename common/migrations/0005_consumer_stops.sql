-- Consumers that the limit on dead letters stopped (common/src/consumer/limit.rs): one row per stop.
create table consumer_stops (
    id                bigint      primary key generated always as identity,
    group_name        text        not null,
    reason            text        not null,
    stopped_at        timestamptz not null default now(),
    -- The sign of life of the replica that stands. A row that is not seen any more belongs to a process that is gone.
    seen_at           timestamptz not null default now(),
    -- Null while it stands.
    resumed_at        timestamptz,
    -- An operator's word: so many more dead letters may be parked before the limit holds again. Null: it went on by
    -- itself.
    dead_letters_max  bigint
);

create index consumer_stops_standing on consumer_stops (group_name) where resumed_at is null;

-- To have a consumer resumed is an action on no letter.
alter table dead_letter_audit
    alter column dead_letter_id drop not null,
    add constraint dead_letter_audit_of check (dead_letter_id is not null or action = 'resume');
