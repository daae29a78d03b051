-- Indexes of what changes seldom take the place of those of status and position. Orders are read meanwhile, and not
-- written: docs/measurements.md says for how long.
create index orders_open on orders (created_at) where not finished;
create index orders_by_change_block on orders (user_id, change_block);
drop index orders_unfinished;
drop index orders_by_change;
