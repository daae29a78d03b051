//! Translates between gRPC and the domain.

use futures_util::FutureExt as _;
use holdfast_common::{database::Database, deadline::Deadline, subject::authorize};
use holdfast_proto::{
    OrderId, UserId, delivery::v1 as pb, delivery::v1::delivery_service_server::DeliveryService, scope,
    to_timestamp,
};
use tonic::{Request, Response, Status};

use crate::{event::status_to_proto, store};

/// The gRPC service.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryHandler {
    database: Database,
}

impl DeliveryHandler {
    pub(crate) const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[tonic::async_trait]
impl DeliveryService for DeliveryHandler {
    async fn get_delivery(
        &self,
        request: Request<pb::GetDeliveryRequest>,
    ) -> Result<Response<pb::GetDeliveryResponse>, Status> {
        let deadline = Deadline::of(&request);
        let user_id = UserId::parse(&request.get_ref().user_id)
            .map_err(|error| Status::invalid_argument(format!("user_id {error}")))?;
        authorize(request.metadata(), &user_id, scope::ORDERS_READ)?;
        let request = request.into_inner();
        let order_id = OrderId::parse(&request.order_id)
            .map_err(|error| Status::invalid_argument(format!("order_id {error}")))?;
        let found = self
            .database
            .read(deadline, move |connection| store::delivery_of_user(connection, order_id, user_id).boxed())
            .await?;
        let (delivery, steps) = found.ok_or_else(|| Status::not_found("no delivery of this order yet"))?;
        let history = steps
            .into_iter()
            .map(|(status, at)| pb::DeliveryStep {
                status: status_to_proto(status).into(),
                at: Some(to_timestamp(at)),
            })
            .collect();
        let delivery = pb::Delivery {
            delivery_id: delivery.delivery_id.to_string(),
            order_id: delivery.order_id.to_string(),
            user_id: delivery.user_id.to_string(),
            delivery_address: delivery.delivery_address,
            status: status_to_proto(delivery.status).into(),
            history,
            created_at: Some(to_timestamp(delivery.created_at)),
            updated_at: Some(to_timestamp(delivery.updated_at)),
        };
        Ok(Response::new(pb::GetDeliveryResponse { delivery: Some(delivery) }))
    }
}
