//! A collector of traces that counts spans and forgets them, so that what the services pay for exporting them can be measured.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use holdfast_proto::otlp::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// Spans that were received so far; clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpanCounter(Arc<AtomicU64>);

impl SpanCounter {
    /// Receives OTLP over gRPC at `address` until the process ends.
    pub(crate) fn listen(address: SocketAddr) -> Result<Self> {
        let counter = Self::default();
        let incoming = TcpIncoming::bind(address).with_context(|| format!("cannot listen at {address}"))?;
        let server = Server::builder().add_service(TraceServiceServer::new(counter.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok(counter)
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[tonic::async_trait]
impl TraceService for SpanCounter {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.get_ref().resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let spans: usize = scopes.map(|scope| scope.spans.len()).sum();
        self.0.fetch_add(spans as u64, Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
