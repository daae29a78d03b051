//! The form of a log line: one JSON object with `time`, `level`, `service.name`, `target`, `message`, the fields of the event, and
//! `trace_id` and `span_id` where the line belongs to a trace.

use std::{collections::BTreeMap, fmt};

use serde::{Serializer as _, ser::SerializeMap as _};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::trace::{self, TraceContext};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// The process that writes it.
    pub(super) service: &'static str,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = OffsetDateTime::now_utc().format(&Rfc3339).map_err(|_| fmt::Error)?;
        let line = self.render(&time, event, fields, trace::current()).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

impl Line {
    fn render(
        self,
        time: &str,
        event: &Event<'_>,
        mut fields: Fields,
        context: Option<TraceContext>,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let mut line = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut line);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", time)?;
        map.serialize_entry("level", event.metadata().level().as_str())?;
        map.serialize_entry("service.name", self.service)?;
        if let Some(message) = fields.0.remove("message") {
            map.serialize_entry("message", &message)?;
        }
        if let Some(context) = context {
            map.serialize_entry("trace_id", &format!("{:032x}", context.trace_id()))?;
            map.serialize_entry("span_id", &format!("{:016x}", context.span_id()))?;
            // A field of that name says the same.
            fields.0.remove("trace_id");
        }
        for (name, value) in &fields.0 {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("target", event.metadata().target())?;
        map.end()?;
        Ok(String::from_utf8(line)?)
    }
}

/// The fields of an event by name.
#[derive(Debug, Default)]
struct Fields(BTreeMap<&'static str, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // Infinity and NaN are no numbers of JSON.
        let value =
            serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number);
        self.0.insert(field.name(), value);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(work: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let writer = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Line { service: "order" })
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let bytes = written.0.lock().expect("not poisoned").clone();
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
    }

    /// A line has the names that collectors look for, its fields with their types, and the trace that it belongs to.
    #[test]
    fn a_line_is_one_object_with_known_names() {
        let context = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let lines = lines(|| {
            tracing::warn!(
                order_id = "o-1",
                records = 3_u64,
                share = 0.5,
                late = true,
                "a \"batch\"\nis tried"
            );
            trace::during(
                context,
                || tracing::info!(trace_id = "another", error = %io::Error::other("no"), "again"),
            );
        });
        assert!(OffsetDateTime::parse(lines[0]["time"].as_str().expect("text"), &Rfc3339).is_ok());
        let mut first = lines[0].clone();
        first["time"] = "now".into();
        assert_eq!(
            first,
            serde_json::json!({
                "time": "now", "level": "WARN", "service.name": "order", "message": "a \"batch\"\nis tried",
                "order_id": "o-1", "records": 3, "share": 0.5, "late": true,
                "target": "holdfast_common::telemetry::line::tests",
            })
        );
        let of_trace = ["trace_id", "span_id", "error"].map(|name| lines[1][name].as_str().expect("text"));
        assert_eq!(of_trace, ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "no"]);
    }
}
