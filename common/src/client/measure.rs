//! How long calls take to the one who makes them, with all attempts and pauses, by destination, method and code.

use std::{
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use holdfast_proto::METHOD_OTHER;
use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    grpc::{code_name, timer::CallTimer},
    handles::Histograms,
    metric,
};

static TIMES: LazyLock<Histograms<(&'static str, Code)>> = LazyLock::new(Histograms::default);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct MeasureLayer {
    /// The DNS name of the service that is called.
    pub(super) destination: Arc<str>,
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measured { inner, destination: self.destination.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Measured<S> {
    inner: S,
    destination: Arc<str>,
}

fn record(destination: &Arc<str>, method: &'static str, code: Code, time: Duration) {
    TIMES.record(destination, (method, code), time.as_secs_f64(), || {
        let mut labels = vec![
            ("rpc_system_name", "grpc".to_owned()),
            ("rpc_method", method.to_owned()),
            ("rpc_response_status_code", code_name(code).to_owned()),
            ("server_address", destination.to_string()),
        ];
        // Whatever is not an answer is an error to the one who called.
        if code != Code::Ok {
            labels.push(("error_type", code_name(code).to_owned()));
        }
        metrics::histogram!(metric::RPC_CLIENT_CALL_DURATION_SECONDS, &labels)
    });
}

impl<S> Service<Request<Body>> for Measured<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let destination = self.destination.clone();
        let method = holdfast_proto::method_of(request.uri().path()).unwrap_or(METHOD_OTHER);
        let timer = CallTimer::start(move |code, time| record(&destination, method, code, time));
        let answer = self.inner.call(request);
        Box::pin(timer.until(answer, |answer| answer.as_ref().map_or_else(Status::code, |_| Code::Ok)))
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    /// A call is measured with its destination, method and code, also if whoever called has gone.
    #[test]
    fn calls_are_measured() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let layer = MeasureLayer { destination: "measured.test".into() };
        let request = || {
            Request::get("/holdfast.order.v1.OrderService/GetOrder").body(Body::empty()).expect("a request")
        };
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let answers = service_fn(async |_| Ok(Response::new(Body::empty())));
                layer.layer(answers).oneshot(request()).await.expect("answered");
                let refuses = service_fn(async |_| Err::<Response<Body>, _>(Status::unavailable("away")));
                layer.layer(refuses).oneshot(request()).await.expect_err("refused");
                let silent = service_fn(|_| std::future::pending::<Result<Response<Body>, Status>>());
                drop(layer.layer(silent).call(request()));
            });
        });
        let page = recorder.handle().render();
        for (code, error) in [
            ("OK", ""),
            ("UNAVAILABLE", ",error_type=\"UNAVAILABLE\""),
            ("CANCELLED", ",error_type=\"CANCELLED\""),
        ] {
            let line = format!(
                "rpc_client_call_duration_seconds_count{{rpc_system_name=\"grpc\",rpc_method=\"holdfast.order.v1.OrderService/GetOrder\",\
                 rpc_response_status_code=\"{code}\",server_address=\"measured.test\"{error}}} 1\n"
            );
            assert!(page.contains(&line), "{line} in {page}");
        }
    }
}
