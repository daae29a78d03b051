-- Most steps of a delivery write no index entry (docs/pitfalls.md, P40): the index has when it is due by the 8 seconds. The column, and who keeps it.
alter table deliveries
    -- due_at rounded down to 8 s; null once it is terminal.
    add column due_from timestamptz;

-- Room in each page, so that the next version of a row fits beside it.
alter table deliveries set (fillfactor = 50);

create function deliveries_indexed() returns trigger language plpgsql as $$
begin
    new.due_from := date_bin('8 seconds', new.due_at, timestamptz '2000-01-01 00:00:00+00');
    return new;
end
$$;

-- Whatever program writes the row, also one from before this column. The condition costs less than the call.
create trigger deliveries_indexed before insert or update on deliveries for each row
    when (new.due_from is distinct from date_bin('8 seconds', new.due_at, timestamptz '2000-01-01 00:00:00+00'))
    execute function deliveries_indexed();
