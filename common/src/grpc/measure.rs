//! How long calls take, by method and code. Health checks are not measured.

use std::{
    sync::LazyLock,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use holdfast_proto::METHOD_OTHER;
use http::{Request, Response};
use tonic::{Code, body::Body};
use tower::{Layer, Service};

use super::{HEALTH_SERVICE, code_name, code_of, is_our_fault, service_of, timer::CallTimer};
use crate::{handles::Histograms, metric};

static TIMES: LazyLock<Histograms<Code>> = LazyLock::new(Histograms::default);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct MeasureLayer;

impl<S> Layer<S> for MeasureLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measured { inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Measured<S> {
    inner: S,
}

fn record(method: &'static str, code: Code, time: Duration) {
    TIMES.record(method, code, time.as_secs_f64(), || {
        let mut labels = vec![
            ("rpc_system_name", "grpc"),
            ("rpc_method", method),
            ("rpc_response_status_code", code_name(code)),
        ];
        if is_our_fault(code) {
            labels.push(("error_type", code_name(code)));
        }
        metrics::histogram!(metric::RPC_SERVER_CALL_DURATION_SECONDS, &labels)
    });
}

impl<S, B> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if service_of(path) == Some(HEALTH_SERVICE) {
            return Box::pin(self.inner.call(request));
        }
        let method = holdfast_proto::method_of(path).unwrap_or(METHOD_OTHER);
        let timer = CallTimer::start(move |code, time| record(method, code, time));
        let answer = self.inner.call(request);
        Box::pin(timer.until(answer, |answer| answer.as_ref().map_or(Code::Internal, code_of)))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, convert::Infallible};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use tonic::Status;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    /// A call is measured with its method and code, also if its caller goes away; a method that does not exist is no label, and health
    /// checks are not measured.
    #[test]
    fn calls_are_measured() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let call = |path: &'static str, code: Code| {
            let inner = service_fn(move |_: Request<()>| async move {
                Ok::<_, Infallible>(Status::new(code, "so").into_http())
            });
            let request = Request::get(path).body(()).expect("a request");
            MeasureLayer.layer(inner).oneshot(request)
        };
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                for (path, code) in [
                    ("/holdfast.order.v1.OrderService/GetOrder", Code::Ok),
                    ("/holdfast.order.v1.OrderService/GetOrder", Code::NotFound),
                    ("/holdfast.order.v1.OrderService/GetOrder", Code::Unavailable),
                    ("/holdfast.order.v1.OrderService/Guess", Code::Unimplemented),
                    ("/grpc.health.v1.Health/Check", Code::Ok),
                ] {
                    call(path, code).await.expect("answered");
                }
                let gone = service_fn(|_: Request<()>| std::future::pending::<Result<_, Infallible>>());
                let request =
                    Request::get("/holdfast.order.v1.OrderService/CreateOrder").body(()).expect("a request");
                drop(MeasureLayer.layer(gone).call(request));
            });
        });
        let page = recorder.handle().render();
        let series =
            |line: &str| line.strip_prefix("rpc_server_call_duration_seconds_count").map(str::to_owned);
        let mut seen: BTreeSet<String> = page.lines().filter_map(series).collect();
        for (method, code, error) in [
            ("holdfast.order.v1.OrderService/GetOrder", "OK", ""),
            ("holdfast.order.v1.OrderService/GetOrder", "NOT_FOUND", ""),
            ("holdfast.order.v1.OrderService/GetOrder", "UNAVAILABLE", ",error_type=\"UNAVAILABLE\""),
            ("_OTHER", "UNIMPLEMENTED", ",error_type=\"UNIMPLEMENTED\""),
            ("holdfast.order.v1.OrderService/CreateOrder", "CANCELLED", ""),
        ] {
            let labels = format!(
                "{{rpc_system_name=\"grpc\",rpc_method=\"{method}\",rpc_response_status_code=\"{code}\"{error}}} 1"
            );
            assert!(seen.remove(&labels), "{labels} in {page}");
        }
        assert!(seen.is_empty(), "{seen:?}");
    }
}
