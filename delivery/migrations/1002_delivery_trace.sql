-- The steps of a delivery belong to the trace of what created it. Deliveries of before have none.
alter table deliveries add column traceparent text;
