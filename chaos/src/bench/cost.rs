//! What an order costs: CPU time and context switches of each component, WAL and its flushes of each database, what reaches the disk.
//!
//! From `/proc` and from PostgreSQL's own counters, read before and after a load. Threads that have ended meanwhile have
//! taken their context switches with them; CPU time of children that have ended is kept by the kernel.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use holdfast_native::layout::{Layout, PARTICIPANTS};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::{
    disk,
    process::{self, Process, Usage},
};

/// Per order.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cost {
    /// Of each component.
    pub components: BTreeMap<String, ComponentCost>,
    /// Of each database, by its component.
    pub databases: BTreeMap<String, DatabaseCost>,
    /// Bytes that reached the disk of the stack's data, written by whatever runs on the machine; `None` if no disk is below it.
    pub disk_bytes: Option<f64>,
}

/// What a component spends on an order.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ComponentCost {
    /// Milliseconds of CPU, user and system.
    pub cpu_ms: f64,
    /// Context switches, voluntary or not.
    pub context_switches: f64,
}

/// What a database writes for an order.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DatabaseCost {
    /// Bytes of write-ahead log.
    pub wal_bytes: f64,
    /// Flushes of it. PostgreSQL's processes report theirs once in a while, so a short load has some of its predecessor's.
    pub wal_flushes: f64,
    /// Rows updated, and those of them without a change to any index (HOT); reported likewise.
    pub updates: f64,
    /// See `updates`.
    pub hot_updates: f64,
}

impl Cost {
    /// Milliseconds of CPU of the whole stack.
    #[must_use]
    pub fn cpu_ms(&self) -> f64 {
        self.components.values().map(|component| component.cpu_ms).sum()
    }

    /// Bytes of write-ahead log of all databases.
    #[must_use]
    pub fn wal_bytes(&self) -> f64 {
        self.databases.values().map(|database| database.wal_bytes).sum()
    }
}

/// The counters of a database since it was made.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    wal_bytes: i64,
    wal_flushes: i64,
    updates: i64,
    hot_updates: i64,
}

const COUNTERS: &str = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint, (select wal_sync from pg_stat_wal), \
                        coalesce(sum(n_tup_upd), 0)::bigint, coalesce(sum(n_tup_hot_upd), 0)::bigint from pg_stat_user_tables";

/// Reads what the components of a stack have spent so far.
pub(super) struct Costs {
    data_dir: PathBuf,
    processes: Vec<Process>,
    databases: Vec<(&'static str, PgConnection)>,
}

/// What they had spent at some time.
pub(super) struct Spent {
    processes: BTreeMap<String, Usage>,
    databases: BTreeMap<&'static str, Counters>,
    disk_bytes: Option<u64>,
}

impl Costs {
    /// Connects to the databases of the stack.
    pub(super) async fn of(layout: &Layout, processes: Vec<Process>) -> Result<Self> {
        let mut databases = Vec::new();
        for participant in PARTICIPANTS {
            let url = layout.database_url(participant)?;
            databases.push((participant.server, PgConnection::connect(&url).await?));
        }
        Ok(Self { data_dir: layout.data_dir.clone(), processes, databases })
    }

    /// Milliseconds of CPU of our services, replicas included.
    pub(super) fn of_services(&self, cost: &Cost) -> f64 {
        let services = self.processes.iter().filter(|process| process.is_service);
        services
            .filter_map(|process| cost.components.get(&process.name))
            .map(|component| component.cpu_ms)
            .sum()
    }

    pub(super) async fn read(&mut self) -> Result<Spent> {
        let mut databases = BTreeMap::new();
        for (server, connection) in &mut self.databases {
            let row = sqlx::query(COUNTERS).fetch_one(connection).await?;
            let counters = Counters {
                wal_bytes: row.try_get(0)?,
                wal_flushes: row.try_get(1)?,
                updates: row.try_get(2)?,
                hot_updates: row.try_get(3)?,
            };
            databases.insert(*server, counters);
        }
        let disk_bytes = disk::written_bytes(&self.data_dir)?;
        Ok(Spent { processes: process::usage(&self.processes)?, databases, disk_bytes })
    }
}

impl Spent {
    /// What was spent from then until `later`, on each of so many orders.
    #[expect(clippy::cast_precision_loss, reason = "counters of a run are far below 2^52")]
    pub(super) fn until(&self, later: &Self, orders: usize) -> Cost {
        let orders = orders.max(1) as f64;
        let components = later.processes.iter().map(|(name, after)| {
            let before = self.processes.get(name).cloned().unwrap_or_default();
            let cost = ComponentCost {
                cpu_ms: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1000.0 / orders,
                context_switches: after.context_switches.since(&before.context_switches) as f64 / orders,
            };
            (name.clone(), cost)
        });
        let databases = later.databases.iter().map(|(server, after)| {
            let before = self.databases.get(server).copied().unwrap_or_default();
            let per_order = |after: i64, before: i64| after.saturating_sub(before).max(0) as f64 / orders;
            let cost = DatabaseCost {
                wal_bytes: per_order(after.wal_bytes, before.wal_bytes),
                wal_flushes: per_order(after.wal_flushes, before.wal_flushes),
                updates: per_order(after.updates, before.updates),
                hot_updates: per_order(after.hot_updates, before.hot_updates),
            };
            ((*server).to_owned(), cost)
        });
        let disk_bytes = self.disk_bytes.zip(later.disk_bytes);
        let disk_bytes = disk_bytes.map(|(before, after)| after.saturating_sub(before) as f64 / orders);
        Cost { components: components.collect(), databases: databases.collect(), disk_bytes }
    }
}
