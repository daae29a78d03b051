-- What was done to dead letters between two times.
create index dead_letter_audit_at on dead_letter_audit (group_name, at);
