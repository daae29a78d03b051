//! Dead letters: how records are parked ([`park`]), and what operators do with them afterwards.
//!
//! A letter is a row of `dead_letters`, written by the consumer in the transaction of its batch. Operators look at it
//! ([`store`]), edit or discard it, and redrive it ([`redrive`]) through the same handler that the consumer uses, whole
//! aggregates in order, and others can follow and cancel it ([`progress`]). [`service`] shows this as gRPC. Every change of a letter writes its audit row in the same
//! transaction.

pub mod depth;
mod foresee;
pub(crate) mod messages;
pub mod progress;
pub mod redrive;
pub mod service;
pub mod skip;
pub mod store;

use aws_lc_rs::digest::{SHA256, digest};
use holdfast_proto::hexadecimal;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    consumer::park::{STATE_PARKED, STATE_SET_ASIDE},
    record::{Header, Record, encode_headers},
};

/// Redrives of one letter; after that an operator must force it (pitfalls P25).
pub const REDRIVES_MAX: i32 = 3;

/// The state of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for an operator.
    Parked,
    /// It was handled after all.
    Redriven,
    /// It was given up.
    Discarded,
    /// Only the place of the record was kept: it can't be redriven.
    SetAside,
}

impl State {
    /// Its value in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Parked => STATE_PARKED,
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
            Self::SetAside => STATE_SET_ASIDE,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Parked, Self::Redriven, Self::Discarded, Self::SetAside]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// A letter as it is stored.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The `dlq-id` of its copy.
    pub id: Uuid,
    /// Its name in the contract.
    pub class: String,
    /// Why, for people.
    pub reason: String,
    /// Its state.
    pub state: State,
    /// The record, byte for byte.
    pub record: Record,
    /// The inbox key under which it was recorded.
    pub event_id: Uuid,
    /// The aggregate, if the record names one.
    pub subject: Option<String>,
    /// The letter that it waits behind.
    pub blocked_by: Option<Uuid>,
    /// Attempts of the consumer.
    pub attempts: i32,
    /// Redrives, successful or not.
    pub redrive_count: i32,
    /// When it failed first.
    pub first_failed_at: OffsetDateTime,
    /// When it was parked.
    pub parked_at: OffsetDateTime,
    /// What an operator has put in place of parts of the record.
    pub edited: Edited,
}

/// Parts of a record that an operator has replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edited {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// All headers.
    pub headers: Option<Vec<Header>>,
}

/// Names of headers that the audit lists.
const NAMED_HEADERS_MAX: usize = 16;

impl Edited {
    /// Another text whenever these are other parts.
    fn revision(&self) -> String {
        let mut text = Vec::new();
        let headers = self.headers.as_deref().map(encode_headers);
        for part in [&self.key, &self.value, &headers] {
            // With its length, so that no two sets of parts have the same text.
            let length = part.as_ref().map_or(u64::MAX, |part| part.len() as u64);
            text.extend(length.to_be_bytes());
            text.extend(part.iter().flatten());
        }
        hexadecimal(digest(&SHA256, &text).as_ref())
    }

    /// Which parts are replaced, for the audit: `value, key, header ce_type`.
    fn parts(&self) -> String {
        let given = |is_given: bool, name: &str| is_given.then(|| name.to_owned());
        let headers = self.headers.as_deref().unwrap_or_default();
        // A database takes no NUL in a text.
        let names = headers.iter().take(NAMED_HEADERS_MAX).map(|header| header.name.replace('\0', "\\0"));
        let more = headers.len().saturating_sub(NAMED_HEADERS_MAX);
        let parts = [given(self.value.is_some(), "value"), given(self.key.is_some(), "key")];
        let parts = parts.into_iter().flatten().chain(names.map(|name| format!("header {name}")));
        parts.chain((more > 0).then(|| format!("{more} more headers"))).collect::<Vec<_>>().join(", ")
    }
}

/// A letter without its record, which may have megabytes: what lists and plans show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// See [`Letter::id`].
    pub id: Uuid,
    /// See [`Letter::class`].
    pub class: String,
    /// See [`Letter::reason`].
    pub reason: String,
    /// See [`Letter::state`].
    pub state: State,
    /// Of the record.
    pub topic: String,
    /// Of the record.
    pub partition: i32,
    /// Of the record.
    pub offset: i64,
    /// Of the record, in milliseconds since 1970, if it has one.
    pub timestamp_ms: Option<i64>,
    /// See [`Letter::subject`].
    pub subject: Option<String>,
    /// See [`Letter::blocked_by`].
    pub blocked_by: Option<Uuid>,
    /// See [`Letter::attempts`].
    pub attempts: i32,
    /// See [`Letter::redrive_count`].
    pub redrive_count: i32,
    /// See [`Letter::first_failed_at`].
    pub first_failed_at: OffsetDateTime,
    /// See [`Letter::parked_at`].
    pub parked_at: OffsetDateTime,
    /// Whether parts of the record were replaced, see [`Letter::edited`].
    pub is_edited: bool,
}

impl Letter {
    /// The letter without its record.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            id: self.id,
            class: self.class.clone(),
            reason: self.reason.clone(),
            state: self.state,
            topic: self.record.topic.clone(),
            partition: self.record.partition,
            offset: self.record.offset,
            timestamp_ms: self.record.timestamp_ms,
            subject: self.subject.clone(),
            blocked_by: self.blocked_by,
            attempts: self.attempts,
            redrive_count: self.redrive_count,
            first_failed_at: self.first_failed_at,
            parked_at: self.parked_at,
            is_edited: self.edited != Edited::default(),
        }
    }

    /// Replaces parts, whether edited before or not; each header replaces all headers of its name.
    pub fn edit(&mut self, parts: Edited) {
        self.edited.key = parts.key.or(self.edited.key.take());
        self.edited.value = parts.value.or(self.edited.value.take());
        if let Some(set) = parts.headers {
            let before = self.edited.headers.as_ref().unwrap_or(&self.record.headers);
            let is_set = |header: &&Header| set.iter().any(|new| new.name == header.name);
            let mut headers: Vec<Header> = before.iter().filter(|header| !is_set(header)).cloned().collect();
            headers.extend(set);
            self.edited.headers = Some(headers);
        }
    }

    /// The record that a redrive handles: the original, with its edited parts replaced.
    #[must_use]
    pub fn effective_record(&self) -> Record {
        let Edited { key, value, headers } = self.edited.clone();
        let mut record = self.record.clone();
        record.key = key.map(Into::into).or(record.key);
        record.value = value.map(Into::into).or(record.value);
        record.headers = headers.unwrap_or(record.headers);
        record
    }
}

/// Which letters. Empty fields match everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// One of these.
    pub ids: Vec<Uuid>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this class.
    pub class: Option<String>,
    /// Of this aggregate.
    pub subject: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// Parked at or after.
    pub since: Option<OffsetDateTime>,
    /// Parked before.
    pub until: Option<OffsetDateTime>,
    /// With ids from the first to the second of these.
    pub range: Option<(Uuid, Uuid)>,
    /// Partition and offset of the record.
    pub place: Option<(i32, i64)>,
}

/// What an operator did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Handled after all.
    Redrive,
    /// Handled again without success.
    RedriveFailed,
    /// Its value, key or headers were replaced.
    Edit,
    /// Given up.
    Discard,
    /// No longer given up: parked again.
    Restore,
    /// Consumers that the limit had stopped were resumed; concerns no letter.
    Resume,
    /// What resumed consumers might still park was taken back; concerns no letter.
    EndAllowance,
    /// Records that could not be read were skipped.
    Skip,
    /// A redrive was cancelled; concerns no letter.
    CancelRedrive,
}

impl Action {
    /// Its name in the audit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::RedriveFailed => "redrive-failed",
            Self::Edit => "edit",
            Self::Discard => "discard",
            Self::Restore => "restore",
            Self::Resume => "resume",
            Self::EndAllowance => "end-allowance",
            Self::Skip => "skip",
            Self::CancelRedrive => "cancel-redrive",
        }
    }
}

/// One row of the audit.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// The order of the actions.
    pub id: Uuid,
    /// When.
    pub at: OffsetDateTime,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To which letter, if to one.
    pub letter: Option<Uuid>,
    /// Why.
    pub detail: String,
}

/// Parked letters of one topic and class.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Of the original records.
    pub topic: String,
    /// Of the letters.
    pub class: String,
    /// How many.
    pub parked: i64,
    /// Of the oldest.
    pub oldest_parked_at: OffsetDateTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A revision is that of what was edited: the same parts have the same one, whoever made them, and others have others.
    #[test]
    fn other_edits_are_other_revisions() {
        let of = |key: Option<&[u8]>, value: Option<&[u8]>| {
            Edited { key: key.map(<[u8]>::to_vec), value: value.map(<[u8]>::to_vec), headers: None }
                .revision()
        };
        let all = [
            of(None, None),
            of(Some(b""), None),
            of(Some(b"ab"), None),
            of(None, Some(b"ab")),
            of(Some(b"a"), Some(b"b")),
        ];
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
        assert_eq!(of(Some(b"ab"), None), all[2]);
    }

    /// The audit says which parts an edit replaced, on a line of a bounded length that the database takes.
    #[test]
    fn an_edit_says_what_it_replaces() {
        let header = |name: &str| Header::new(name, b"x".to_vec());
        let edited = |value: Option<&[u8]>, key: Option<&[u8]>, headers: Vec<Header>| Edited {
            value: value.map(<[u8]>::to_vec),
            key: key.map(<[u8]>::to_vec),
            headers: Some(headers).filter(|headers| !headers.is_empty()),
        };
        let all = edited(Some(b"v"), Some(b"k"), vec![header("ce_id"), header("a\0b")]);
        assert_eq!(all.parts(), "value, key, header ce_id, header a\\0b");
        assert_eq!(edited(None, Some(b"k"), Vec::new()).parts(), "key");
        let many = edited(None, None, (0..64).map(|n| header(&format!("h{n}"))).collect());
        assert!(many.parts().ends_with("header h15, 48 more headers"), "{}", many.parts());
    }
}
