//! The services that are called, and what their status codes mean to a REST client.

use std::{sync::Arc, time::Duration};

use holdfast_common::{
    client::{self, Addresses, Destination, DestinationConfig, Unguarded},
    deadline::Deadline,
    error::BoxError,
    health::Component,
    identity::Identity,
    stop::sleep_unless_stopped,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::problem::{FieldError, Problem, ProblemType};

macro_rules! upstreams {
    ($(
        $(#[$doc:meta])*
        $service:ident $(, called by $clients:ident() -> $module:ident::$client:ident)?;
    )+) => {
        /// Where the services are.
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct UpstreamConfig {
            $($(#[$doc])* pub $service: DestinationConfig,)+
        }

        #[derive(Debug)]
        struct Destinations {
            $($service: Destination,)+
        }

        /// The addresses of all services, which can change; clones are the same.
        #[derive(Debug, Clone)]
        pub(crate) struct UpstreamAddresses {
            $(pub(crate) $service: Addresses,)+
        }

        impl UpstreamAddresses {
            pub(crate) fn of(config: &UpstreamConfig) -> Result<Self, BoxError> {
                Ok(Self { $($service: Addresses::of(&config.$service)?,)+ })
            }

            /// Takes those of `other`. Returns whether any is another than before.
            pub(crate) fn become_those_of(&self, other: &Self) -> bool {
                // Each of them, not only the first.
                [$(self.$service.become_those_of(&other.$service)),+].contains(&true)
            }
        }

        impl Upstream {
            pub(crate) fn new(
                addresses: &UpstreamAddresses,
                config: &UpstreamConfig,
                identity: &Identity,
            ) -> Result<Self, BoxError> {
                let destination = |addresses, config| {
                    client::destination_at(addresses, config, identity, holdfast_proto::is_idempotent)
                };
                Ok(Self(Arc::new(Destinations {
                    $($service: destination(&addresses.$service, &config.$service)?,)+
                })))
            }

            $($(
                pub(crate) fn $clients(&self) -> holdfast_proto::$service::v1::$module::$client<Destination> {
                    holdfast_proto::$service::v1::$module::$client::new(self.0.$service.clone())
                }
            )?)+

            /// All of them, by name.
            pub(crate) fn services(&self) -> impl Iterator<Item = (&'static str, Destination)> {
                [$((stringify!($service), self.0.$service.clone())),+].into_iter()
            }
        }
    };
}

/// The services; clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Upstream(Arc<Destinations>);

// One row says all of a service: its name, which is that of its settings and of its package, and, if it is called, its client.
// One that is not called is watched all the same.
upstreams! {
    /// The order service.
    order, called by orders() -> order_service_client::OrderServiceClient;
    /// The payment service.
    payment, called by payments() -> payment_service_client::PaymentServiceClient;
    /// The delivery service.
    delivery, called by deliveries() -> delivery_service_client::DeliveryServiceClient;
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
