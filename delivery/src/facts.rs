//! The events that the rows of this service prove.

use holdfast_common::{
    database::DatabaseError,
    reconcile::{Fact, Facts},
};
use holdfast_proto::OrderId;
use sqlx::PgConnection;

use crate::{domain::Delivery, event::status_updated, store};

/// The rows of deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeliveryFacts;

#[tonic::async_trait]
impl Facts for DeliveryFacts {
    async fn events(
        &self,
        connection: &mut PgConnection,
        subjects: &[String],
    ) -> Result<Vec<Fact>, DatabaseError> {
        let ids: Vec<OrderId> = subjects.iter().filter_map(|subject| OrderId::parse(subject).ok()).collect();
        let deliveries = store::deliveries_with_steps(connection, &ids).await?;
        let written = deliveries.iter().flat_map(|(delivery, steps)| {
            // As the delivery was right after each step.
            let then = steps.iter().map(|(status, at)| Delivery {
                status: *status,
                updated_at: *at,
                ..delivery.clone()
            });
            then.map(|delivery| Fact::Event(status_updated(&delivery, delivery.trace)))
        });
        Ok(written.collect())
    }
}
