//! Money is neither made nor lost: each balance is the sum of its ledger entries, and no order is charged or refunded twice.

use anyhow::Result;
use sqlx::{PgConnection, Row as _};

use super::Violation;

pub(crate) async fn violations(payment: &mut PgConnection) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    let rows = sqlx::query(
        "-- invariant.balances
        select a.user_id, a.balance_minor, coalesce(sum(e.amount_minor), 0)::bigint as entries_minor
        from accounts as a left join ledger_entries as e using (user_id)
        group by a.user_id having a.balance_minor <> coalesce(sum(e.amount_minor), 0)",
    )
    .fetch_all(&mut *payment)
    .await?;
    for row in rows {
        let (user, balance): (String, i64) = (row.try_get("user_id")?, row.try_get("balance_minor")?);
        let entries: i64 = row.try_get("entries_minor")?;
        let what = format!("the balance is {balance} cents, the ledger says {entries}");
        violations.push(Violation::new("the ledger explains the balance", &user, what));
    }
    let rows = sqlx::query(
        "-- invariant.entries
        select order_id::text as order_id, kind, count(*) as entries from ledger_entries
        where order_id is not null group by order_id, kind having count(*) > 1",
    )
    .fetch_all(payment)
    .await?;
    for row in rows {
        let (order, kind): (String, String) = (row.try_get("order_id")?, row.try_get("kind")?);
        let entries: i64 = row.try_get("entries")?;
        violations.push(Violation::new(
            "an order is charged and refunded once",
            &order,
            format!("{kind} {entries} times"),
        ));
    }
    Ok(violations)
}
