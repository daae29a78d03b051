-- Deliveries, and when each of them moves on.
create table deliveries (
    delivery_id       uuid        primary key,
    -- One delivery per paid order.
    order_id          uuid        not null unique,
    user_id           text        not null,
    delivery_address  text        not null,
    -- PENDING, IN_TRANSIT, OUT_FOR_DELIVERY: on the way. DELIVERED: terminal. FAILED: terminal, the payment is returned.
    status            text        not null
        check (status in ('PENDING', 'IN_TRANSIT', 'OUT_FOR_DELIVERY', 'DELIVERED', 'FAILED')),
    -- Decided when it was made, so that it does not depend on who moves it: it fails instead of arriving.
    will_fail         boolean     not null,
    -- When it moves on; null once it is terminal.
    due_at            timestamptz,
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    check ((due_at is null) = (status in ('DELIVERED', 'FAILED')))
);

create index deliveries_due on deliveries (due_at) where due_at is not null;

create table delivery_steps (
    delivery_id  uuid        not null references deliveries (delivery_id),
    -- 0 for the first.
    position     int         not null,
    status       text        not null,
    at           timestamptz not null,
    primary key (delivery_id, position)
);
