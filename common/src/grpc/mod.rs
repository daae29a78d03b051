//! The server column of every service, outermost first:
//!
//! ```text
//! mutual TLS       who calls                            identity::acceptor
//! HTTP/2 limits    streams, heads, resets, age          here
//! protocol         only gRPC                            protocol.rs
//! permission       who may call what                    permission.rs
//! trace            a span for each call                 trace.rs
//! times            how long each call takes             measure.rs
//! deadline         work ends when its caller is gone    deadline.rs
//! load shedding    calls waiting and running            shed.rs
//! handlers         the service's own
//! ```

mod deadline;
mod measure;
mod permission;
mod protocol;
pub(crate) mod shed;
pub(crate) mod timer;
mod trace;

use std::time::Duration;

use holdfast_proto::topic::RECORD_BYTES_MAX;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, service::Routes, transport::Server};

use self::{
    deadline::DeadlineLayer, measure::MeasureLayer, permission::PermissionLayer, protocol::ProtocolLayer,
    shed::ShedLayer, trace::TraceLayer,
};
use crate::{
    error::BoxError,
    health::Health,
    identity::{Identity, acceptor},
};

/// Streams that one connection may have open; further ones wait at the client.
const STREAMS_MAX: u32 = 256;
/// Streams that a client may open and reset again before they are accepted; more end its connection (pitfalls P36).
const RESET_STREAMS_MAX: usize = 32;
/// Handling of a silent peer: ping after 10 s, give up 5 s later (pitfalls P28).
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WAIT_MAX: Duration = Duration::from_secs(5);
/// A connection lives this long, then the client is asked to open a new one: it comes back with the current certificate
/// and spreads over new replicas (pitfalls P29). Calls in progress get the grace period to finish.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);
const CONNECTION_AGE_GRACE: Duration = Duration::from_secs(15);
/// Bytes of all header fields of one request.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Largest message that a service takes; the largest that the contract allows is below 64 KiB. For
/// `max_decoding_message_size` of generated servers.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// The same for the services of operators: an edit may replace all that is kept of a record.
pub(crate) const OPERATOR_MESSAGE_BYTES_MAX: usize = RECORD_BYTES_MAX + MESSAGE_BYTES_MAX;
/// The package of the services that only operators may call.
const OPERATOR_PACKAGE: &str = "holdfast.ops.v1.";

/// Anyone with one of our certificates may ask for health, however busy a service is.
const HEALTH_SERVICE: &str = "grpc.health.v1.Health";

/// Who may call which gRPC service: package-qualified service name and the names of the callers.
pub type Permissions = &'static [(&'static str, &'static [&'static str])];

/// Serves `routes` until `stop`, then finishes the calls in progress. At most `places` calls are handled at a time.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    permissions: Permissions,
    routes: Routes,
    places: usize,
    health: Health,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        let mut ready = health.watch();
        loop {
            let status = if *ready.borrow_and_update() {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            reporter.set_service_status("", status).await;
            if ready.changed().await.is_err() {
                return;
            }
        }
    });
    let incoming = acceptor::accept(listener, identity, stop.clone());
    Server::builder()
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_max_header_list_size(Some(HEADER_BYTES_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WAIT_MAX))
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .max_connection_age(CONNECTION_AGE_MAX)
        .max_connection_age_grace(CONNECTION_AGE_GRACE)
        .layer(ProtocolLayer)
        .layer(PermissionLayer { permissions })
        .layer(TraceLayer)
        .layer(MeasureLayer)
        .layer(DeadlineLayer)
        .layer(ShedLayer::new(places))
        .add_routes(routes)
        .add_service(health_service)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

/// The code of an answer without a message; whoever sends one has succeeded so far.
fn code_of(answer: &http::Response<Body>) -> Code {
    Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
}

/// As the conventions say for the side that handles a call: the other codes are answers to what the caller has asked for.
const fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Its name in the specification of gRPC.
#[must_use]
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// `holdfast.order.v1.OrderService` of `/holdfast.order.v1.OrderService/CreateOrder`.
fn service_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split_once('/').map(|(service, _)| service)
}
