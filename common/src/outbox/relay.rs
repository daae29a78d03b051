//! The relay: publishes outbox rows in their order and deletes those that the broker has acknowledged.
//!
//! One relay per database is the leader, by an advisory lock that lives and dies with the relay's own connection
//! (`docs/adr/0002-one-relay-leader.md`); several would reorder the events of a key (pitfalls P16). A row is claimed by
//! its own existence, never by "id greater than the last one", so a transaction that commits late is not skipped
//! (pitfalls P14). Published means acknowledged: a crash between acknowledgement and deletion publishes a row twice, and
//! the inbox of each consumer knows it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{DeliveryFuture, FutureProducer, FutureRecord},
};
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    database::{Database, DatabaseError, bounded},
    health::Component,
    kafka::QuietContext,
    record::{HeaderCodecError, decode_headers},
    service::chain,
};

/// Rows published at a time; bounds the memory of the relay to this many records.
const CLAIM_ROWS_MAX: i64 = 500;
/// Rows written by other replicas wake nobody here; they are found after this time.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// How often a relay that is not the leader tries to become it.
const LEADER_RETRY_EVERY: Duration = Duration::from_millis(500);
/// The advisory lock of the leader: "HOLDFAST" in ASCII. Each service has a database of its own.
const LEADER_LOCK: i64 = i64::from_be_bytes(*b"HOLDFAST");
/// How often backlog and age are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// The durable steps of one pass. A test stops the relay between two of them to see that nothing is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Rows were read, nothing was sent.
    Claimed,
    /// The broker has acknowledged the rows, they are still in the table.
    Acknowledged,
    /// The rows are gone.
    Deleted,
}

/// Is told of each step.
pub type StepHook = Arc<dyn Fn(Step) + Send + Sync>;

/// Publishes the outbox of one database.
pub struct Relay {
    database: Database,
    producer: FutureProducer<QuietContext>,
    committed: Arc<Notify>,
    component: Component,
    poll_every: Duration,
    hook: Option<StepHook>,
}

/// Why a pass ended early. The leader's connection is given up and the relay begins anew.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("outbox cannot be read")]
    Database(#[from] DatabaseError),
    #[error("outbox row {id} has headers that cannot be read")]
    Headers {
        id: i64,
        #[source]
        source: HeaderCodecError,
    },
    #[error("outbox row {id} for topic {topic} cannot be published")]
    Publish {
        id: i64,
        topic: String,
        #[source]
        source: KafkaError,
    },
    #[error("producer was closed")]
    Closed,
}

struct Row {
    id: i64,
    topic: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<u8>,
}

impl Relay {
    /// A relay of `database`. `component` says whether it can publish.
    #[must_use]
    pub fn new(database: Database, producer: FutureProducer<QuietContext>, component: Component) -> Self {
        let committed = database.committed();
        Self { database, producer, committed, component, poll_every: POLL_EVERY, hook: None }
    }

    /// Looks for rows of other replicas at another interval; for tests.
    #[must_use]
    pub const fn with_poll_every(mut self, poll_every: Duration) -> Self {
        self.poll_every = poll_every;
        self
    }

    /// Calls `hook` after each durable step; for tests.
    #[must_use]
    pub fn with_hook(mut self, hook: StepHook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Publishes until `stop`. What is not acknowledged by then stays in the table.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.lead_for_ever() => {}
        }
    }

    async fn lead_for_ever(&self) {
        let mut backoff = Backoff::for_infrastructure();
        self.database.migrated().await;
        loop {
            if let Err(error) = self.lead(&mut backoff).await {
                metrics::counter!("outbox_relay_failures_total").increment(1);
                let text = chain(&error);
                tracing::warn!(error = text, "relay begins anew");
                self.component.waiting(text);
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    /// Becomes the leader and publishes until something fails.
    async fn lead(&self, backoff: &mut Backoff) -> Result<(), RelayError> {
        // A connection of its own rather than one of the pool: the lock must end with the relay, not go back with a
        // connection.
        let options = self.database.pool().connect_options();
        let mut connection = bounded(PgConnection::connect_with(&options)).await?;
        while !try_lock(&mut connection).await? {
            self.component.ready();
            tokio::time::sleep(LEADER_RETRY_EVERY).await;
        }
        tracing::info!("relay leads");
        let mut measured = tokio::time::Instant::now() - MEASURE_EVERY;
        loop {
            if measured.elapsed() >= MEASURE_EVERY {
                measure(&mut connection).await?;
                measured = tokio::time::Instant::now();
            }
            // Before the read: a commit during the read wakes the wait below.
            let woken = self.committed.notified();
            let rows = claim(&mut connection).await?;
            if rows.is_empty() {
                self.component.ready();
                // A timeout here is the poll.
                let _ = tokio::time::timeout(self.poll_every, woken).await;
                continue;
            }
            self.step(Step::Claimed);
            let (acknowledged, failure) = self.publish(rows).await;
            self.step(Step::Acknowledged);
            delete(&mut connection, &acknowledged).await?;
            metrics::counter!("outbox_published_total").increment(acknowledged.len() as u64);
            self.step(Step::Deleted);
            if let Some(failure) = failure {
                return Err(failure);
            }
            backoff.reset();
            self.component.ready();
        }
    }

    /// Sends rows in order and waits for the broker. Answers with those that it has, and the first failure.
    async fn publish(&self, rows: Vec<Row>) -> (Vec<i64>, Option<RelayError>) {
        let mut failure = None;
        // A row that can't be sent holds back the later ones of its topic and key, and only those.
        let mut held_back = HashSet::new();
        let mut sent: Vec<(i64, String, DeliveryFuture)> = Vec::with_capacity(rows.len());
        for row in rows {
            let place = (row.topic.clone(), row.key.clone());
            if held_back.contains(&place) {
                continue;
            }
            let (id, topic) = (row.id, row.topic.clone());
            match self.enqueue(&row) {
                Ok(delivery) => sent.push((id, topic, delivery)),
                Err(RelayError::Publish { source, .. })
                    if source.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
                {
                    // Back-pressure: wait for those that were sent; the rest is read again.
                    break;
                }
                Err(error) => {
                    held_back.insert(place);
                    failure.get_or_insert(error);
                }
            }
        }
        let mut acknowledged = Vec::with_capacity(sent.len());
        let (places, deliveries): (Vec<_>, Vec<_>) =
            sent.into_iter().map(|(id, topic, delivery)| ((id, topic), delivery)).unzip();
        for ((id, topic), delivered) in places.into_iter().zip(join_all(deliveries).await) {
            match delivered {
                Ok(Ok(_)) => acknowledged.push(id),
                Ok(Err((source, _))) => {
                    failure.get_or_insert(RelayError::Publish { id, topic, source });
                }
                Err(_) => {
                    failure.get_or_insert(RelayError::Closed);
                }
            }
        }
        (acknowledged, failure)
    }

    fn enqueue(&self, row: &Row) -> Result<DeliveryFuture, RelayError> {
        let headers =
            decode_headers(&row.headers).map_err(|source| RelayError::Headers { id: row.id, source })?;
        let mut native = OwnedHeaders::new_with_capacity(headers.len());
        for header in &headers {
            native = native.insert(rdkafka::message::Header {
                key: &header.name,
                value: header.value.as_ref().map(Bytes::as_ref),
            });
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(&row.topic).headers(native);
        record.key = row.key.as_deref();
        record.payload = row.value.as_deref();
        self.producer.send_result(record).map_err(|(source, _)| RelayError::Publish {
            id: row.id,
            topic: row.topic.clone(),
            source,
        })
    }

    fn step(&self, step: Step) {
        if let Some(hook) = &self.hook {
            hook(step);
        }
    }
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, DatabaseError> {
    let query = sqlx::query("-- relay.try_lock\nselect pg_try_advisory_lock($1) as leader").bind(LEADER_LOCK);
    let row = bounded(query.fetch_one(connection)).await?;
    Ok(row.try_get("leader")?)
}

async fn claim(connection: &mut PgConnection) -> Result<Vec<Row>, DatabaseError> {
    let query = sqlx::query(
        "-- relay.claim
        select id, topic, key, value, headers from outbox order by id limit $1",
    )
    .bind(CLAIM_ROWS_MAX);
    let rows = bounded(query.fetch_all(connection)).await?;
    rows.into_iter()
        .map(|row| {
            Ok(Row {
                id: row.try_get("id")?,
                topic: row.try_get("topic")?,
                key: row.try_get("key")?,
                value: row.try_get("value")?,
                headers: row.try_get("headers")?,
            })
        })
        .collect()
}

async fn delete(connection: &mut PgConnection, ids: &[i64]) -> Result<(), DatabaseError> {
    if ids.is_empty() {
        return Ok(());
    }
    // Not waiting for the disk is safe here: a deletion that is lost in a crash publishes the row again, which the
    // consumers' inboxes know.
    bounded(async {
        let mut transaction = connection.begin_with("begin; set local synchronous_commit = off").await?;
        sqlx::query("-- relay.delete\ndelete from outbox where id = any($1)")
            .bind(ids)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    })
    .await
}

async fn measure(connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "-- relay.measure
        select coalesce(extract(epoch from clock_timestamp() - created_at), 0)::float8 as age_s
        from outbox order by id limit 1",
    );
    let row = bounded(query.fetch_optional(connection)).await?;
    let age_s: f64 = row.map_or(Ok(0.0), |row| row.try_get("age_s"))?;
    metrics::gauge!("outbox_oldest_age_seconds").set(age_s);
    Ok(())
}
