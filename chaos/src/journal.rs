//! What the clients of a run did and saw, as lines of JSON on disk: a run that is killed leaves what it had seen, and a
//! stranger's checker can judge it too.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// What a line says of its operation, in the words of Jepsen's histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It begins.
    Invoke,
    /// It had its effect, and this is what came back.
    Ok,
    /// It had no effect.
    Fail,
    /// Nobody knows whether it had an effect.
    Info,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// `POST /api/orders`.
    Create,
    /// `GET /api/orders/{id}` of an own order.
    Read,
    /// `GET /api/orders/{id}` of somebody else's order.
    Foreign,
    /// `GET /api/orders`, to its last page.
    List,
    /// `GET /api/accounts/{user}`.
    Account,
    /// `POST /api/accounts/{user}/credits`.
    Credit,
}

impl Operation {
    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Foreign => "foreign",
            Self::List => "list",
            Self::Account => "account",
            Self::Credit => "credit",
        }
    }
}

/// What an operation is about, and what came back. What does not apply is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Who asks.
    pub user: String,
    /// The idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// Where it is to be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The order's total, the amount of a credit, or the balance of an account, in cents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cents: Option<i64>,
    /// The status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<u16>,
    /// Whether the answer said when to come back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_after: bool,
    /// The order's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The order's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The order's delivery status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_status: Option<String>,
    /// The orders of a list, with its last page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<String>,
    /// With the last page of a list: when its first one was asked for, in microseconds since the run began. What was accepted
    /// before is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_since: Option<u64>,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since the run began.
    pub time: u64,
    /// The call: its beginning and its end have the same number, and no other has.
    pub process: u64,
    /// What the line says.
    #[serde(rename = "type")]
    pub stage: Stage,
    /// What is done.
    pub op: Operation,
    /// About what.
    pub value: Facts,
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
    begin: Instant,
}

impl Journal {
    /// A new one in this file. Times count from `begin`.
    pub fn create(path: &Path, begin: Instant) -> Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { file: Mutex::new(file), begin })
    }

    /// Microseconds since the run began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Appends a line, in one write: the process may be killed after any of them.
    pub fn write(&self, process: u64, stage: Stage, op: Operation, value: &Facts) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // With the lock held, so that times grow from line to line.
        let entry = Entry { time: self.now(), process, stage, op, value: value.clone() };
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        file.write_all(&line).context("cannot write the journal")
    }
}

/// A call as a whole.
#[derive(Debug, Clone)]
pub struct Call {
    /// What was done.
    pub op: Operation,
    /// When it began, in microseconds since the run began.
    pub begin: u64,
    /// When it ended; absent where the run did not see its end.
    pub end: Option<u64>,
    /// How it ended; [`Stage::Info`] where nobody knows.
    pub stage: Stage,
    /// What was asked, and what came back.
    pub facts: Facts,
}

impl Call {
    /// Whether it was answered as its caller wishes: an own order with 200 or 201, somebody else's with 404.
    #[must_use]
    pub fn is_answered_well(&self) -> bool {
        match self.op {
            Operation::Foreign => self.facts.http == Some(404),
            _ => self.stage == Stage::Ok,
        }
    }
}

/// Reads a journal. A last line that is cut off (the run was killed) is left out.
pub fn read(path: &Path) -> Result<Vec<Call>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut calls: Vec<Call> = Vec::new();
    let mut open = std::collections::HashMap::new();
    let mut lines = BufReader::new(file).lines().peekable();
    while let Some(line) = lines.next() {
        let line = line?;
        let entry: Entry = match serde_json::from_str(&line) {
            Ok(entry) => entry,
            Err(_) if lines.peek().is_none() => break,
            Err(error) => return Err(error).with_context(|| format!("{}: {line}", path.display())),
        };
        if entry.stage == Stage::Invoke {
            open.insert(entry.process, calls.len());
            calls.push(Call {
                op: entry.op,
                begin: entry.time,
                end: None,
                stage: Stage::Info,
                facts: entry.value,
            });
        } else if let Some(call) = open.remove(&entry.process).and_then(|index| calls.get_mut(index)) {
            call.end = Some(entry.time);
            call.stage = entry.stage;
            call.facts = entry.value;
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written is read, call by call; a call without an end and a line that is cut off are no error.
    #[test]
    fn a_journal_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal.jsonl");
        let journal = Journal::create(&path, Instant::now()).expect("created");
        let asked = Facts { user: "u".into(), key: Some("k".into()), ..Facts::default() };
        journal.write(1, Stage::Invoke, Operation::Create, &asked).expect("written");
        journal.write(2, Stage::Invoke, Operation::Read, &asked).expect("written");
        let answered = Facts { http: Some(201), order_id: Some("o".into()), ..asked.clone() };
        journal.write(1, Stage::Ok, Operation::Create, &answered).expect("written");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"{\"time\":7"))
            .expect("written");
        let calls = read(&path).expect("read");
        assert_eq!(calls.len(), 2);
        assert!(calls[0].is_answered_well() && calls[0].end >= Some(calls[0].begin));
        assert_eq!(calls[0].facts, answered);
        assert_eq!((calls[1].stage, calls[1].end), (Stage::Info, None));
    }
}
