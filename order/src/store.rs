//! All SQL of the order service.

use std::{collections::HashMap, time::Duration};

use holdfast_common::{
    database::{self, DatabaseError},
    idempotency::KEY_RETENTION,
    insert_into_outbox,
    janitor::Expiring,
    outbox,
    planted::{Bug, planted},
    try_lock_key,
};
use holdfast_proto::{Currency, IdempotencyKey, Money, OrderId, UserId};
use sqlx::{PgConnection, PgExecutor, Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{DeliveryStatus, Item, Order, Status};

/// Idempotency keys; the orders stay.
pub(crate) const KEYS: Expiring = Expiring {
    purge: "-- order.purge_keys
        delete from idempotency_keys where ctid = any(array(
            select ctid from idempotency_keys where created_at < now() - make_interval(secs => $1) limit $2
        ))",
    retention: KEY_RETENTION,
};

/// What an idempotency key was used for.
#[derive(Debug, Clone)]
pub(crate) struct KeyUse {
    /// SHA-256 of the content.
    pub(crate) fingerprint: Vec<u8>,
    /// The order that was created.
    pub(crate) order_id: OrderId,
}

pub(crate) async fn key_use(
    connection: &mut PgConnection,
    user: &UserId,
    key: &IdempotencyKey,
) -> Result<Option<KeyUse>, DatabaseError> {
    let row = database::query(
        "-- order.key_use
        select fingerprint, order_id from idempotency_keys where user_id = $1 and key = $2",
    )
    .bind(user.as_str())
    .bind(key.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(KeyUse {
            fingerprint: row.try_get("fingerprint")?,
            order_id: OrderId::from(row.try_get::<Uuid, _>("order_id")?),
        })
    })
    .transpose()
}

/// An order as a transaction leaves it.
#[derive(Debug, Clone)]
pub(crate) struct ChangedOrder {
    /// With its lines.
    pub(crate) order: Order,
    /// Of this change among all of its user.
    pub(crate) position: i64,
    /// The version before; 0 if there was none.
    pub(crate) previous_version: i64,
}

/// What became of a new order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insertion {
    /// It is written; the position of this change.
    Inserted(i64),
    /// Nothing is written: another transaction has the key right now.
    KeyLocked,
    /// Nothing is written: the key was used before.
    KeyUsed,
}

/// Locks the key and writes it, the order, its lines and its event, unless the key is there: one statement, one round trip.
///
/// The statement sees what was committed before it began, and the lock may have been given back after that. It makes no difference: nothing here
/// looks for the key. `on conflict` asks the unique index, which knows all that is committed at that moment.
pub(crate) async fn insert_order(
    connection: &mut PgConnection,
    order: &Order,
    key: &IdempotencyKey,
    fingerprint: &[u8],
    events: outbox::Columns,
) -> Result<Insertion, DatabaseError> {
    let mut product_ids = Vec::with_capacity(order.items.len());
    let mut quantities = Vec::with_capacity(order.items.len());
    let mut prices = Vec::with_capacity(order.items.len());
    for item in &order.items {
        product_ids.push(item.product_id.as_str());
        quantities.push(i32::try_from(item.quantity).map_err(|_| corrupt("quantity"))?);
        prices.push(item.price.minor_units);
    }
    let row = database::query(concat!(
        "-- order.insert_order
        with lock as materialized (
            select ",
        try_lock_key!("$14", "$2"),
        " as taken
        ), keyed as (
            insert into idempotency_keys (user_id, key, fingerprint, order_id)
            select $2, $14, $15, $1 from lock where taken
            on conflict (user_id, key) do nothing
            returning order_id
        ), counted as (
            insert into user_positions as p (user_id, position) select $2, 1 from keyed
            on conflict (user_id) do update set position = p.position + 1
            returning position
        ), inserted as (
            insert into orders (order_id, user_id, status, delivery_status, delivery_address, currency, total_minor,
                version, created_at, updated_at, change_position)
            select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, position from counted
            returning order_id, change_position
        ), listed as (
            insert into order_items (order_id, position, product_id, quantity, price_minor)
            select inserted.order_id, i.position, i.product_id, i.quantity, i.price_minor
            from inserted, unnest($11::text[], $12::int[], $13::bigint[])
                with ordinality as i (product_id, quantity, price_minor, position)
        ), appended as (",
        insert_into_outbox!("$16", "$17", "$18", "$19", ", inserted"),
        ")
        select taken, (select change_position from inserted) as change_position from lock",
    ))
    .bind(order.order_id.as_uuid())
    .bind(order.user_id.as_str())
    .bind(status_to_text(order.status))
    .bind(order.delivery_status.map(delivery_status_to_text))
    .bind(&order.delivery_address)
    .bind(order.total.currency.as_str())
    .bind(order.total.minor_units)
    .bind(order.version)
    .bind(order.created_at)
    .bind(order.updated_at)
    .bind(product_ids)
    .bind(quantities)
    .bind(prices)
    .bind(key.as_str())
    .bind(fingerprint)
    .bind(events.topics)
    .bind(events.keys)
    .bind(events.values)
    .bind(events.headers)
    .fetch_one(connection)
    .await?;
    Ok(match (row.try_get("taken")?, row.try_get("change_position")?) {
        (false, _) => Insertion::KeyLocked,
        (true, None) => Insertion::KeyUsed,
        (true, Some(position)) => Insertion::Inserted(position),
    })
}

/// The columns of an order with its lines as arrays.
macro_rules! select_orders {
    ($rest:literal) => {
        concat!(
            "select o.order_id, o.user_id, o.status, o.delivery_status, o.delivery_address, o.currency,
                o.total_minor, o.version, o.created_at, o.updated_at, o.change_position,
                i.product_ids, i.quantities, i.prices
            from orders as o
            cross join lateral (
                select array_agg(product_id order by position) as product_ids,
                    array_agg(quantity order by position) as quantities,
                    array_agg(price_minor order by position) as prices
                from order_items where order_id = o.order_id
            ) as i ",
            $rest
        )
    };
}

/// An order of this user.
pub(crate) async fn order_of_user(
    connection: &mut PgConnection,
    order_id: OrderId,
    user: UserId,
) -> Result<Option<Order>, DatabaseError> {
    let query = if planted(Bug::ForeignRead) {
        database::query(concat!(
            "-- order.order_of_anybody\n",
            select_orders!("where o.order_id = $1 and $2 <> ''")
        ))
    } else {
        database::query(concat!(
            "-- order.order_of_user\n",
            select_orders!("where o.order_id = $1 and o.user_id = $2")
        ))
    };
    let row = query.bind(order_id.as_uuid()).bind(user.as_str()).fetch_optional(connection).await?;
    row.as_ref().map(order_from_row).transpose()
}

/// Orders of this user, newest first; only those older than `before` if it is given.
pub(crate) async fn orders_of_user(
    connection: &mut PgConnection,
    user: &UserId,
    before: Option<OrderId>,
    limit: i64,
) -> Result<Vec<Order>, DatabaseError> {
    let rows = database::query(concat!(
        "-- order.orders_of_user\n",
        select_orders!(
            "where o.user_id = $1 and ($2::uuid is null or o.order_id < $2)
            order by o.order_id desc limit $3"
        )
    ))
    .bind(user.as_str())
    .bind(before.map(OrderId::as_uuid))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(order_from_row).collect()
}

/// Those of these orders that exist.
pub(crate) async fn orders_by_id(
    connection: &mut PgConnection,
    order_ids: &[OrderId],
) -> Result<Vec<Order>, DatabaseError> {
    let ids: Vec<Uuid> = order_ids.iter().map(|id| id.as_uuid()).collect();
    let rows = database::query(concat!(
        "-- order.orders_by_id\n",
        select_orders!("where o.order_id = any($1) order by o.order_id")
    ))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(order_from_row).collect()
}

/// Orders that were created before a time and are not terminal, by their ids, those after `after` if it is given.
pub(crate) async fn unfinished_orders(
    connection: &mut PgConnection,
    before: OffsetDateTime,
    after: Option<OrderId>,
    limit: i64,
) -> Result<Vec<OrderId>, DatabaseError> {
    let ids: Vec<Uuid> = database::query(
        "-- order.unfinished_orders
        select order_id from orders
        where created_at < $1 and ($2::uuid is null or order_id > $2) and not finished
        order by order_id limit $3",
    )
    .bind(before)
    .bind(after.map(OrderId::as_uuid))
    .bind(limit)
    .scalars(connection)
    .await?;
    Ok(ids.into_iter().map(OrderId::from).collect())
}

/// Locks these orders, always in the same order, and returns those that exist. Lines are left out, because no event
/// needs them.
pub(crate) async fn lock_orders(
    connection: &mut PgConnection,
    order_ids: &[OrderId],
) -> Result<HashMap<OrderId, Order>, DatabaseError> {
    let ids: Vec<Uuid> = order_ids.iter().map(|id| id.as_uuid()).collect();
    let rows = database::query(
        "-- order.lock_orders
        select order_id, user_id, status, delivery_status, delivery_address, currency, total_minor, version,
            created_at, updated_at, array[]::text[] as product_ids, array[]::int[] as quantities,
            array[]::bigint[] as prices
        from orders where order_id = any($1) order by order_id for update",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let order = order_from_row(row)?;
            Ok((order.order_id, order))
        })
        .collect()
}

/// Writes the fields that events change, and gives each change its position. Returns the orders with their lines, in the
/// order of their positions; `before` has the versions that they replace.
pub(crate) async fn update_orders(
    connection: &mut PgConnection,
    orders: &[Order],
    before: &HashMap<OrderId, i64>,
) -> Result<Vec<ChangedOrder>, DatabaseError> {
    if orders.is_empty() {
        return Ok(Vec::new());
    }
    let (mut ids, mut users, mut statuses, mut deliveries) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut versions, mut times) = (Vec::new(), Vec::new());
    for order in orders {
        ids.push(order.order_id.as_uuid());
        users.push(order.user_id.as_str());
        statuses.push(status_to_text(order.status));
        deliveries.push(order.delivery_status.map(delivery_status_to_text));
        versions.push(order.version);
        times.push(order.updated_at);
    }
    // The rows of `user_positions` are locked in the order of the users, after those of the orders.
    let rows = database::query(
        "-- order.update_orders
        with n as (
            select n.*, row_number() over (partition by user_id order by nth) as of_user
            from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[])
                with ordinality as n (order_id, user_id, status, delivery_status, version, updated_at, nth)
        ), sizes as (
            select user_id, count(*) as size from n group by user_id
        ), counted as (
            insert into user_positions as p (user_id, position)
            select user_id, size from sizes order by user_id
            on conflict (user_id) do update set position = p.position + excluded.position
            returning user_id, position
        ), changed as (
            update orders as o
            set status = n.status, delivery_status = n.delivery_status, version = n.version,
                updated_at = n.updated_at, change_position = counted.position - sizes.size + n.of_user
            from n join sizes using (user_id) join counted using (user_id)
            where o.order_id = n.order_id
            returning o.order_id, o.change_position
        )
        select changed.order_id, changed.change_position, i.product_ids, i.quantities, i.prices
        from changed
        cross join lateral (
            select array_agg(product_id order by position) as product_ids,
                array_agg(quantity order by position) as quantities,
                array_agg(price_minor order by position) as prices
            from order_items where order_id = changed.order_id
        ) as i
        order by changed.change_position",
    )
    .bind(ids)
    .bind(users)
    .bind(statuses)
    .bind(deliveries)
    .bind(versions)
    .bind(times)
    .fetch_all(connection)
    .await?;
    let by_id: HashMap<OrderId, &Order> = orders.iter().map(|order| (order.order_id, order)).collect();
    let mut changed = Vec::with_capacity(rows.len());
    for row in &rows {
        let order_id = OrderId::from(row.try_get::<Uuid, _>("order_id")?);
        let Some(order) = by_id.get(&order_id) else { return Err(corrupt("order_id")) };
        changed.push(ChangedOrder {
            order: Order { items: items_from_row(row, order.total.currency)?, ..(*order).clone() },
            position: row.try_get("change_position")?,
            previous_version: before.get(&order_id).copied().unwrap_or_default(),
        });
    }
    Ok(changed)
}

/// Which changes of a user's orders are asked for.
#[derive(Debug, Clone)]
pub(crate) struct ChangedSince {
    pub(crate) user: UserId,
    pub(crate) after: i64,
    pub(crate) until: i64,
    pub(crate) unfinished_only: bool,
}

/// The position of the user's last change; 0 if there was none.
pub(crate) async fn user_position(
    connection: &mut PgConnection,
    user: &UserId,
) -> Result<i64, DatabaseError> {
    let position: Option<i64> =
        database::query("-- order.user_position\nselect position from user_positions where user_id = $1")
            .bind(user.as_str())
            .optional_scalar(connection)
            .await?;
    Ok(position.unwrap_or_default())
}

/// The first orders that have changed, in the order of their positions.
pub(crate) async fn changed_orders(
    connection: &mut PgConnection,
    since: &ChangedSince,
    limit: i64,
) -> Result<Vec<ChangedOrder>, DatabaseError> {
    let rows = database::query(concat!(
        "-- order.changed_orders\n",
        select_orders!(
            "where o.user_id = $1 and o.change_position > $2 and o.change_position <= $3
                and o.change_block between $2 / 256 and $3 / 256 and not ($4 and o.finished)
            order by o.change_block, o.change_position limit $5"
        )
    ))
    .bind(since.user.as_str())
    .bind(since.after)
    .bind(since.until)
    .bind(since.unfinished_only)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let changed = rows.iter().map(|row| {
        let (order, position) = (order_from_row(row)?, row.try_get("change_position")?);
        Ok(ChangedOrder { order, position, previous_version: 0 })
    });
    changed.collect()
}

/// How many orders are not terminal although they are older than `age`.
pub(crate) async fn count_stuck(executor: impl PgExecutor<'_>, age: Duration) -> Result<i64, DatabaseError> {
    let row = database::query(
        "-- order.count_stuck
        select count(*) as stuck from orders
        where created_at < now() - make_interval(secs => $1) and not finished",
    )
    .bind(age.as_secs_f64())
    .fetch_one(executor)
    .await?;
    Ok(row.try_get("stuck")?)
}

fn order_from_row(row: &PgRow) -> Result<Order, DatabaseError> {
    let currency: String = row.try_get("currency")?;
    let currency = Currency::parse(&currency).map_err(|_| corrupt("currency"))?;
    let user_id: String = row.try_get("user_id")?;
    let status: String = row.try_get("status")?;
    let delivery_status: Option<String> = row.try_get("delivery_status")?;
    Ok(Order {
        order_id: OrderId::from(row.try_get::<Uuid, _>("order_id")?),
        user_id: UserId::parse(&user_id).map_err(|_| corrupt("user_id"))?,
        status: status_from_text(&status)?,
        delivery_status: delivery_status.as_deref().map(delivery_status_from_text).transpose()?,
        delivery_address: row.try_get("delivery_address")?,
        items: items_from_row(row, currency)?,
        total: Money::new(row.try_get("total_minor")?, currency),
        version: row.try_get("version")?,
        created_at: row.try_get::<OffsetDateTime, _>("created_at")?,
        updated_at: row.try_get::<OffsetDateTime, _>("updated_at")?,
    })
}

fn items_from_row(row: &PgRow, currency: Currency) -> Result<Vec<Item>, DatabaseError> {
    let product_ids: Vec<String> = row.try_get("product_ids")?;
    let quantities: Vec<i32> = row.try_get("quantities")?;
    let prices: Vec<i64> = row.try_get("prices")?;
    let lines = product_ids.into_iter().zip(quantities).zip(prices);
    lines
        .map(|((product_id, quantity), price)| {
            let quantity = u32::try_from(quantity).map_err(|_| corrupt("quantity"))?;
            Ok(Item { product_id, quantity, price: Money::new(price, currency) })
        })
        .collect()
}

fn corrupt(column: &'static str) -> DatabaseError {
    DatabaseError::Corrupt(column.into())
}

const fn status_to_text(status: Status) -> &'static str {
    match status {
        Status::Pending => "PENDING",
        Status::Paid => "PAID",
        Status::InsufficientFunds => "INSUFFICIENT_FUNDS",
        Status::Refunded => "REFUNDED",
    }
}

fn status_from_text(text: &str) -> Result<Status, DatabaseError> {
    [Status::Pending, Status::Paid, Status::InsufficientFunds, Status::Refunded]
        .into_iter()
        .find(|status| status_to_text(*status) == text)
        .ok_or_else(|| corrupt("status"))
}

const fn delivery_status_to_text(status: DeliveryStatus) -> &'static str {
    match status {
        DeliveryStatus::Pending => "PENDING",
        DeliveryStatus::InTransit => "IN_TRANSIT",
        DeliveryStatus::OutForDelivery => "OUT_FOR_DELIVERY",
        DeliveryStatus::Delivered => "DELIVERED",
        DeliveryStatus::Failed => "FAILED",
    }
}

fn delivery_status_from_text(text: &str) -> Result<DeliveryStatus, DatabaseError> {
    use DeliveryStatus::{Delivered, Failed, InTransit, OutForDelivery, Pending};
    [Pending, InTransit, OutForDelivery, Delivered, Failed]
        .into_iter()
        .find(|status| delivery_status_to_text(*status) == text)
        .ok_or_else(|| corrupt("delivery_status"))
}
