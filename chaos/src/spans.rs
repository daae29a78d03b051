//! A collector of traces that counts spans, so that what the services pay for exporting them can be measured, and keeps those of a while, so
//! that it can be said where an order spends its time.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use holdfast_proto::otlp::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// Spans that are kept at most; later ones are only counted. Those of a minute at 100 orders/s.
const KEPT_MAX: usize = 200_000;

/// Spans that were received so far; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spans(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    /// `None`: they are only counted.
    kept: Mutex<Option<Vec<Span>>>,
}

impl Spans {
    /// Receives OTLP over gRPC at `address` until the process ends.
    pub(crate) fn listen(address: SocketAddr) -> Result<Self> {
        let spans = Self::default();
        let incoming = TcpIncoming::bind(address).with_context(|| format!("cannot listen at {address}"))?;
        let server = Server::builder().add_service(TraceServiceServer::new(spans.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok(spans)
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Keeps those that come from now on.
    pub(crate) fn keep(&self) {
        *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// Those that were kept; from now on they are counted again.
    pub(crate) fn take(&self) -> Vec<Span> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans: Vec<Span> =
            resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect();
        self.0.count.fetch_add(spans.len() as u64, Ordering::Relaxed);
        if let Some(kept) = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let room = KEPT_MAX.saturating_sub(kept.len());
            kept.extend(spans.into_iter().take(room));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
