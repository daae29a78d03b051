-- What is left of the dead letters that an operator has allowed a resumed consumer to park (dead_letters_max of its stop):
-- the replica reports it about once a second while something is left (common/src/consumer/stops.rs).
alter table consumer_stops
    -- Parked so far. Null until the replica has reported.
    add column allowance_used bigint,
    -- Used up, or taken back by an operator. Null while something may be left.
    add column allowance_ended_at timestamptz;

create index consumer_stops_allowed on consumer_stops (group_name)
    where dead_letters_max > 0 and allowance_ended_at is null;

-- To take an allowance back is an action on no letter, either.
alter table dead_letter_audit
    drop constraint dead_letter_audit_of,
    add constraint dead_letter_audit_of
        check (dead_letter_id is not null or action in ('resume', 'cancel-redrive', 'end-allowance'));
