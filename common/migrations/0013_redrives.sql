-- Redrives: what an operator's command has asked of this service, how far it is, and whether somebody has cancelled it
-- (common/src/dead_letter/progress.rs). Whether one is under way at this moment is said by the lock that it holds, not by its row.
create table dead_letter_redrives (
    group_name    text        not null,
    -- Made by the command, the same in each of its calls: what was cancelled is not continued by the next one.
    id            uuid        not null,
    -- The identity that called, and in brackets whom it named as the author.
    actor         text        not null,
    -- Which letters, for people.
    selection     text        not null,
    started_at    timestamptz not null default clock_timestamp(),
    -- The last sign of life.
    seen_at       timestamptz not null default clock_timestamp(),
    -- Those that it has done, and those that were left when its latest call began.
    dead_letters  bigint      not null default 0,
    -- What was done, each in the transaction that did it.
    redriven      bigint      not null default 0,
    failed        bigint      not null default 0,
    refused       bigint      not null default 0,
    behind        bigint      not null default 0,
    -- Who has cancelled it.
    cancelled_by  text,
    -- Null while it is under way, and after its service has died.
    ended_at      timestamptz,
    -- finished: it has tried all. cancelled. interrupted: its command went away. failed: its database did. abandoned: its service died.
    outcome       text        check (outcome in ('finished', 'cancelled', 'interrupted', 'failed', 'abandoned')),
    primary key (group_name, id),
    constraint dead_letter_redrives_end check ((ended_at is null) = (outcome is null)),
    constraint dead_letter_redrives_cancelled check ((cancelled_by is not null) = coalesce(outcome = 'cancelled', false))
);

-- The latest ones are asked for, and those that have not ended. What is counted up is in no index, so that this costs little.
create index dead_letter_redrives_latest on dead_letter_redrives (group_name, started_at desc);
create index dead_letter_redrives_open on dead_letter_redrives (group_name) where ended_at is null;

-- An event that several services have parked is found by its place.
create index dead_letters_place on dead_letters (group_name, topic, partition, record_offset);

-- To cancel a redrive is an action on no letter, either.
alter table dead_letter_audit
    drop constraint dead_letter_audit_of,
    add constraint dead_letter_audit_of check (dead_letter_id is not null or action in ('resume', 'cancel-redrive'));
