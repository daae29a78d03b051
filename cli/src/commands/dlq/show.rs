//! `dlq show`.

use std::io;

use anyhow::Result;
use clap::Args;
use holdfast_proto::{hexadecimal, ops::v1 as pb};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{audit::AuditLine, filter::parse_id, letter::LetterLine, schema};
use crate::{
    options::Output,
    output::{Outcome, data, say, table},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    target: Target,
    /// Its id
    #[arg(value_parser = parse_id)]
    id: Uuid,
    #[command(flatten)]
    output: Output,
}

/// Bytes: as text where they are text, and always as hexadecimal.
#[derive(Serialize)]
struct Bytes {
    text: Option<String>,
    hex: String,
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let readable = |text: &&str| !text.chars().any(char::is_control);
        let text = std::str::from_utf8(bytes).ok().filter(readable).map(str::to_owned);
        Self { text, hex: hexadecimal(bytes) }
    }

    fn show(&self) -> String {
        self.text.clone().unwrap_or_else(|| format!("0x{}", self.hex))
    }
}

#[derive(Serialize)]
struct Header {
    name: String,
    value: Bytes,
}

impl Header {
    fn of(header: &pb::RecordHeader) -> Self {
        Self { name: header.name.clone(), value: Bytes::of(&header.value) }
    }
}

#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    letter: LetterLine,
    record_key: Option<Bytes>,
    headers: Vec<Header>,
    /// Decoded by the schema of its topic; null if it isn't what the topic carries.
    value: Option<Value>,
    value_hex: Option<String>,
    /// What a redrive uses instead.
    edited_record_key: Option<Bytes>,
    edited_headers: Vec<Header>,
    edited_value: Option<Value>,
    history: Vec<AuditLine>,
}

impl Document {
    fn of(letter: &pb::DeadLetter, service: &'static str) -> Result<Self> {
        let decode = |value: &Option<Vec<u8>>| match value {
            Some(value) => schema::decode(&letter.topic, value),
            None => Ok(None),
        };
        Ok(Self {
            letter: LetterLine::of(letter),
            record_key: letter.key.as_deref().map(Bytes::of),
            headers: letter.headers.iter().map(Header::of).collect(),
            value: decode(&letter.value)?,
            value_hex: letter.value.as_deref().map(hexadecimal),
            edited_record_key: letter.edited_key.as_deref().map(Bytes::of),
            edited_headers: letter.edited_headers.iter().map(Header::of).collect(),
            edited_value: decode(&letter.edited_value)?,
            history: letter.history.iter().map(|entry| AuditLine::of(entry.clone(), service)).collect(),
        })
    }
}

impl Show {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let Some((service, letter)) = services.find(self.id).await? else {
            say!("no service has a dead letter {}", self.id);
            return Ok(Outcome::NothingMatched);
        };
        let document = Document::of(&letter, service.name)?;
        self.output.print(&document, || print(&document))?;
        Ok(Outcome::Done)
    }
}

fn print(document: &Document) -> io::Result<()> {
    let letter = &document.letter;
    let none = || "-".to_owned();
    let mut facts = table(&["FACT", "VALUE"]);
    for (name, value) in [
        ("id", letter.id.clone()),
        ("service", letter.service.clone()),
        ("state", letter.state.to_owned()),
        ("class", letter.class.clone()),
        ("reason", letter.reason.clone()),
        ("record", format!("{} partition {} offset {}", letter.topic, letter.partition, letter.offset)),
        ("order", letter.key.clone().unwrap_or_else(none)),
        ("waits behind", letter.blocked_by.clone().unwrap_or_else(none)),
        ("attempts", letter.attempts.to_string()),
        ("redrives", letter.redrive_count.to_string()),
        ("first failed", letter.first_failed_at.clone()),
        ("parked", letter.parked_at.clone()),
        ("record key", document.record_key.as_ref().map_or_else(none, Bytes::show)),
        ("edited record key", document.edited_record_key.as_ref().map_or_else(none, Bytes::show)),
    ] {
        facts.add_row([name.to_owned(), value]);
    }
    data!("{facts}\n")?;
    for (title, headers) in [("HEADER", &document.headers), ("EDITED HEADER", &document.edited_headers)] {
        let mut rows = table(&[title, "VALUE"]);
        for header in headers {
            rows.add_row([header.name.clone(), header.value.show()]);
        }
        if !rows.is_empty() {
            data!("{rows}\n")?;
        }
    }
    match (&document.value, &document.value_hex) {
        (Some(value), _) => data!("VALUE\n{}\n", serde_json::to_string_pretty(value)?)?,
        (None, Some(hex)) => data!("VALUE (not an event of {})\n{hex}\n", letter.topic)?,
        (None, None) => data!("VALUE\nnone\n")?,
    }
    if let Some(edited) = &document.edited_value {
        data!("EDITED VALUE\n{}\n", serde_json::to_string_pretty(edited)?)?;
    }
    if !document.history.is_empty() {
        // In the order of time; what is older than these is left to the audit.
        let mut history = table(&["AT", "ACTOR", "ACTION", "DETAIL"]);
        for line in &document.history {
            history.add_row([&line.at, &line.actor, &line.action, &line.detail]);
        }
        data!("{history}")?;
    }
    Ok(())
}
