//! All SQL of the payment service.

use std::collections::HashMap;

use holdfast_common::{
    database::{self, DatabaseError},
    idempotency::KEY_RETENTION,
    insert_into_outbox,
    janitor::Expiring,
    outbox::{self, OutboxRecord},
    planted::{Bug, now_and_then},
};
use holdfast_proto::{Currency, IdempotencyKey, Money, OrderId, UserId};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{Account, Entry, EntryKind, Payment, Status};

/// Idempotency keys of credits; the ledger stays.
pub(crate) const KEYS: Expiring = Expiring {
    purge: "-- payment.purge_keys
        delete from credit_keys where ctid = any(array(
            select ctid from credit_keys where created_at < now() - make_interval(secs => $1) limit $2
        ))",
    retention: KEY_RETENTION,
};

/// What an idempotency key of a credit was used for.
#[derive(Debug, Clone)]
pub(crate) struct KeyUse {
    /// SHA-256 of the content.
    pub(crate) fingerprint: Vec<u8>,
    /// The balance right after the credit.
    pub(crate) balance_after: Money,
}

/// Creates an empty account. False: it exists.
pub(crate) async fn insert_account(
    connection: &mut PgConnection,
    user: &UserId,
    currency: Currency,
) -> Result<bool, DatabaseError> {
    let done = database::query(
        "-- payment.insert_account
        insert into accounts (user_id, currency, balance_minor) values ($1, $2, 0)
        on conflict (user_id) do nothing",
    )
    .bind(user.as_str())
    .bind(currency.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn account(
    connection: &mut PgConnection,
    user: UserId,
) -> Result<Option<Account>, DatabaseError> {
    let row = database::query(
        "-- payment.account
        select user_id, currency, balance_minor from accounts where user_id = $1",
    )
    .bind(user.as_str())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(account_from_row).transpose()
}

/// Locks these accounts, always in the same order, and returns those that exist.
pub(crate) async fn lock_accounts(
    connection: &mut PgConnection,
    users: &[&UserId],
) -> Result<HashMap<UserId, Account>, DatabaseError> {
    let ids: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
    let rows = database::query(
        "-- payment.lock_accounts
        select user_id, currency, balance_minor from accounts
        where user_id = any($1) order by user_id for update",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let account = account_from_row(row)?;
            Ok((account.user_id.clone(), account))
        })
        .collect()
}

/// What a transaction changes.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    /// With their new balances.
    pub(crate) accounts: Vec<&'a Account>,
    /// What explains the balances.
    pub(crate) entries: &'a [Entry],
    /// New payments with the addresses of their orders.
    pub(crate) payments: Vec<(&'a Payment, &'a str)>,
    /// What to publish.
    pub(crate) events: Vec<OutboxRecord>,
}

/// Writes all of it in one statement. Returns the ids of the entries. The unique index ensures one payment per order: a second one is an
/// error, never an overwrite.
pub(crate) async fn save(
    connection: &mut PgConnection,
    changes: Changes<'_>,
) -> Result<Vec<Uuid>, DatabaseError> {
    let Changes { accounts, entries, payments, events } = changes;
    if entries.is_empty() && payments.is_empty() && events.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids = Vec::new();
    let (mut users, mut kinds, mut amounts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut balances, mut orders, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let (kind, order_id) = match entry.kind {
            EntryKind::Opening => ("OPENING", None),
            EntryKind::Credit => ("CREDIT", None),
            EntryKind::Charge(order_id) => ("CHARGE", Some(order_id.as_uuid())),
            EntryKind::Refund(order_id) => ("REFUND", Some(order_id.as_uuid())),
        };
        ids.push(Uuid::now_v7());
        users.push(entry.user_id.as_str());
        kinds.push(kind);
        amounts.push(entry.amount.minor_units);
        balances.push(entry.balance_after.minor_units);
        orders.push(order_id);
        times.push(entry.created_at);
    }
    let new = PaymentColumns::of(&payments);
    let (events, creations) = outbox::columns(events);
    creations.after_commit();
    database::query(concat!(
        "-- payment.save
        with updated as (
            update accounts as a set balance_minor = n.balance_minor, updated_at = now()
            from unnest($8::text[], $9::bigint[]) as n (user_id, balance_minor)
            where a.user_id = n.user_id
        ), entered as (
            insert into ledger_entries
                (entry_id, user_id, kind, amount_minor, balance_after_minor, order_id, created_at)
            select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::uuid[],
                $7::timestamptz[])
        ), paid as (
            insert into payments (payment_id, order_id, user_id, currency, amount_minor, status, created_at,
                updated_at, delivery_address)
            select * from unnest($10::uuid[], $11::uuid[], $12::text[], $13::text[], $14::bigint[],
                $15::text[], $16::timestamptz[], $17::timestamptz[], $18::text[])
        )
        ",
        insert_into_outbox!("$19", "$20", "$21", "$22", ""),
    ))
    .bind(&ids)
    .bind(users)
    .bind(kinds)
    .bind(amounts)
    .bind(balances)
    .bind(orders)
    .bind(times)
    .bind(accounts.iter().map(|account| account.user_id.as_str()).collect::<Vec<_>>())
    .bind(balances_of(&accounts))
    .bind(new.ids)
    .bind(new.orders)
    .bind(new.users)
    .bind(new.currencies)
    .bind(new.amounts)
    .bind(new.statuses)
    .bind(new.created)
    .bind(new.updated)
    .bind(new.addresses)
    .bind(events.topics)
    .bind(events.keys)
    .bind(events.values)
    .bind(events.headers)
    .execute(connection)
    .await?;
    Ok(ids)
}

/// Payments as the parameters of a statement.
#[derive(Debug, Default)]
struct PaymentColumns<'a> {
    ids: Vec<Uuid>,
    orders: Vec<Uuid>,
    users: Vec<&'a str>,
    currencies: Vec<&'a str>,
    amounts: Vec<i64>,
    statuses: Vec<&'a str>,
    created: Vec<OffsetDateTime>,
    updated: Vec<OffsetDateTime>,
    addresses: Vec<&'a str>,
}

impl<'a> PaymentColumns<'a> {
    fn of(payments: &[(&'a Payment, &'a str)]) -> Self {
        let mut columns = Self::default();
        for (payment, address) in payments {
            columns.ids.push(payment.payment_id);
            columns.orders.push(payment.order_id.as_uuid());
            columns.users.push(payment.user_id.as_str());
            columns.currencies.push(payment.amount.currency.as_str());
            columns.amounts.push(payment.amount.minor_units);
            columns.statuses.push(status_to_text(payment.status));
            columns.created.push(payment.created_at);
            columns.updated.push(payment.updated_at);
            columns.addresses.push(address);
        }
        columns
    }
}

fn balances_of(accounts: &[&Account]) -> Vec<i64> {
    let lost = || i64::from(now_and_then(Bug::BalanceWithoutEntry, 10));
    accounts.iter().map(|account| account.balance.minor_units - lost()).collect()
}

/// Locks the payments of these orders, then these accounts, each always in the same order, and returns those that exist.
pub(crate) async fn lock_payments_and_accounts(
    connection: &mut PgConnection,
    orders: &[OrderId],
    users: &[&UserId],
) -> Result<(HashMap<OrderId, Payment>, HashMap<UserId, Account>), DatabaseError> {
    let rows = database::query(
        "-- payment.lock_payments_and_accounts
        with locked_payments as (
            select payment_id, order_id, user_id, currency, amount_minor, status, created_at, updated_at
            from payments where order_id = any($1) order by order_id for update
        ), locked_accounts as (
            select user_id, currency, balance_minor from accounts
            where user_id = any($2) order by user_id for update
        )
        select * from locked_payments
        union all
        select null, null, user_id, currency, balance_minor, null, null, null from locked_accounts",
    )
    .bind(orders.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
    .bind(users.iter().map(|user| user.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let (mut payments, mut accounts) = (HashMap::new(), HashMap::new());
    for row in &rows {
        if row.try_get::<Option<Uuid>, _>("payment_id")?.is_some() {
            let payment = payment_from_row(row)?;
            payments.insert(payment.order_id, payment);
        } else {
            let account = Account { user_id: user_id(row)?, balance: money(row, "amount_minor")? };
            accounts.insert(account.user_id.clone(), account);
        }
    }
    Ok((payments, accounts))
}

/// The payment of an order of this user.
pub(crate) async fn payment_of_user(
    connection: &mut PgConnection,
    order_id: OrderId,
    user: UserId,
) -> Result<Option<Payment>, DatabaseError> {
    let row = database::query(
        "-- payment.payment_of_user
        select payment_id, order_id, user_id, currency, amount_minor, status, created_at, updated_at
        from payments where order_id = $1 and user_id = $2",
    )
    .bind(order_id.as_uuid())
    .bind(user.as_str())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(payment_from_row).transpose()
}

/// The payments of these orders, each with the order's address where it was kept.
pub(crate) async fn payments_with_addresses(
    connection: &mut PgConnection,
    orders: &[OrderId],
) -> Result<Vec<(Payment, Option<String>)>, DatabaseError> {
    let ids: Vec<Uuid> = orders.iter().map(|id| id.as_uuid()).collect();
    let rows = database::query(
        "-- payment.payments_with_addresses
        select payment_id, order_id, user_id, currency, amount_minor, status, created_at, updated_at,
            delivery_address
        from payments where order_id = any($1) order by order_id",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((payment_from_row(row)?, row.try_get("delivery_address")?))).collect()
}

/// Marks payments as refunded.
pub(crate) async fn update_payments(
    connection: &mut PgConnection,
    payments: &[&Payment],
) -> Result<(), DatabaseError> {
    if payments.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = payments.iter().map(|payment| payment.payment_id).collect();
    let statuses: Vec<&str> = payments.iter().map(|payment| status_to_text(payment.status)).collect();
    let times: Vec<_> = payments.iter().map(|payment| payment.updated_at).collect();
    database::query(
        "-- payment.update_payments
        update payments as p set status = n.status, updated_at = n.updated_at
        from unnest($1::uuid[], $2::text[], $3::timestamptz[]) as n (payment_id, status, updated_at)
        where p.payment_id = n.payment_id",
    )
    .bind(ids)
    .bind(statuses)
    .bind(times)
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn key_use(
    connection: &mut PgConnection,
    requested_by: &UserId,
    key: &IdempotencyKey,
) -> Result<Option<KeyUse>, DatabaseError> {
    let row = database::query(
        "-- payment.key_use
        select k.fingerprint, e.balance_after_minor, a.currency
        from credit_keys as k
        join ledger_entries as e on e.entry_id = k.entry_id
        join accounts as a on a.user_id = e.user_id
        where k.requested_by = $1 and k.key = $2",
    )
    .bind(requested_by.as_str())
    .bind(key.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(KeyUse {
            fingerprint: row.try_get("fingerprint")?,
            balance_after: money(&row, "balance_after_minor")?,
        })
    })
    .transpose()
}

pub(crate) async fn insert_key(
    connection: &mut PgConnection,
    requested_by: &UserId,
    key: &IdempotencyKey,
    fingerprint: &[u8],
    entry_id: Uuid,
) -> Result<(), DatabaseError> {
    database::query(
        "-- payment.insert_key
        insert into credit_keys (requested_by, key, fingerprint, entry_id) values ($1, $2, $3, $4)",
    )
    .bind(requested_by.as_str())
    .bind(key.as_str())
    .bind(fingerprint)
    .bind(entry_id)
    .execute(connection)
    .await?;
    Ok(())
}

fn account_from_row(row: &PgRow) -> Result<Account, DatabaseError> {
    Ok(Account { user_id: user_id(row)?, balance: money(row, "balance_minor")? })
}

fn payment_from_row(row: &PgRow) -> Result<Payment, DatabaseError> {
    let status: String = row.try_get("status")?;
    Ok(Payment {
        payment_id: row.try_get("payment_id")?,
        order_id: OrderId::from(row.try_get::<Uuid, _>("order_id")?),
        user_id: user_id(row)?,
        amount: money(row, "amount_minor")?,
        status: status_from_text(&status)?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

fn user_id(row: &PgRow) -> Result<UserId, DatabaseError> {
    let text: String = row.try_get("user_id")?;
    UserId::parse(&text).map_err(|_| DatabaseError::Corrupt("user_id".into()))
}

fn money(row: &PgRow, column: &str) -> Result<Money, DatabaseError> {
    let currency: String = row.try_get("currency")?;
    let currency = Currency::parse(&currency).map_err(|_| DatabaseError::Corrupt("currency".into()))?;
    Ok(Money::new(row.try_get(column)?, currency))
}

const fn status_to_text(status: Status) -> &'static str {
    match status {
        Status::Success => "SUCCESS",
        Status::InsufficientFunds => "INSUFFICIENT_FUNDS",
        Status::Refunded => "REFUNDED",
    }
}

fn status_from_text(text: &str) -> Result<Status, DatabaseError> {
    [Status::Success, Status::InsufficientFunds, Status::Refunded]
        .into_iter()
        .find(|status| status_to_text(*status) == text)
        .ok_or_else(|| DatabaseError::Corrupt("status".into()))
}
