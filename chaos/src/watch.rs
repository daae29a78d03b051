//! Looks at a stack while a run goes on: money at every moment, what waits, what moves, and what the processes count.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use holdfast_native::{layout::PARTICIPANTS, state::ComponentState};
use holdfast_proto::topic::{EVENT_TOPICS, read_by};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row as _};
use tokio::time::{sleep, timeout};

use crate::{invariant::money, rest::Rest, stack::Stack, workload::Workload};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A database that is stalled answers nobody.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// What was seen at one moment. What could not be seen then is absent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Microseconds since the run began.
    pub time: u64,
    /// What was wrong with the money, in one snapshot.
    pub money: Option<Vec<String>>,
    /// By service.
    pub services: BTreeMap<String, ServiceSample>,
    /// Orders of the whole stack that are unfinished, and those that are at their end.
    pub orders: Option<(i64, i64)>,
    /// What is not ready, with its state and what it says of itself.
    pub unwell: BTreeMap<String, String>,
}

/// A service's progress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSample {
    /// Records that its group has dealt with.
    pub tally: i64,
    /// Records of its topics that it has not dealt with yet; absent while the broker does not answer.
    pub lag: Option<i64>,
    /// Rows in its outbox.
    pub outbox: i64,
}

/// How often each process counted what, over the whole run: the restarts of a process are seen by its counters that begin
/// again.
pub type Counters = BTreeMap<String, f64>;

/// The counters that say which rare places a run has reached: their name, metric, and a part of the labels.
pub const MARKS: [(&str, &str, &str); 13] = [
    ("an inbox dropped a duplicate", "consumer_records_total", "outcome=\"duplicate\""),
    ("a breaker opened", "circuit_breaker_transitions_total", "to=\"open\""),
    ("a breaker closed again", "circuit_breaker_transitions_total", "to=\"closed\""),
    ("a breaker refused a call", "circuit_breaker_rejected_total", ""),
    ("a call was sent again", "grpc_client_retries_total", ""),
    ("a retry was over its budget", "grpc_client_retries_over_budget_total", ""),
    ("a batch was tried again", "consumer_retries_total", ""),
    ("a membership was lost", "consumer_memberships_lost_total", ""),
    ("a producer was replaced", "outbox_producer_replacements_total", ""),
    ("a deadline cut a statement off", "database_connections_cut_off_total", ""),
    ("a transaction lost against another", "transaction_conflicts_total", ""),
    ("a letter was parked behind its key", "dead_letters_total", "class=\"blocked-by-key\""),
    ("a letter was redriven", "dead_letters_redriven_total", ""),
];

/// Follows a stack until it is dropped.
pub struct Watch {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    samples: Mutex<Vec<Sample>>,
    counters: Mutex<Counters>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Begins to look, once a second.
    #[must_use]
    pub fn start(stack: Arc<Stack>, rest: Rest, workload: Arc<Workload>) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                let mut watcher = Watcher { stack, rest, databases: BTreeMap::new(), last: BTreeMap::new() };
                loop {
                    let sample = watcher.look(workload.now()).await;
                    shared.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                    watcher.count(&shared.counters).await;
                    sleep(LOOK_EVERY).await;
                }
            }
        });
        Self { shared, task }
    }

    /// The last look, if there was one.
    #[must_use]
    pub fn latest(&self) -> Option<Sample> {
        self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// How many looks there were.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Everything that was seen.
    #[must_use]
    pub fn finish(self) -> (Vec<Sample>, Counters) {
        let take = |samples: &Mutex<Vec<Sample>>| {
            std::mem::take(&mut *samples.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let counters = self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (take(&self.shared.samples), counters)
    }
}

struct Watcher {
    stack: Arc<Stack>,
    rest: Rest,
    /// Those that answered last time.
    databases: BTreeMap<&'static str, PgConnection>,
    /// The last value of each counter of each component.
    last: BTreeMap<(String, &'static str), f64>,
}

impl Watcher {
    async fn look(&mut self, time: u64) -> Sample {
        let mut sample = Sample { time, ..Sample::default() };
        // The ends first: what comes meanwhile makes a lag smaller, never larger than it was.
        let ends = ends(self.stack.layout.kafka_brokers()).await;
        for participant in PARTICIPANTS {
            let name = participant.name;
            // A database that is away is no finding of this look.
            let Ok(mut connection) = self.connection(name).await else { continue };
            let looked =
                timeout(ANSWER_TIME_MAX, look_at(&mut connection, name, ends.as_ref(), &mut sample)).await;
            if matches!(looked, Ok(Ok(()))) {
                self.databases.insert(name, connection);
            }
        }
        if let Ok(components) = self.stack.components() {
            for component in
                components.into_iter().filter(|component| component.state != ComponentState::Ready)
            {
                sample.unwell.insert(component.name, format!("{:?}: {}", component.state, component.detail));
            }
        }
        sample
    }

    async fn connection(&mut self, service: &'static str) -> Result<PgConnection> {
        match self.databases.remove(service) {
            Some(connection) => Ok(connection),
            None => self.stack.database(service).await,
        }
    }

    /// Adds what the counters of each process have grown by.
    async fn count(&mut self, counters: &Mutex<Counters>) {
        let Ok(components) = self.stack.components() else { return };
        for component in components {
            if self.stack.layout.component_admin_port(&component.name).is_none() {
                continue;
            }
            let url = format!("{}/metrics", self.stack.layout.admin_url(&component.name));
            let Ok(request) = http::Request::get(url).body(http_body_util::Full::default()) else { continue };
            let Ok(Ok(answer)) = timeout(ANSWER_TIME_MAX, self.rest.send(request)).await else { continue };
            let page = String::from_utf8_lossy(&answer.body).into_owned();
            for (mark, metric, part) in MARKS {
                let now = sum(&page, metric, part);
                let last = self.last.insert((component.name.clone(), mark), now).unwrap_or(0.0);
                // Less than before: another process.
                let grown = if now < last { now } else { now - last };
                let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
                *counters.entry(mark.to_owned()).or_default() += grown;
            }
        }
    }
}

/// The sum over all series of a metric whose line has this part.
fn sum(page: &str, metric: &str, part: &str) -> f64 {
    page.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(metric) && line.contains(part))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

async fn look_at(
    connection: &mut PgConnection,
    service: &str,
    ends: Option<&BTreeMap<String, i64>>,
    sample: &mut Sample,
) -> Result<()> {
    let row = sqlx::query(
        "-- chaos.progress
        select coalesce(sum(applied + duplicates + parked + set_aside), 0)::bigint as tally,
            coalesce(sum(next_offset), 0)::bigint as position,
            (select count(*) from outbox) + (select count(*) from outbox_held) as outbox
        from consumer_positions",
    )
    .fetch_one(&mut *connection)
    .await?;
    let position: i64 = row.try_get("position")?;
    let lag =
        ends.map(|ends| read_by(service).iter().filter_map(|topic| ends.get(*topic)).sum::<i64>() - position);
    let seen = ServiceSample {
        tally: row.try_get("tally")?,
        lag: lag.map(|lag| lag.max(0)),
        outbox: row.try_get("outbox")?,
    };
    sample.services.insert(service.to_owned(), seen);
    match service {
        "payment" => {
            let wrong = money::violations(connection).await?;
            sample.money = Some(wrong.iter().map(ToString::to_string).collect());
        }
        "order" => {
            let row = sqlx::query(
                "-- chaos.unfinished
                select count(*) as all_orders, count(*) filter (where status = 'PENDING'
                    or (status = 'PAID' and delivery_status is distinct from 'DELIVERED')) as unfinished from orders",
            )
            .fetch_one(connection)
            .await?;
            let (all, unfinished): (i64, i64) = (row.try_get("all_orders")?, row.try_get("unfinished")?);
            sample.orders = Some((unfinished, all - unfinished));
        }
        _ => {}
    }
    Ok(())
}

/// The ends of the topics, summed over their partitions.
async fn ends(brokers: String) -> Option<BTreeMap<String, i64>> {
    let look = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("log_level", "0")
            .create()
            .context("no client")?;
        let mut ends = BTreeMap::new();
        for topic in EVENT_TOPICS {
            let metadata = consumer.fetch_metadata(Some(topic), LOOK_EVERY)?;
            let topic = metadata.topics().first().context("no such topic")?;
            let mut end = 0;
            for partition in topic.partitions() {
                end += consumer.fetch_watermarks(topic.name(), partition.id(), LOOK_EVERY)?.1;
            }
            ends.insert(topic.name().to_owned(), end);
        }
        anyhow::Ok(ends)
    });
    look.await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter is summed over its series, and another metric whose name begins alike is not.
    #[test]
    fn counters_are_summed() {
        let page = "# HELP x\nx_total{to=\"open\",a=\"1\"} 2\nx_total{to=\"open\",a=\"2\"} 3\nx_total{to=\"closed\"} 9\nx_total_more 7\n";
        assert!((sum(page, "x_total", "to=\"open\"") - 5.0).abs() < 0.1);
        assert!((sum(page, "x_total", "") - 14.0).abs() < 0.1);
    }
}
