//! Logs (JSON lines on stdout) and metrics (Prometheus text on the admin port).

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::metric;

/// Why telemetry can't start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter of the configuration.
    #[error("service.log is not a log filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Only one recorder can be installed in a process.
    #[error("cannot install the metrics recorder")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Seconds; the finest bucket resolves a local call, the widest the gateway's deadline.
const SECONDS_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// For what may take as long as an outage.
const SAGA_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0];

/// Installs the process-wide log subscriber and metrics recorder.
pub(crate) fn install(filter: &str) -> Result<PrometheusHandle, TelemetryError> {
    let filter = EnvFilter::try_new(filter)?;
    install_log(filter);
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(metric::ORDER_PAYMENT_SECONDS.to_owned()), &SAGA_BUCKETS)?
        .install_recorder()?;
    metric::describe();
    Ok(handle)
}

/// Does nothing if there is one already.
pub(crate) fn install_log(filter: EnvFilter) {
    // The only error is that there is one.
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_env_filter(filter)
        // A line that can't be written is lost: reporting the failure would panic on a full disk.
        .log_internal_errors(false)
        .try_init();
}

/// Folds histograms regularly, as the exporter asks; without it they grow until the next scrape.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        handle.run_upkeep();
    }
}
