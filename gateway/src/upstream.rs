//! The three services, and what their status codes mean to a REST client.

use std::{sync::Arc, time::Duration};

use holdfast_common::{
    client::{self, Destination, Unguarded},
    deadline::Deadline,
    error::BoxError,
    health::Component,
    identity::Identity,
    stop::sleep_unless_stopped,
};
use holdfast_proto::{
    delivery::v1::delivery_service_client::DeliveryServiceClient,
    order::v1::order_service_client::OrderServiceClient,
    payment::v1::payment_service_client::PaymentServiceClient,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    config::UpstreamConfig,
    problem::{FieldError, Problem, ProblemType},
};

/// The services; clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Upstream(Arc<Destinations>);

#[derive(Debug)]
struct Destinations {
    order: Destination,
    payment: Destination,
    delivery: Destination,
}

impl Upstream {
    pub(crate) fn new(config: &UpstreamConfig, identity: &Identity) -> Result<Self, BoxError> {
        let destination = |config| client::destination(config, identity, holdfast_proto::is_idempotent);
        Ok(Self(Arc::new(Destinations {
            order: destination(&config.order)?,
            payment: destination(&config.payment)?,
            delivery: destination(&config.delivery)?,
        })))
    }

    pub(crate) fn orders(&self) -> OrderServiceClient<Destination> {
        OrderServiceClient::new(self.0.order.clone())
    }

    pub(crate) fn payments(&self) -> PaymentServiceClient<Destination> {
        PaymentServiceClient::new(self.0.payment.clone())
    }

    pub(crate) fn deliveries(&self) -> DeliveryServiceClient<Destination> {
        DeliveryServiceClient::new(self.0.delivery.clone())
    }

    /// All of them, by name.
    pub(crate) fn services(&self) -> [(&'static str, Destination); 3] {
        [
            ("order", self.0.order.clone()),
            ("payment", self.0.payment.clone()),
            ("delivery", self.0.delivery.clone()),
        ]
    }
}

/// The pause between two probes of a service.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How long a probe may take.
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

/// Asks a service for its health every second and keeps `component` up to date, until `stop`.
pub(crate) async fn probe(service: Destination, component: Component, stop: CancellationToken) {
    let mut health = HealthClient::new(service);
    loop {
        let request = Deadline::after(PROBE_TIME_MAX).request(HealthCheckRequest { service: String::new() });
        if let Ok(mut request) = request {
            // Health must not close a breaker that opened for another reason, nor wait for it to close.
            request.extensions_mut().insert(Unguarded);
            match health.check(request).await {
                Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => component.ready(),
                Ok(_) => component.waiting("the service is waiting for something that it needs"),
                Err(status) => component.waiting(format!("{:?}", status.code())),
            }
        }
        if sleep_unless_stopped(&stop, PROBE_EVERY).await.is_break() {
            return;
        }
    }
}

impl From<Status> for Problem {
    /// The only mapping from gRPC status codes to HTTP.
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound => Self::not_found(),
            Code::InvalidArgument | Code::OutOfRange => {
                Self::invalid(vec![FieldError::new("", status.message())])
            }
            // Only writes: their key was used before, for different content.
            Code::AlreadyExists => Self::new(
                ProblemType::IdempotencyKeyReused,
                "the idempotency key was used for a request with different content",
            ),
            // Only writes: a request with the same key is still running.
            Code::Aborted => Self::new(
                ProblemType::IdempotencyKeyInUse,
                "a request with this idempotency key is still running",
            )
            .retry_after(1),
            Code::Unavailable | Code::ResourceExhausted => Self::unavailable(),
            Code::DeadlineExceeded | Code::Cancelled => Self::deadline(),
            code => {
                tracing::error!(?code, message = status.message(), "a service failed");
                Self::internal()
            }
        }
    }
}
