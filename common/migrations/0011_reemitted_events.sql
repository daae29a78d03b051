-- Events that an operator had told again (common/src/reconcile): action re-emit, outbox_id being the new row.
alter table outbox_audit
    -- Null for other actions.
    add column event_id  uuid,
    add column subject   text;
