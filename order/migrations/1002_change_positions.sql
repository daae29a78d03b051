-- The order in which a user's orders changed, so that a client who was away can be told what it missed.

-- How many changes a user's orders have had. Its row is locked from a change to its commit, so positions are committed in
-- order and without gaps: whoever sees one can see all before it.
create table user_positions (
    user_id   text    primary key,
    position  bigint  not null
-- Each change of an order updates a row: with room in each page that writes no index entry.
) with (fillfactor = 50);

-- The user's position at the last change of the order. 0: changed by a program that is older than this column.
alter table orders add column change_position bigint not null default 0;

with numbered as (
    select order_id, row_number() over (partition by user_id order by updated_at, order_id) as position from orders
)
update orders as o set change_position = numbered.position from numbered where o.order_id = numbered.order_id;

insert into user_positions (user_id, position) select user_id, max(change_position) from orders group by user_id;

-- What changed after a position.
create index orders_by_change on orders (user_id, change_position);
