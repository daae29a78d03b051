//! Order, payment and delivery agree about every order that has ended, and there is no payment and no delivery without one.

use std::collections::HashMap;

use anyhow::Result;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Databases, Violation};

const AGREE: &str = "the services agree about an order that has ended";
const KNOWN: &str = "every payment and delivery has its order";

/// What order says of an order.
#[derive(Debug)]
struct Order {
    status: String,
    delivery_status: Option<String>,
    total_minor: i64,
}

/// What payment did for an order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Payment {
    status: String,
    amount_minor: i64,
    charges: i64,
    refunds: i64,
}

pub(super) async fn violations(databases: &mut Databases) -> Result<Vec<Violation>> {
    // The effects before their cause: what happens between the looks adds orders, never payments without one.
    let deliveries = deliveries(databases.of("delivery")?).await?;
    let payments = payments(databases.of("payment")?).await?;
    let orders = orders(databases.of("order")?).await?;
    Ok(compare(&orders, &payments, &deliveries))
}

fn compare(
    orders: &HashMap<Uuid, Order>,
    payments: &HashMap<Uuid, Payment>,
    deliveries: &HashMap<Uuid, String>,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    for id in payments.keys().chain(deliveries.keys()).filter(|id| !orders.contains_key(id)) {
        violations.push(Violation::new(KNOWN, id, "there is no such order"));
    }
    for (id, order) in orders {
        let Some((payment, delivery)) = expected(order) else { continue };
        // What is younger than the looks at the others.
        let Some(found) = payments.get(id) else { continue };
        if *found != payment {
            violations.push(Violation::new(AGREE, id, format!("{order:?}, but {found:?}")));
        }
        let found = deliveries.get(id).map(String::as_str);
        if found != delivery {
            violations.push(Violation::new(AGREE, id, format!("{order:?}, but its delivery is {found:?}")));
        }
    }
    violations
}

/// What the others must say of an order that has ended; `None` for one that has not.
fn expected(order: &Order) -> Option<(Payment, Option<&'static str>)> {
    let payment = |status: &str, charges, refunds| Payment {
        status: status.to_owned(),
        amount_minor: order.total_minor,
        charges,
        refunds,
    };
    match (order.status.as_str(), order.delivery_status.as_deref()) {
        ("PAID", Some("DELIVERED")) => Some((payment("SUCCESS", 1, 0), Some("DELIVERED"))),
        ("REFUNDED", _) => Some((payment("REFUNDED", 1, 1), Some("FAILED"))),
        ("INSUFFICIENT_FUNDS", _) => Some((payment("INSUFFICIENT_FUNDS", 0, 0), None)),
        _ => None,
    }
}

async fn orders(connection: &mut PgConnection) -> Result<HashMap<Uuid, Order>> {
    let sql = "-- invariant.orders\nselect order_id, status, delivery_status, total_minor from orders";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    rows.into_iter()
        .map(|row| {
            let order = Order {
                status: row.try_get("status")?,
                delivery_status: row.try_get("delivery_status")?,
                total_minor: row.try_get("total_minor")?,
            };
            Ok((row.try_get("order_id")?, order))
        })
        .collect()
}

async fn payments(connection: &mut PgConnection) -> Result<HashMap<Uuid, Payment>> {
    let rows = sqlx::query(
        "-- invariant.payments
        select p.order_id, p.status, p.amount_minor,
            count(*) filter (where e.kind = 'CHARGE') as charges,
            count(*) filter (where e.kind = 'REFUND') as refunds
        from payments as p left join ledger_entries as e using (order_id)
        group by p.order_id, p.status, p.amount_minor",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let payment = Payment {
                status: row.try_get("status")?,
                amount_minor: row.try_get("amount_minor")?,
                charges: row.try_get("charges")?,
                refunds: row.try_get("refunds")?,
            };
            Ok((row.try_get("order_id")?, payment))
        })
        .collect()
}

async fn deliveries(connection: &mut PgConnection) -> Result<HashMap<Uuid, String>> {
    let rows = sqlx::query("-- invariant.deliveries\nselect order_id, status from deliveries")
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(|row| Ok((row.try_get("order_id")?, row.try_get("status")?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(status: &str, delivery: Option<&str>) -> Order {
        Order { status: status.to_owned(), delivery_status: delivery.map(str::to_owned), total_minor: 100 }
    }

    /// What agrees is no violation, what does not is one, and what has not ended says nothing yet.
    #[test]
    fn what_does_not_agree_is_found() {
        let id = Uuid::from_u128(1);
        let found = |order: Option<Order>, payment: Option<(&str, i64, i64)>, delivery: Option<&str>| {
            let orders = order.map(|order| (id, order)).into_iter().collect();
            let payment = payment.map(|(status, charges, refunds)| {
                (id, Payment { status: status.to_owned(), amount_minor: 100, charges, refunds })
            });
            let deliveries = delivery.map(|status| (id, status.to_owned())).into_iter().collect();
            compare(&orders, &payment.into_iter().collect(), &deliveries).len()
        };
        let delivered = || Some(order("PAID", Some("DELIVERED")));
        assert_eq!(found(delivered(), Some(("SUCCESS", 1, 0)), Some("DELIVERED")), 0);
        assert_eq!(found(delivered(), Some(("SUCCESS", 2, 0)), Some("DELIVERED")), 1, "charged twice");
        assert_eq!(found(delivered(), Some(("SUCCESS", 1, 0)), Some("FAILED")), 1);
        assert_eq!(
            found(Some(order("REFUNDED", Some("FAILED"))), Some(("REFUNDED", 1, 1)), Some("FAILED")),
            0
        );
        assert_eq!(
            found(Some(order("REFUNDED", Some("FAILED"))), Some(("SUCCESS", 1, 0)), Some("FAILED")),
            1
        );
        assert_eq!(
            found(Some(order("INSUFFICIENT_FUNDS", None)), Some(("INSUFFICIENT_FUNDS", 0, 0)), None),
            0
        );
        assert_eq!(
            found(Some(order("INSUFFICIENT_FUNDS", None)), Some(("SUCCESS", 1, 0)), Some("PENDING")),
            2
        );
        assert_eq!(
            found(Some(order("PAID", Some("IN_TRANSIT"))), Some(("SUCCESS", 1, 0)), Some("DELIVERED")),
            0
        );
        assert_eq!(found(None, Some(("SUCCESS", 1, 0)), Some("PENDING")), 2, "nobody ordered it");
    }
}
