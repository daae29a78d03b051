-- An operator repairs headers and key too, beside the value. The originals stay as they came.
alter table dead_letters
    add column edited_key bytea,
    -- All headers of the repaired record, encoded by common/src/record.rs.
    add column edited_headers bytea;
