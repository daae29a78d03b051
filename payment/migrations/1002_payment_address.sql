-- The address that payment.completed carries along: kept so that the event can be rebuilt, the same to the byte, if the broker
-- loses it (common/src/reconcile).
alter table payments
    -- Null: decided by a version that did not keep it.
    add column delivery_address text;
