//! How many rows are sent and how long the broker takes for them, by topic.

use std::{collections::BTreeMap, sync::LazyLock};

use super::flight::Sent;
use crate::{handles::Histograms, metric};

static TIMES: LazyLock<Histograms<Taken>> = LazyLock::new(Histograms::default);

/// Whether the broker took a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Taken {
    Yes,
    No,
}

/// Adds a row that was answered to the times.
pub(super) fn measure(sent: &Sent, taken: Taken) {
    TIMES.record(&sent.topic, taken, sent.at.elapsed().as_secs_f64(), || {
        let mut labels = labels(&sent.topic, taken);
        labels.push(("messaging_operation_type", "send".to_owned()));
        metrics::histogram!(metric::MESSAGING_CLIENT_OPERATION_DURATION_SECONDS, &labels)
    });
}

/// Counts rows that were sent to these topics.
pub(super) fn count<'a>(topics: impl Iterator<Item = &'a str>, taken: Taken) {
    let mut rows = BTreeMap::<&str, u64>::new();
    topics.for_each(|topic| *rows.entry(topic).or_default() += 1);
    for (topic, rows) in rows {
        metrics::counter!(metric::MESSAGING_CLIENT_SENT_MESSAGES_TOTAL, &labels(topic, taken))
            .increment(rows);
    }
}

fn labels(topic: &str, taken: Taken) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        ("messaging_system", "kafka".to_owned()),
        ("messaging_operation_name", "send".to_owned()),
        ("messaging_destination_name", topic.to_owned()),
    ];
    if taken == Taken::No {
        labels.push(("error_type", "refused".to_owned()));
    }
    labels
}
