//! Logs (JSON lines on stdout) and metrics (Prometheus text on the admin port).

pub(crate) mod lag;
mod line;
mod sampler;

use std::{io, sync::LazyLock, time::Duration};

use holdfast_proto::text::on_its_lines;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use self::{line::Line, sampler::Sampler};
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
pub(crate) fn install(service: &'static str, filter: &str) -> Result<PrometheusHandle, TelemetryError> {
    let filter = EnvFilter::try_new(filter)?;
    install_log(service, filter);
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(metric::ORDER_PAYMENT_SECONDS.to_owned()), &SAGA_BUCKETS)?
        .install_recorder()?;
    metric::describe();
    Ok(handle)
}

static SAMPLER: LazyLock<Sampler> = LazyLock::new(Sampler::default);

/// Does nothing if there is one already.
pub(crate) fn install_log(service: &'static str, filter: EnvFilter) {
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Line { service })
        // A line that can't be written is lost: reporting the failure would panic on a full disk.
        .log_internal_errors(false)
        .with_writer(|| Escaped(io::stdout()));
    // The only error is that there is one.
    let _ = tracing_subscriber::registry().with(filter).with(&*SAMPLER).with(lines).try_init();
}

/// Writes how many lines were left out since this was asked last.
pub(crate) fn report_left_out() {
    SAMPLER.report();
}

/// Escapes what would act on a terminal. JSON does that for some of it only: not for the control characters above 127, nor for those
/// that change the direction of writing. The lines stay the same JSON.
struct Escaped<W>(W);

impl<W: io::Write> io::Write for Escaped<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(on_its_lines(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Folds histograms regularly, as the exporter asks; without it they grow until the next scrape. Says which lines were left out.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        handle.run_upkeep();
        report_left_out();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A line of the log stays the same JSON, and nothing in it acts on a terminal.
    #[test]
    fn a_line_acts_on_no_terminal() {
        let subject = "\u{1b}[2J\u{9b}1;1H\u{7f}\u{202e}é";
        let document = serde_json::json!({ "subject": subject });
        let mut written = Vec::new();
        writeln!(Escaped(&mut written), "{document}").expect("written");
        let line = String::from_utf8(written).expect("text");
        assert!(!line.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), document);
    }
}
