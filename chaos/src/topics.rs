//! What the broker has: the ends of the event topics.

use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_native::{kafka, layout::Layout};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::evidence::PartitionEnds;

/// A client of a stack's broker that only looks: partitions are assigned to it, and nothing is committed.
pub fn client(layout: &Layout) -> Result<BaseConsumer> {
    let client = kafka::client(layout)?
        // librdkafka asks for a name in any case.
        .set("group.id", "holdfast-chaos-checker")
        .set("enable.auto.commit", "false")
        // A broker that comes back is asked again soon.
        .set("reconnect.backoff.max.ms", "300")
        .set("log_level", "0")
        .create()?;
    Ok(client)
}

/// Beginning and end of each partition of these topics. Blocks, each question for at most this time.
pub fn ends(client: &BaseConsumer, topics: &[&str], time_max: Duration) -> Result<Vec<PartitionEnds>> {
    let mut all = Vec::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), time_max)?;
        let found = metadata.topics().first().with_context(|| format!("there is no topic {topic}"))?;
        for partition in found.partitions() {
            let (first, end) = client.fetch_watermarks(topic, partition.id(), time_max)?;
            all.push(PartitionEnds { topic: (*topic).to_owned(), partition: partition.id(), first, end });
        }
    }
    Ok(all)
}
