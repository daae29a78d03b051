//! What a recorded span costs its process, from its beginning until a collector has it, in CPU time:
//!
//! ```console
//! $ cargo test --release -p holdfast-common --lib what_a_span_costs -- --ignored --nocapture
//! ```

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use holdfast_proto::otlp::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use tokio::{net::TcpListener, runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use super::{Kind, Span, TraceContext, export, queue::BATCH_SPANS_MAX};
use crate::{config::TracesConfig, health::Health};

const ROUNDS: usize = 300;

static RECEIVED: AtomicUsize = AtomicUsize::new(0);

struct Counter;

#[tonic::async_trait]
impl TraceService for Counter {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.get_ref().resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        RECEIVED.fetch_add(scopes.map(|scope| scope.spans.len()).sum(), Ordering::Release);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn on_this_thread<F: Future>(work: F) -> F::Output {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Of this thread, in microseconds.
fn cpu_us() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("there is one");
    (usage.user_time() + usage.system_time()).num_microseconds()
}

/// About as large as those of an order: four attributes that never change, one that does, and a number.
fn record(parent: TraceContext, number: usize) {
    let mut span = Span::below(Some(parent), Kind::Client, "order.insert_order");
    span.messaging("process");
    span.set("db.system.name", || "postgresql");
    span.set("messaging.message.id", || format!("01a21184-8763-7214-acea-{number:012}"));
    span.set("messaging.kafka.offset", || i64::try_from(number).unwrap_or_default());
    span.end();
}

/// The collector runs on a thread of its own, whose time is not this one's.
#[test]
#[ignore = "it measures: run it alone, in a release build"]
fn what_a_span_costs() {
    let (tell, told) = oneshot::channel();
    thread::spawn(|| {
        on_this_thread(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("bound")).expect("somebody waits");
            let server = Server::builder().add_service(TraceServiceServer::new(Counter));
            server.serve_with_incoming(TcpIncoming::from(listener)).await.expect("it serves");
        });
    });
    on_this_thread(async {
        let endpoint = format!("http://{}", told.await.expect("it listens"));
        let config = TracesConfig { endpoint: Some(endpoint), ..TracesConfig::default() };
        let exporter = export::install(&config, "test", &Health::default()).expect("valid").expect("on");
        let stop = CancellationToken::new();
        let exporting = tokio::spawn(exporter.run(stop.clone()));
        let parent = TraceContext::begin(true);
        let (mut sent, mut costs) = (0, Vec::new());
        for _ in 0..ROUNDS {
            let before = cpu_us();
            for _ in 0..BATCH_SPANS_MAX {
                record(parent, sent);
                sent += 1;
            }
            while RECEIVED.load(Ordering::Acquire) < sent {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            costs.push(cpu_us() - before);
        }
        stop.cancel();
        exporting.await.expect("no panic");
        costs.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let of_one = |part: usize| costs[ROUNDS * part / 100] as f64 / BATCH_SPANS_MAX as f64;
        println!(
            "a span costs {:.2} us of CPU (median of {ROUNDS} batches; 10 % {:.2}, 90 % {:.2})",
            of_one(50),
            of_one(10),
            of_one(90)
        );
    });
}
