-- The position that this database knows is where reading begins, whatever the broker has committed for the group
-- (common/src/consumer/positions.rs).
alter table consumer_positions
    -- The inbox key of the record before next_offset: an offset alone is no identity, because topics are made anew and
    -- logs are cut. Null: not known, the position is taken as it is.
    add column last_event_id  uuid,
    -- Records of which only the place was kept, see dead_letters.state. records = applied + duplicates + parked +
    -- set_aside, exactly.
    add column set_aside      bigint not null default 0;

alter table dead_letters
    -- set-aside: the record could not be kept, only where it was, its size and its hash. Nothing waits behind it.
    drop constraint dead_letters_state_check,
    add constraint dead_letters_state_check check (state in ('parked', 'redriven', 'discarded', 'set-aside')),
    -- Of a record that was set aside: bytes of key, value and headers, and the SHA-256 of the value. Null where the
    -- client could not read the record at all, and for letters that hold the record itself.
    add column size_bytes     bigint,
    add column payload_hash   bytea,
    -- How many offsets the row stands for, from record_offset on: more than one where an operator skipped a range.
    add column records        bigint not null default 1 check (records > 0);
