-- no-transaction
-- The new column of the deliveries that are on their way: the trigger fills it in. A few at a time, so that services which go on meanwhile wait for
-- some hundredths of a second, whatever is stored. It can be run again.
do $$
declare
    passed uuid := '00000000-0000-0000-0000-000000000000';
    last uuid;
begin
    loop
        select delivery_id into last
        from (select delivery_id from deliveries where delivery_id > passed order by delivery_id limit 1000) as next order by delivery_id desc limit 1;
        exit when not found;
        update deliveries set due_from = due_at
        where delivery_id > passed and delivery_id <= last and due_at is not null and due_from is null;
        commit;
        passed := last;
    end loop;
end
$$;
