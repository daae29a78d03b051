//! What was committed is published: no row waits, none is held back.

use anyhow::Result;
use sqlx::Row as _;

use super::{Databases, Violation};

pub(super) async fn violations(databases: &mut Databases) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for (service, connection) in databases.all() {
        let row = sqlx::query(
            "-- invariant.outbox
            select (select count(*) from outbox) as waiting, (select count(*) from outbox_held) as held",
        )
        .fetch_one(connection)
        .await?;
        let (waiting, held): (i64, i64) = (row.try_get("waiting")?, row.try_get("held")?);
        if waiting + held > 0 {
            let what = format!("{waiting} rows wait, {held} are held back");
            violations.push(Violation::new("the outbox is empty", &service, what));
        }
    }
    Ok(violations)
}
