-- no-transaction
-- The new columns of the orders that are there: the trigger fills them in. A few orders at a time, so that services which go on meanwhile wait for
-- some hundredths of a second, whatever is stored. It can be run again.
do $$
declare
    passed uuid := '00000000-0000-0000-0000-000000000000';
    last uuid;
begin
    loop
        select order_id into last
        from (select order_id from orders where order_id > passed order by order_id limit 1000) as next order by order_id desc limit 1;
        exit when not found;
        update orders set change_block = change_position / 256
        where order_id > passed and order_id <= last and (
            change_block <> change_position / 256
            or finished <> (
                status in ('INSUFFICIENT_FUNDS', 'REFUNDED')
                or (status = 'PAID' and delivery_status is not distinct from 'DELIVERED')
            )
        );
        commit;
        passed := last;
    end loop;
end
$$;
