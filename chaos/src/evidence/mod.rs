//! Everything that a run has seen, as files in one folder: the judge needs nothing else, and can be asked again.
//!
//! | file | holds |
//! |---|---|
//! | `run.json` | what was run, where, with what plan; the phases |
//! | `journal.jsonl` | what the clients did and saw ([`crate::journal`]) |
//! | `faults.jsonl` | what was done to the stack ([`crate::storm`]) |
//! | `samples.jsonl` | what was seen every second ([`crate::watch`]) |
//! | `state.json` | the rows of the databases at the end |
//! | `records.jsonl` | every record of every event topic |
//! | `logs.json`, `logs/` | what was found in the logs, and the logs |

pub mod collect;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    journal::{self, Call},
    scenario::{Action, Plan},
    storm::FaultRecord,
    watch::{Counters, Sample},
};

/// What was run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunInfo {
    /// Names the users of the run, and the run.
    pub run: String,
    /// When it began: RFC 3339.
    pub began_at: String,
    /// The command that does it again.
    pub command: String,
    /// The commit of the working tree, or `unknown`.
    pub commit: String,
    /// Processors and memory of the machine.
    pub machine: String,
    /// The components of the stack.
    pub components: Vec<String>,
    /// The users.
    pub users: Vec<String>,
    /// Everything that was to be done.
    pub plan: Plan,
    /// The kinds of faults that can't be done here, and why: they were left out of the plan.
    #[serde(default)]
    pub unavailable: Vec<String>,
    /// When the load began, in microseconds since the run began.
    pub load_began: u64,
    /// When the faults began, and when they had ended.
    pub storm: [u64; 2],
    /// When the load had ended.
    pub load_ended: u64,
    /// When nothing was on its way any more; absent if that never came.
    pub settled: Option<u64>,
    /// Why the run was cut short, if it was.
    pub stuck: Option<String>,
    /// Keys whose outcome was unknown, and which were sent again at rest.
    pub resolved: usize,
    /// Letters that were discarded, and whether everything else was redriven.
    pub discarded: usize,
    /// The ends of the event topics before that, all of which had been read: what came later found the letters closed. Empty if nothing
    /// was discarded.
    #[serde(default)]
    pub before_repair: Vec<PartitionEnds>,
    /// Events that the broker had lost, and that were re-emitted.
    pub re_emitted: usize,
    /// Dead letters that were open before the run: they are not its affair.
    pub open_before: BTreeSet<String>,
    /// What the processes counted.
    pub counters: Counters,
}

/// An order as its database has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table, explained in order/migrations")]
pub struct OrderRow {
    pub order_id: String,
    pub user_id: String,
    pub key: Option<String>,
    pub status: String,
    pub delivery_status: Option<String>,
    pub delivery_address: String,
    pub total_minor: i64,
    pub version: i64,
}

/// A payment with the ledger entries of its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the tables, explained in payment/migrations")]
pub struct PaymentRow {
    pub order_id: String,
    pub user_id: String,
    pub status: String,
    pub amount_minor: i64,
    pub charges: i64,
    pub charged_minor: i64,
    pub refunds: i64,
    pub refunded_minor: i64,
}

/// An account with the sums of its ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the tables, explained in payment/migrations")]
pub struct AccountRow {
    pub user_id: String,
    pub balance_minor: i64,
    pub credited_minor: i64,
    pub charged_minor: i64,
    pub refunded_minor: i64,
}

/// A delivery with its steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the tables, explained in delivery/migrations")]
pub struct DeliveryRow {
    pub order_id: String,
    pub user_id: String,
    pub status: String,
    pub steps: Vec<String>,
}

/// A partition in the tally of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table, explained in common/migrations")]
pub struct PositionRow {
    pub service: String,
    pub topic: String,
    pub partition: i32,
    pub next_offset: i64,
    pub applied: i64,
    pub duplicates: i64,
    pub parked: i64,
    pub set_aside: i64,
}

impl PositionRow {
    /// Every record that the group has dealt with.
    #[must_use]
    pub const fn tally(&self) -> i64 {
        self.applied + self.duplicates + self.parked + self.set_aside
    }
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "columns of the table, explained in common/migrations")]
pub struct LetterRow {
    pub service: String,
    pub id: String,
    pub class: String,
    pub state: String,
    pub subject: Option<String>,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// Rows that wait in an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "counts of the tables, explained in common/migrations")]
pub struct OutboxRow {
    pub service: String,
    pub waiting: i64,
    pub held: i64,
}

/// The databases at the end, each in one snapshot. Orders, payments, accounts and deliveries are those of the run's users, and
/// those that belong to nobody.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// Of order.
    pub orders: Vec<OrderRow>,
    /// Of payment.
    pub payments: Vec<PaymentRow>,
    /// Of payment.
    pub accounts: Vec<AccountRow>,
    /// Of delivery.
    pub deliveries: Vec<DeliveryRow>,
    /// Of all.
    pub positions: Vec<PositionRow>,
    /// Of all.
    pub letters: Vec<LetterRow>,
    /// Of all.
    pub outboxes: Vec<OutboxRow>,
    /// Beginning and end of each partition of each event topic.
    pub partitions: Vec<PartitionEnds>,
}

/// The ends of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the words of Kafka")]
pub struct PartitionEnds {
    pub topic: String,
    pub partition: i32,
    pub first: i64,
    pub end: i64,
}

/// A record of an event topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it is.
    pub topic: String,
    /// Where it is.
    pub partition: i32,
    /// Where it is.
    pub offset: i64,
    /// `ce_id`.
    pub event_id: Option<String>,
    /// `ce_subject`: the order.
    pub subject: Option<String>,
    /// The first bytes of the SHA-256 of its value.
    pub hash: String,
    /// The status that it tells of, where it can be decoded and has one.
    pub status: Option<String>,
}

/// What was found in the logs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogFindings {
    /// Lines that were read.
    pub lines: u64,
    /// Components whose logs were read.
    pub components: usize,
    /// Panics: component and line.
    pub panics: Vec<String>,
    /// Secrets: component, number of the line, and what kind of secret it is. Never the secret.
    pub secrets: Vec<String>,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What was run.
    pub info: RunInfo,
    /// What the clients did and saw.
    pub calls: Vec<Call>,
    /// What was done to the stack.
    pub faults: Vec<FaultRecord>,
    /// What was seen every second.
    pub samples: Vec<Sample>,
    /// The databases at the end.
    pub state: State,
    /// The topics at the end.
    pub records: Vec<Record>,
    /// The logs.
    pub logs: LogFindings,
}

impl Evidence {
    /// Whether the broker has lost records that it had acknowledged: then the topics don't have all of them, and the tallies
    /// have more.
    #[must_use]
    pub fn lost_tail(&self) -> bool {
        self.faults.iter().any(|fault| fault.action == Action::LoseTail && fault.landed.is_some())
    }
}

/// The folder of a run.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new folder, which must not be there or be empty: no run writes over another.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        let is_empty = fs::read_dir(path)?.next().is_none();
        anyhow::ensure!(is_empty, "{} is not empty: each run has a folder of its own", path.display());
        Ok(Self(path.to_owned()))
    }

    /// The folder of an earlier run.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file of one document.
    pub fn write(&self, name: &str, document: &impl Serialize) -> Result<()> {
        let path = self.file(name);
        let text = serde_json::to_vec_pretty(document)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes a file of one line for each.
    pub fn write_lines(&self, name: &str, lines: &[impl Serialize]) -> Result<()> {
        let path = self.file(name);
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = BufWriter::new(file);
        for line in lines {
            serde_json::to_writer(&mut file, line)?;
            file.write_all(b"\n")?;
        }
        file.flush().with_context(|| format!("cannot write {}", path.display()))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.file(name);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} can't be understood", path.display()))
    }

    fn read_lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        let path = self.file(name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let lines = BufReader::new(file).lines();
        lines
            .map(|line| {
                serde_json::from_str(&line?)
                    .with_context(|| format!("{} can't be understood", path.display()))
            })
            .collect()
    }

    /// Everything that a run has written.
    pub fn load(&self) -> Result<Evidence> {
        Ok(Evidence {
            info: self.read("run.json")?,
            calls: journal::read(&self.file("journal.jsonl"))?,
            faults: self.read_lines("faults.jsonl")?,
            samples: self.read_lines("samples.jsonl")?,
            state: self.read("state.json")?,
            records: self.read_lines("records.jsonl")?,
            logs: self.read("logs.json")?,
        })
    }
}
