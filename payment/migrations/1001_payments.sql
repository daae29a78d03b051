-- Accounts, the ledger that explains every balance, and payments.
create table accounts (
    user_id        text    primary key,
    currency       text    not null,
    -- Cents; the sum of the account's ledger entries.
    balance_minor  bigint  not null check (balance_minor >= 0),
    updated_at     timestamptz not null default now()
);

-- Each change of a balance is an entry; entries are never changed or deleted.
create table ledger_entries (
    entry_id             uuid    primary key,
    user_id              text    not null references accounts (user_id),
    -- OPENING: balance at the start of a development stack. CREDIT: money paid in. CHARGE: an order was paid.
    -- REFUND: a charge was returned.
    kind                 text    not null check (kind in ('OPENING', 'CREDIT', 'CHARGE', 'REFUND')),
    -- Cents, signed: a charge is negative.
    amount_minor         bigint  not null,
    -- Cents; the balance after this entry.
    balance_after_minor  bigint  not null check (balance_after_minor >= 0),
    -- The order that was charged or refunded.
    order_id             uuid,
    created_at           timestamptz not null,
    check ((order_id is not null) = (kind in ('CHARGE', 'REFUND'))),
    check ((amount_minor < 0) = (kind = 'CHARGE'))
);

-- An order is charged at most once and refunded at most once, whatever the code believes.
create unique index ledger_entries_of_order on ledger_entries (order_id, kind) where order_id is not null;
create unique index ledger_entries_opening on ledger_entries (user_id) where kind = 'OPENING';
create index ledger_entries_of_user on ledger_entries (user_id, entry_id);

create table payments (
    payment_id    uuid    primary key,
    -- One payment per order.
    order_id      uuid    not null unique,
    user_id       text    not null,
    currency      text    not null,
    -- Cents; the order's total.
    amount_minor  bigint  not null check (amount_minor > 0),
    -- SUCCESS: charged. INSUFFICIENT_FUNDS: not charged, terminal. REFUNDED: charged and returned, terminal.
    status        text    not null check (status in ('SUCCESS', 'INSUFFICIENT_FUNDS', 'REFUNDED')),
    created_at    timestamptz not null,
    updated_at    timestamptz not null
);

create table credit_keys (
    -- The caller: keys of different callers don't meet.
    requested_by  text  not null,
    key           text  not null,
    -- SHA-256 of the request's content: the same key with another content is refused.
    fingerprint   bytea not null,
    entry_id      uuid  not null references ledger_entries (entry_id),
    created_at    timestamptz not null default now(),
    primary key (requested_by, key)
);
