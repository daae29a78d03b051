//! Leaves out lines of the log that repeat, and says how many they were: whoever can cause a line at will, such as a refused
//! request or a failed handshake, must not be able to fill the disk.
//!
//! Lines are told apart by the place in the code that writes them. Each may write [`LINES_MAX`] in [`WINDOW`]; what is left out is
//! counted and reported. Levels below INFO are not sampled: they are on only if somebody has asked for all of it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one place in each window.
const LINES_MAX: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);
/// The target of the report itself, which is never left out.
const REPORT: &str = "holdfast_common::telemetry::sampler::report";

/// What was written by each place in the code.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Mutex<HashMap<Identifier, Place>>);

/// A place in the code that writes lines.
#[derive(Debug)]
struct Place {
    metadata: &'static Metadata<'static>,
    window_end: Instant,
    /// In this window.
    written: u32,
    /// Since the last report.
    left_out: u64,
    /// The message of a line that was left out.
    message: String,
}

/// Lines that were left out.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    lines: u64,
    message: String,
    place: String,
}

impl Sampler {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a line, and says whether it is written.
    fn writes(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == REPORT {
            return true;
        }
        let mut places = self.lock();
        let place = places.entry(metadata.callsite()).or_insert_with(|| Place {
            metadata,
            window_end: now + WINDOW,
            written: 0,
            left_out: 0,
            message: String::new(),
        });
        if now >= place.window_end {
            (place.window_end, place.written) = (now + WINDOW, 0);
        }
        if place.written < LINES_MAX {
            place.written += 1;
            return true;
        }
        if place.left_out == 0 {
            place.message.clear();
            event.record(&mut Message(&mut place.message));
        }
        place.left_out += 1;
        false
    }

    fn take_left_out(&self) -> Vec<LeftOut> {
        let mut places = self.lock();
        let left_out = places.values_mut().filter(|place| place.left_out > 0).map(|place| LeftOut {
            lines: std::mem::take(&mut place.left_out),
            message: std::mem::take(&mut place.message),
            place: format!(
                "{}:{}",
                place.metadata.file().unwrap_or(place.metadata.target()),
                place.metadata.line().unwrap_or_default()
            ),
        });
        left_out.collect()
    }

    /// Writes how many lines were left out since the last report, of each place.
    pub(crate) fn report(&self) {
        for LeftOut { lines, message, place } in self.take_left_out() {
            tracing::warn!(target: REPORT, lines, like = message, place, "lines were left out because they repeat");
        }
    }
}

impl<S: Subscriber> Layer<S> for &'static Sampler {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.writes(event, Instant::now())
    }
}

/// Takes the message of an event.
struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String can't fail.
            let _ = fmt::Write::write_fmt(self.0, format_args!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, LazyLock},
    };

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Lines {
        fn count(&self, text: &str) -> usize {
            let bytes = self.0.lock().expect("no panic");
            String::from_utf8_lossy(&bytes).lines().filter(|line| line.contains(text)).count()
        }
    }

    /// A line that repeats is left out beyond its share and counted; others are written meanwhile, and so is it later.
    #[tokio::test(start_paused = true)]
    async fn a_line_that_repeats_is_sampled() {
        static SAMPLER: LazyLock<Sampler> = LazyLock::new(Sampler::default);
        let lines = Lines::default();
        let written = tracing_subscriber::fmt::layer().json().with_writer(lines.clone());
        let _on =
            tracing::subscriber::set_default(tracing_subscriber::registry().with(&*SAMPLER).with(written));
        let refuse = |count: u32| (0..count).for_each(|status| tracing::warn!(status, "request failed"));
        let most = LINES_MAX as usize;

        refuse(LINES_MAX + 1_000);
        tracing::info!("something else");
        (0..1_000).for_each(|_| tracing::debug!("asked for"));
        assert_eq!((lines.count("request failed"), lines.count("something else")), (most, 1));
        assert_eq!(lines.count("asked for"), 1_000);

        SAMPLER.report();
        assert_eq!(lines.count("left out"), 1);
        assert_eq!(lines.count("\"lines\":1000"), 1);
        assert_eq!(lines.count("\"like\":\"request failed\""), 1);
        SAMPLER.report();
        assert_eq!(lines.count("left out"), 1, "nothing new was left out");

        tokio::time::advance(WINDOW).await;
        refuse(3);
        assert_eq!(lines.count("\"message\":\"request failed\""), most + 3);
    }
}
