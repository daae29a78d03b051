-- The index of what changes seldom takes the place of that of each step. Deliveries are read meanwhile, and not
-- written: docs/measurements.md says for how long.
create index deliveries_due_from on deliveries (due_from) where due_from is not null;
drop index deliveries_due;
