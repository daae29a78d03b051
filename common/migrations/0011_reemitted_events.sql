-- Events that were re-emitted for an operator (common/src/reconcile): action re-emit; outbox_id is the new row.
alter table outbox_audit
    -- Null for other actions.
    add column event_id  uuid,
    add column subject   text;
