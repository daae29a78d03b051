-- Orders, their lines, and the idempotency keys under which they were created.
create table orders (
    -- UUIDv7, made here; sorts by age.
    order_id          uuid        primary key,
    user_id           text        not null,
    -- PENDING: payment not decided. PAID: charged. INSUFFICIENT_FUNDS: not charged, terminal.
    -- REFUNDED: charged, delivery failed, money returned, terminal.
    status            text        not null
        check (status in ('PENDING', 'PAID', 'INSUFFICIENT_FUNDS', 'REFUNDED')),
    -- What the order knows of its delivery; null while there is none.
    delivery_status   text
        check (delivery_status in ('PENDING', 'IN_TRANSIT', 'OUT_FOR_DELIVERY', 'DELIVERED', 'FAILED')),
    delivery_address  text        not null,
    currency          text        not null,
    -- Cents.
    total_minor       bigint      not null check (total_minor > 0),
    -- Grows by one with each change.
    version           bigint      not null default 1,
    created_at        timestamptz not null,
    updated_at        timestamptz not null
);

-- A user's orders, newest first.
create index orders_of_user on orders (user_id, order_id desc);

create table order_items (
    order_id     uuid    not null references orders (order_id),
    position     int     not null,
    product_id   text    not null,
    quantity     int     not null,
    -- Cents of the order's currency, for one piece.
    price_minor  bigint  not null,
    primary key (order_id, position)
);

create table idempotency_keys (
    user_id      text        not null,
    key          text        not null,
    -- SHA-256 of the request's content: the same key with another content is refused.
    fingerprint  bytea       not null,
    order_id     uuid        not null references orders (order_id),
    created_at   timestamptz not null default now(),
    -- This index decides who creates the order, not a look before the insert.
    primary key (user_id, key)
);

-- Orders that are not terminal, for the watchdog.
create index orders_unfinished on orders (created_at)
    where status = 'PENDING' or (status = 'PAID' and delivery_status is distinct from 'DELIVERED');
