-- What payment.completed tells of the order and this service has no other use for: kept so that the event can be told again, the
-- same to the byte, if the broker loses it (common/src/reconcile).
alter table payments
    -- Null: decided by a version that did not keep it.
    add column delivery_address text;
