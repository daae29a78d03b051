//! Sends spans to a collector by OTLP over gRPC, so that its absence is nobody's problem: whoever ends a span only puts it into a
//! queue, and a span that finds it full is counted and forgotten.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use holdfast_proto::otlp::collector::trace::v1::ExportTraceServiceResponse;
use http::{Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tower::service_fn;
use uuid::Uuid;

use super::{
    context::TraceContext,
    encode,
    queue::Queue,
    span::{Recording, Value},
};
use crate::{
    backoff::Backoff,
    config::TracesConfig,
    error::chain,
    health::{Component, Health},
    metric::TRACES_SPANS_TOTAL,
};

/// The method of the collector.
const EXPORT_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// For connecting, and for an answer.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(5);
/// A batch that could not be delivered for this long is given up for the newer ones behind it.
const RETRY_TIME_MAX: Duration = Duration::from_secs(30);

/// Why spans can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The endpoint.
    #[error("service.traces.endpoint is not http://HOST:PORT or https://HOST:PORT: {0:?}")]
    Endpoint(String),
    /// The share.
    #[error("service.traces.sample_ratio is not between 0 and 1: {0}")]
    SampleRatio(f64),
    /// `https` without the authorities.
    #[error("service.traces.trust_bundle is needed for an endpoint with https")]
    NoTrustBundle,
    /// Their file.
    #[error("cannot read trust bundle {path}")]
    TrustBundle {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has no certificates.
    #[error("trust bundle {0} has no certificate that can be used")]
    NoCertificates(PathBuf),
    /// The TLS library.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// Set once, by the runner of the process.
static EXPORT: OnceLock<Settings> = OnceLock::new();

struct Settings {
    queue: Option<Arc<Queue>>,
    sample_ratio: f64,
}

/// Whether spans are exported.
#[must_use]
pub fn is_on() -> bool {
    EXPORT.get().is_some_and(|settings| settings.queue.is_some())
}

/// The context of a trace that begins here; whether it is sampled is drawn.
#[must_use]
pub fn begin() -> TraceContext {
    let ratio = EXPORT.get().map_or(1.0, |settings| settings.sample_ratio);
    TraceContext::begin(ratio >= 1.0 || fastrand::f64() < ratio)
}

/// Puts an ended span into the queue.
pub(super) fn export(recording: Recording) {
    let Some(queue) = EXPORT.get().and_then(|settings| settings.queue.as_ref()) else { return };
    if !queue.push(recording) {
        count("dropped", 1);
    }
}

fn count(outcome: &'static str, spans: usize) {
    metrics::counter!(TRACES_SPANS_TOTAL, "outcome" => outcome).increment(spans as u64);
}

/// The one that empties the queue.
pub(crate) struct Exporter {
    queue: Arc<Queue>,
    client: Grpc<Channel>,
    /// What all spans of the process have in common, encoded.
    resource: Vec<u8>,
    component: Component,
}

/// Turns the export of this process on, if it is configured. Nothing is connected yet.
pub(crate) fn install(
    config: &TracesConfig,
    service: &'static str,
    health: &Health,
) -> Result<Option<Exporter>, TracesError> {
    if !(0.0..=1.0).contains(&config.sample_ratio) {
        return Err(TracesError::SampleRatio(config.sample_ratio));
    }
    let sample_ratio = config.sample_ratio;
    // An empty variable of the environment means none.
    let Some(endpoint) = config.endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
        let _ = EXPORT.set(Settings { queue: None, sample_ratio });
        return Ok(None);
    };
    let client = Grpc::new(connect_lazily(endpoint, config)?);
    let queue = Arc::<Queue>::default();
    if EXPORT.set(Settings { queue: Some(queue.clone()), sample_ratio }).is_err() {
        return Ok(None);
    }
    let component = health.component("traces");
    component.ready();
    Ok(Some(Exporter { queue, client, resource: resource(service), component }))
}

/// A channel that connects when there is something to send.
fn connect_lazily(endpoint: &str, config: &TracesConfig) -> Result<Channel, TracesError> {
    let invalid = || TracesError::Endpoint(endpoint.to_owned());
    let uri: Uri = endpoint.parse().map_err(|_| invalid())?;
    let host = uri.host().ok_or_else(invalid)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().ok_or_else(invalid)?;
    if !matches!(uri.path(), "" | "/") {
        return Err(invalid());
    }
    let tls = match uri.scheme_str() {
        Some("http") => None,
        Some("https") => {
            let name = ServerName::try_from(host.clone()).map_err(|_| invalid())?;
            Some((TlsConnector::from(Arc::new(tls_config(config)?)), name))
        }
        _ => return Err(invalid()),
    };
    // `http` although it may be TLS: the connector does the TLS, as in `client::channel`.
    let plain = Uri::builder().scheme("http").authority(format!("{}:{port}", uri.host().unwrap_or_default()));
    let plain = plain.path_and_query("/").build().map_err(|_| invalid())?;
    let channel = Endpoint::from(plain).origin(uri).connect_timeout(ATTEMPT_TIME_MAX);
    Ok(channel.connect_with_connector_lazy(service_fn(move |_| {
        let (host, tls) = (host.clone(), tls.clone());
        async move {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            let io: Box<dyn Stream> = match tls {
                Some((connector, name)) => Box::new(connector.connect(name, tcp).await?),
                None => Box::new(tcp),
            };
            Ok::<_, io::Error>(TokioIo::new(io))
        }
    })))
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

fn tls_config(config: &TracesConfig) -> Result<ClientConfig, TracesError> {
    let path = config.trust_bundle.as_ref().ok_or(TracesError::NoTrustBundle)?;
    let pem = fs::read(path).map_err(|source| TracesError::TrustBundle { path: path.clone(), source })?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(TracesError::NoCertificates(path.clone()));
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

/// What all spans of the process have in common.
fn resource(service: &'static str) -> Vec<u8> {
    encode::resource(&[
        ("service.namespace", Value::from("holdfast")),
        ("service.name", service.into()),
        ("service.version", env!("CARGO_PKG_VERSION").into()),
        ("service.instance.id", Uuid::new_v4().to_string().into()),
    ])
}

impl Exporter {
    /// Sends until `stop`, then what is left in the queue, one attempt for each batch.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.queue.filled() => {}
                () = stop.cancelled() => {}
            }
            self.deliver(&stop).await;
        }
        while self.deliver(&stop).await > 0 {}
    }

    /// Takes a batch from the queue, and tries for a while, until the collector has it or refuses it. Returns how many spans it had.
    async fn deliver(&mut self, stop: &CancellationToken) -> usize {
        let batch = self.queue.take();
        let spans = batch.len();
        if spans > 0 {
            let request = Bytes::from(encode::spans(&self.resource, &batch));
            drop(batch);
            self.send(request, spans, stop).await;
        }
        spans
    }

    async fn send(&mut self, request: Bytes, spans: usize, stop: &CancellationToken) {
        let given_up_at = Instant::now() + RETRY_TIME_MAX;
        let mut backoff = Backoff::for_infrastructure();
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_TIME_MAX, self.export(request.clone())).await;
            let status = match attempt.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
                Ok(answer) => {
                    let partly = answer.partial_success.unwrap_or_default();
                    let refused = usize::try_from(partly.rejected_spans).unwrap_or_default().min(spans);
                    count("refused", refused);
                    count("exported", spans - refused);
                    if backoff.attempt() > 0 {
                        tracing::info!("traces are exported again");
                    }
                    return self.component.ready();
                }
                Err(status) => status,
            };
            let text = chain(&status);
            if !may_succeed_later(status.code()) {
                tracing::warn!(error = text, spans, "the collector refuses spans");
                count("refused", spans);
                return self.component.waiting(text);
            }
            if backoff.attempt() == 0 {
                tracing::warn!(error = text, "traces can't be exported");
            }
            self.component.waiting(text);
            if Instant::now() >= given_up_at || stop.is_cancelled() {
                return count("dropped", spans);
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_pause()) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// One attempt. `ExportTraceServiceRequest` has one field, which is number 1, and so has the message that the codec makes of bytes
    /// (`google.protobuf.BytesValue`): a `ResourceSpans` in it is a request, which is encoded once for all attempts.
    async fn export(&mut self, resource_spans: Bytes) -> Result<ExportTraceServiceResponse, Status> {
        let ready = self.client.ready().await;
        ready.map_err(|error| Status::unavailable(chain(&error)))?;
        let method = PathAndQuery::from_static(EXPORT_METHOD);
        let codec = ProstCodec::<Bytes, ExportTraceServiceResponse>::default();
        Ok(self.client.unary(Request::new(resource_spans), method, codec).await?.into_inner())
    }
}

/// As the protocol says (OTLP 1.9, "Failures").
const fn may_succeed_later(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
            | Code::Unknown
    )
}
