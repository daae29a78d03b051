//! The events that the rows of this service prove, and the orders that have not ended.

use holdfast_common::{
    database::DatabaseError,
    reconcile::{Fact, Facts},
};
use holdfast_proto::OrderId;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::{event::order_created, store};

/// The rows of orders.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OrderFacts;

#[tonic::async_trait]
impl Facts for OrderFacts {
    fn is_name(&self, name: &str) -> bool {
        OrderId::parse(name).is_ok()
    }

    async fn unfinished(
        &self,
        connection: &mut PgConnection,
        before: OffsetDateTime,
        after: &str,
        limit: i64,
    ) -> Result<Vec<String>, DatabaseError> {
        let after = OrderId::parse(after).ok();
        let orders = store::unfinished_orders(connection, before, after, limit).await?;
        Ok(orders.iter().map(OrderId::to_string).collect())
    }

    async fn events(
        &self,
        connection: &mut PgConnection,
        subjects: &[String],
    ) -> Result<Vec<Fact>, DatabaseError> {
        let ids: Vec<OrderId> = subjects.iter().filter_map(|subject| OrderId::parse(subject).ok()).collect();
        let orders = store::orders_by_id(connection, &ids).await?;
        Ok(orders.iter().map(|order| Fact::Event(order_created(order, None))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page begins after an order, and after nothing else: with another token it would be the first page again.
    #[test]
    fn a_page_begins_after_an_order() {
        assert!(OrderFacts.is_name("01890a5d-ac96-774b-bcce-b302099a8057"));
        for name in ["x", "01890a5d", "01890a5d-ac96-774b-bcce-b302099a8057 ", "\0"] {
            assert!(!OrderFacts.is_name(name), "{name:?}");
        }
    }
}
