//! Looks at a stack while a run goes on: money at every moment, what waits, what moves, and what the processes count.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use holdfast_native::{
    layout::{PARTICIPANTS, service_of},
    state::ComponentState,
};
use holdfast_proto::topic::{EVENT_TOPICS, read_by};
use rdkafka::consumer::BaseConsumer;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row as _};
use tokio::time::{sleep, timeout};

use crate::{admin, invariant::money, rest::Rest, stack::Stack, topics, workload::Workload};

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
    /// Orders of the run that are unfinished, and those that are at their end.
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

/// A counter that says that a run has reached a rare place.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// What happened there.
    pub name: &'static str,
    /// Its metric, and what the earlier programs of the scenario `upgrade` call it.
    metric: [&'static str; 2],
    /// Part of the labels; empty for all series.
    label: &'static str,
}

impl Mark {
    const fn new(name: &'static str, metric: [&'static str; 2], label: &'static str) -> Self {
        Self { name, metric, label }
    }

    /// What a process has counted so far. Its page has one of the two names.
    fn count(&self, page: &str) -> f64 {
        self.metric.iter().map(|metric| admin::metric(page, metric, &[self.label])).sum()
    }
}

/// All of them.
pub const MARKS: [Mark; 13] = [
    Mark::new(
        "an inbox dropped a duplicate",
        ["messaging_client_consumed_messages_total", "consumer_records_total"],
        "outcome=\"duplicate\"",
    ),
    Mark::new(
        "a breaker opened",
        ["holdfast_circuit_breaker_transitions_total", "circuit_breaker_transitions_total"],
        "to=\"open\"",
    ),
    Mark::new(
        "a breaker closed again",
        ["holdfast_circuit_breaker_transitions_total", "circuit_breaker_transitions_total"],
        "to=\"closed\"",
    ),
    Mark::new(
        "a breaker refused a call",
        ["holdfast_circuit_breaker_rejected_total", "circuit_breaker_rejected_total"],
        "",
    ),
    Mark::new(
        "a call was sent again",
        ["holdfast_grpc_client_retries_total", "grpc_client_retries_total"],
        "",
    ),
    Mark::new(
        "a retry was over its budget",
        ["holdfast_grpc_client_retries_over_budget_total", "grpc_client_retries_over_budget_total"],
        "",
    ),
    Mark::new("a batch was tried again", ["holdfast_consumer_retries_total", "consumer_retries_total"], ""),
    Mark::new(
        "a membership was lost",
        ["holdfast_consumer_memberships_lost_total", "consumer_memberships_lost_total"],
        "",
    ),
    Mark::new(
        "a producer was replaced",
        ["holdfast_outbox_producer_replacements_total", "outbox_producer_replacements_total"],
        "",
    ),
    Mark::new(
        "a deadline cut a statement off",
        ["holdfast_database_connections_cut_off_total", "database_connections_cut_off_total"],
        "",
    ),
    Mark::new(
        "a transaction lost against another",
        ["holdfast_transaction_conflicts_total", "transaction_conflicts_total"],
        "",
    ),
    Mark::new(
        "a letter was parked behind its key",
        ["holdfast_dead_letters_total", "dead_letters_total"],
        "class=\"blocked-by-key\"",
    ),
    Mark::new(
        "a letter was redriven",
        ["holdfast_dead_letters_redriven_total", "dead_letters_redriven_total"],
        "",
    ),
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
    pub fn start(stack: Arc<Stack>, rest: Rest, workload: Arc<Workload>) -> Result<Self> {
        let users = workload.user_names().map(str::to_owned).collect();
        let broker = Arc::new(topics::client(&stack.layout)?);
        let (databases, last) = (BTreeMap::new(), BTreeMap::new());
        let mut watcher = Watcher { stack, rest, broker, users, databases, last };
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                loop {
                    let sample = watcher.look(workload.now()).await;
                    shared.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                    watcher.count(&shared.counters).await;
                    sleep(LOOK_EVERY).await;
                }
            }
        });
        Ok(Self { shared, task })
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
    broker: Arc<BaseConsumer>,
    /// Those of the run.
    users: Vec<String>,
    /// Those that answered last time.
    databases: BTreeMap<&'static str, PgConnection>,
    /// The last value of each counter of each component.
    last: BTreeMap<(String, &'static str), f64>,
}

impl Watcher {
    async fn look(&mut self, time: u64) -> Sample {
        let mut sample = Sample { time, ..Sample::default() };
        // The ends first: what comes meanwhile makes a lag smaller, never larger than it was.
        let ends = ends(self.broker.clone()).await;
        for participant in PARTICIPANTS {
            let name = participant.name;
            // A database that is away is no finding of this look.
            let Ok(mut connection) = self.connection(name).await else { continue };
            let look = look_at(&mut connection, name, ends.as_ref(), &self.users, &mut sample);
            let looked = timeout(ANSWER_TIME_MAX, look).await;
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
            // What the console counts is not the services'.
            if service_of(&component.name).is_none() {
                continue;
            }
            let url = self.stack.layout.admin_url(&component.name);
            let metrics = timeout(ANSWER_TIME_MAX, admin::page(&self.rest, &url, "/metrics")).await;
            let Ok(Ok(answer)) = metrics else { continue };
            let page = String::from_utf8_lossy(&answer.body).into_owned();
            for mark in MARKS {
                let now = mark.count(&page);
                let last = self.last.insert((component.name.clone(), mark.name), now).unwrap_or(0.0);
                // Less than before: another process.
                let grown = if now < last { now } else { now - last };
                let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
                *counters.entry(mark.name.to_owned()).or_default() += grown;
            }
        }
    }
}

async fn look_at(
    connection: &mut PgConnection,
    service: &str,
    ends: Option<&BTreeMap<String, i64>>,
    users: &[String],
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
                    or (status = 'PAID' and delivery_status is distinct from 'DELIVERED')) as unfinished
                from orders where user_id = any($1)",
            )
            .bind(users)
            .fetch_one(connection)
            .await?;
            let (all, unfinished): (i64, i64) = (row.try_get("all_orders")?, row.try_get("unfinished")?);
            sample.orders = Some((unfinished, all - unfinished));
        }
        _ => {}
    }
    Ok(())
}

/// The ends of the topics, summed over their partitions; `None` while the broker does not answer.
async fn ends(client: Arc<BaseConsumer>) -> Option<BTreeMap<String, i64>> {
    let look = tokio::task::spawn_blocking(move || topics::ends(&client, &EVENT_TOPICS, LOOK_EVERY));
    let mut ends = BTreeMap::new();
    for partition in look.await.ok()?.ok()? {
        *ends.entry(partition.topic).or_default() += partition.end;
    }
    Some(ends)
}
