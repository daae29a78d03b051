//! A collector of traces for tests: a real OTLP server that keeps what it gets, and can be made slow or unwilling.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use holdfast_proto::otlp::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
    trace::v1 as pb,
};
use tonic::{Request, Response, Status, transport::Server};

/// A span as the collector got it.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub service: String,
    pub span: pb::Span,
}

impl Received {
    /// An attribute as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        text_of(&self.span.attributes, key)
    }

    pub fn is_failed(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == pb::status::StatusCode::Error as i32)
    }

    /// `payment consumer process order.created`.
    pub fn title(&self) -> String {
        let kind = self.span.kind().as_str_name().trim_start_matches("SPAN_KIND_").to_lowercase();
        format!("{} {kind} {}", self.service, self.span.name)
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

/// What the collector does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Takes,
    Hangs,
    Refuses,
}

#[derive(Debug, Default)]
struct Inner {
    mood: AtomicU8,
    received: Mutex<Vec<Received>>,
}

/// See the module; clones share everything.
#[derive(Debug, Clone)]
pub struct Collector {
    inner: Arc<Inner>,
    pub address: SocketAddr,
}

impl Collector {
    /// Runs until the process ends, on a thread of its own, so that it serves all tests of a file.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("it can be");
        let collector = Self { inner: Arc::default(), address: listener.local_addr().expect("it is bound") };
        let service = TraceServiceServer::new(collector.clone());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let incoming = tonic::transport::server::TcpIncoming::from(listener);
                Server::builder()
                    .add_service(service)
                    .serve_with_incoming(incoming)
                    .await
                    .expect("it serves");
            });
        });
        collector
    }

    pub fn set(&self, mood: Mood) {
        self.inner.mood.store(mood as u8, Ordering::SeqCst);
    }

    /// Everything that was received so far.
    pub fn received(&self) -> Vec<Received> {
        self.inner.received.lock().expect("not poisoned").clone()
    }

    /// The spans of a trace.
    pub fn trace(&self, trace_id: &[u8]) -> Vec<Received> {
        self.received().into_iter().filter(|received| received.span.trace_id == trace_id).collect()
    }

    /// The ids of the traces that have a span with this attribute.
    pub fn traces_with(&self, key: &str, value: &str) -> BTreeSet<Vec<u8>> {
        let received = self.received();
        let with = received.iter().filter(|received| received.attribute(key).as_deref() == Some(value));
        with.map(|received| received.span.trace_id.clone()).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mood = self.inner.mood.load(Ordering::SeqCst);
        if mood == Mood::Hangs as u8 {
            return std::future::pending().await;
        }
        if mood == Mood::Refuses as u8 {
            return Err(Status::unavailable("not now"));
        }
        for of_resource in request.into_inner().resource_spans {
            let attributes = of_resource.resource.unwrap_or_default().attributes;
            let service = text_of(&attributes, "service.name").expect("every resource has one");
            let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
            let received = spans.map(|span| Received { service: service.clone(), span });
            self.inner.received.lock().expect("not poisoned").extend(received);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
