-- What operators do to dead letters (common/src/dead_letter).
alter table dead_letters
    -- The value that a redrive uses instead of the original, which stays as it came.
    add column edited_value bytea;

-- Who did what to which letter: one row per action, in the transaction of the action.
create table dead_letter_audit (
    -- UUIDv7: the order of the actions.
    id              uuid        primary key,
    group_name      text        not null,
    at              timestamptz not null default now(),
    -- The identity that called, and in brackets whom it named as the author.
    actor           text        not null,
    -- redrive, redrive-failed, edit, discard.
    action          text        not null,
    dead_letter_id  uuid        not null references dead_letters (id),
    detail          text        not null
);

create index dead_letter_audit_letter on dead_letter_audit (dead_letter_id, id);
