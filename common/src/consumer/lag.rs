//! Tells the metrics how many records wait for a group. Asked of the broker, so it is right while the consumer stands,
//! waits for its database, or is gone; every replica says the same.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
    metadata::MetadataTopic,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::KafkaConfig,
    kafka::{QuietContext, observer},
    service::{BoxError, chain},
};

const LOOK_EVERY: Duration = Duration::from_secs(5);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// Keeps `consumer_lag_records` in step until `stop`.
pub async fn follow(
    config: KafkaConfig,
    group: &'static str,
    topics: Vec<&'static str>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let observer = Arc::new(observer(&config, group)?);
    loop {
        let (asked, about) = (observer.clone(), topics.clone());
        match tokio::task::spawn_blocking(move || look(&asked, &about)).await? {
            Ok(lags) => {
                for (topic, records) in lags {
                    #[expect(clippy::cast_precision_loss, reason = "a count of records is far below 2^52")]
                    metrics::gauge!("consumer_lag_records", "topic" => topic).set(records as f64);
                }
            }
            // The kafka component says that the broker is away.
            Err(error) => tracing::debug!(error = chain(&error), "cannot ask for the lag"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Records behind the committed offset, by topic.
fn look(
    observer: &BaseConsumer<QuietContext>,
    topics: &[&'static str],
) -> KafkaResult<BTreeMap<&'static str, i64>> {
    // It reads nothing, but librdkafka tells its errors here, and they must not pile up.
    while observer.poll(Duration::ZERO).is_some() {}
    let mut lags = BTreeMap::new();
    for topic in topics {
        let metadata = observer.fetch_metadata(Some(topic), ANSWER_TIME_MAX)?;
        let mut places = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
            places.add_partition(topic, partition.id());
        }
        let mut records = 0;
        for place in observer.committed_offsets(places, ANSWER_TIME_MAX)?.elements() {
            let (first, end) = observer.fetch_watermarks(topic, place.partition(), ANSWER_TIME_MAX)?;
            // Nothing committed: the group begins with the first record.
            let next = match place.offset() {
                Offset::Offset(offset) => offset.max(first),
                _ => first,
            };
            records += (end - next).max(0);
        }
        lags.insert(*topic, records);
    }
    Ok(lags)
}
