//! All SQL of the delivery service.

use std::collections::HashMap;

use holdfast_common::{
    database::{self, DatabaseError},
    insert_into_outbox,
    outbox::{self, OutboxRecord},
    trace::TraceContext,
};
use holdfast_proto::{OrderId, UserId};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{Delivery, Status};

/// A step of the history.
pub(crate) type Step = (Status, OffsetDateTime);

/// The columns of a delivery with its steps as arrays.
macro_rules! select_with_steps {
    ($rest:literal) => {
        concat!(
            "select d.delivery_id, d.order_id, d.user_id, d.delivery_address, d.status, d.will_fail, d.due_at,
                d.created_at, d.updated_at, d.traceparent, s.statuses, s.times
            from deliveries as d
            cross join lateral (
                select array_agg(status order by position) as statuses, array_agg(at order by position) as times
                from delivery_steps where delivery_id = d.delivery_id
            ) as s ",
            $rest
        )
    };
}

/// The delivery of an order of this user, with its history.
pub(crate) async fn delivery_of_user(
    connection: &mut PgConnection,
    order_id: OrderId,
    user: UserId,
) -> Result<Option<(Delivery, Vec<Step>)>, DatabaseError> {
    let row = database::query(concat!(
        "-- delivery.delivery_of_user\n",
        select_with_steps!("where d.order_id = $1 and d.user_id = $2")
    ))
    .bind(order_id.as_uuid())
    .bind(user.as_str())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(with_steps_from_row).transpose()
}

/// The deliveries of these orders, each with its history.
pub(crate) async fn deliveries_with_steps(
    connection: &mut PgConnection,
    orders: &[OrderId],
) -> Result<Vec<(Delivery, Vec<Step>)>, DatabaseError> {
    let ids: Vec<Uuid> = orders.iter().map(|id| id.as_uuid()).collect();
    let rows = database::query(concat!(
        "-- delivery.deliveries_with_steps\n",
        select_with_steps!("where d.order_id = any($1) order by d.order_id")
    ))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(with_steps_from_row).collect()
}

/// The deliveries of these orders.
pub(crate) async fn deliveries_of_orders(
    connection: &mut PgConnection,
    orders: &[OrderId],
) -> Result<HashMap<OrderId, Delivery>, DatabaseError> {
    if orders.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<Uuid> = orders.iter().map(|id| id.as_uuid()).collect();
    let rows = database::query(
        "-- delivery.deliveries_of_orders
        select delivery_id, order_id, user_id, delivery_address, status, will_fail, due_at, created_at, updated_at,
            traceparent
        from deliveries where order_id = any($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let delivery = delivery_from_row(row)?;
            Ok((delivery.order_id, delivery))
        })
        .collect()
}

/// Writes new deliveries with their first step and their events.
pub(crate) async fn insert_deliveries(
    connection: &mut PgConnection,
    deliveries: &[Delivery],
    events: Vec<OutboxRecord>,
) -> Result<(), DatabaseError> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let (mut ids, mut orders, mut users) = (Vec::new(), Vec::new(), Vec::new());
    let (mut addresses, mut statuses, mut fails) = (Vec::new(), Vec::new(), Vec::new());
    let (mut dues, mut created, mut traces) = (Vec::new(), Vec::new(), Vec::new());
    for delivery in deliveries {
        ids.push(delivery.delivery_id);
        orders.push(delivery.order_id.as_uuid());
        users.push(delivery.user_id.as_str());
        addresses.push(delivery.delivery_address.as_str());
        statuses.push(status_to_text(delivery.status));
        fails.push(delivery.will_fail);
        dues.push(delivery.due_at);
        created.push(delivery.created_at);
        traces.push(delivery.trace.map(|trace| trace.to_string()));
    }
    let (events, creations) = outbox::columns(events);
    creations.after_commit();
    database::query(concat!(
        "-- delivery.insert_deliveries
        with inserted as (
            insert into deliveries (delivery_id, order_id, user_id, delivery_address, status, will_fail, due_at,
                created_at, traceparent, updated_at)
            select d.*, d.created_at
            from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::boolean[],
                $7::timestamptz[], $8::timestamptz[], $9::text[])
                as d (delivery_id, order_id, user_id, delivery_address, status, will_fail, due_at, created_at, traceparent)
            returning delivery_id, status, created_at
        ), begun as (
            insert into delivery_steps (delivery_id, position, status, at)
            select delivery_id, 0, status, created_at from inserted
        )
        ",
        insert_into_outbox!("$10", "$11", "$12", "$13", ""),
    ))
    .bind(ids)
    .bind(orders)
    .bind(users)
    .bind(addresses)
    .bind(statuses)
    .bind(fails)
    .bind(dues)
    .bind(created)
    .bind(traces)
    .bind(events.topics)
    .bind(events.keys)
    .bind(events.values)
    .bind(events.headers)
    .execute(connection)
    .await?;
    Ok(())
}

/// Locks deliveries that are due and that no other worker has, the longest due first.
pub(crate) async fn lock_due(
    connection: &mut PgConnection,
    now: OffsetDateTime,
    limit: i64,
) -> Result<Vec<Delivery>, DatabaseError> {
    // The index has only the time from which on to look. Skipping locked rows can't reorder the events of one delivery: its next step needs the lock of this one.
    let rows = database::query(
        "-- delivery.lock_due
        select delivery_id, order_id, user_id, delivery_address, status, will_fail, due_at, created_at, updated_at,
            traceparent
        from deliveries where due_from <= $1 and due_at <= $1
        order by due_from, due_at limit $2 for update skip locked",
    )
    .bind(now)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(delivery_from_row).collect()
}

/// Writes the current status of deliveries, each with the step that led to it, and their events.
pub(crate) async fn update_deliveries(
    connection: &mut PgConnection,
    deliveries: &[Delivery],
    events: Vec<OutboxRecord>,
) -> Result<(), DatabaseError> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let (mut ids, mut statuses, mut dues, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for delivery in deliveries {
        ids.push(delivery.delivery_id);
        statuses.push(status_to_text(delivery.status));
        dues.push(delivery.due_at);
        times.push(delivery.updated_at);
    }
    let (events, creations) = outbox::columns(events);
    creations.after_commit();
    database::query(concat!(
        "-- delivery.update_deliveries
        with updated as (
            update deliveries as d set status = n.status, due_at = n.due_at, updated_at = n.updated_at
            from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[])
                as n (delivery_id, status, due_at, updated_at)
            where d.delivery_id = n.delivery_id
            returning d.delivery_id, d.status, d.updated_at
        ), stepped as (
            insert into delivery_steps (delivery_id, position, status, at)
            select u.delivery_id, (select count(*) from delivery_steps as s where s.delivery_id = u.delivery_id),
                u.status, u.updated_at
            from updated as u
        )
        ",
        insert_into_outbox!("$5", "$6", "$7", "$8", ""),
    ))
    .bind(ids)
    .bind(statuses)
    .bind(dues)
    .bind(times)
    .bind(events.topics)
    .bind(events.keys)
    .bind(events.values)
    .bind(events.headers)
    .execute(connection)
    .await?;
    Ok(())
}

fn with_steps_from_row(row: &PgRow) -> Result<(Delivery, Vec<Step>), DatabaseError> {
    let statuses: Option<Vec<String>> = row.try_get("statuses")?;
    let times: Option<Vec<OffsetDateTime>> = row.try_get("times")?;
    let steps = statuses
        .iter()
        .flatten()
        .zip(times.into_iter().flatten())
        .map(|(status, at)| Ok((status_from_text(status)?, at)));
    Ok((delivery_from_row(row)?, steps.collect::<Result<_, DatabaseError>>()?))
}

fn delivery_from_row(row: &PgRow) -> Result<Delivery, DatabaseError> {
    let status: String = row.try_get("status")?;
    let user_id: String = row.try_get("user_id")?;
    Ok(Delivery {
        delivery_id: row.try_get("delivery_id")?,
        order_id: OrderId::from(row.try_get::<Uuid, _>("order_id")?),
        user_id: UserId::parse(&user_id).map_err(|_| DatabaseError::Corrupt("user_id".into()))?,
        delivery_address: row.try_get("delivery_address")?,
        status: status_from_text(&status)?,
        will_fail: row.try_get("will_fail")?,
        due_at: row.try_get("due_at")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        trace: row.try_get::<Option<&str>, _>("traceparent")?.and_then(TraceContext::parse),
    })
}

const fn status_to_text(status: Status) -> &'static str {
    match status {
        Status::Pending => "PENDING",
        Status::InTransit => "IN_TRANSIT",
        Status::OutForDelivery => "OUT_FOR_DELIVERY",
        Status::Delivered => "DELIVERED",
        Status::Failed => "FAILED",
    }
}

fn status_from_text(text: &str) -> Result<Status, DatabaseError> {
    [Status::Pending, Status::InTransit, Status::OutForDelivery, Status::Delivered, Status::Failed]
        .into_iter()
        .find(|status| status_to_text(*status) == text)
        .ok_or_else(|| DatabaseError::Corrupt("status".into()))
}
