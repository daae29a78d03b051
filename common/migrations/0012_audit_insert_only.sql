-- What was done by operators can be read and added to, and not changed: not even by the role that owns these tables, unless it first
-- gives itself the right back, which no statement of ours does. Nobody may delete a dead letter that has an audit row either: its foreign
-- key would have to lock that row.
revoke update, delete, truncate on dead_letter_audit, outbox_audit from current_user;
