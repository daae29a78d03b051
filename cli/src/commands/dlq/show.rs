//! `dlq show`.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use holdfast_proto::{hexadecimal, ops::v1 as pb};
use serde::Serialize;
use serde_json::Value;

use super::{
    audit::AuditLine,
    letter::LetterLine,
    named::{Named, parse_named},
    schema,
    siblings::{SiblingLine, Siblings},
};
use crate::{
    options::Output,
    output::{NothingMatched, Outcome, UsageError, data, say},
    services::Services,
    table::Table,
    target::Target,
};

/// Of a value that is no event; more of it is for tools.
const SHOWN_BYTES_MAX: usize = 512;

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    target: Target,
    /// Their ids, or how these begin, or `-` for ids on standard input
    #[arg(required = true, value_parser = parse_named, value_name = "ID|-")]
    ids: Vec<Named>,
    /// Write the value of the one letter to this file, as it was received
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
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
    /// What other services have made of the same record.
    siblings: Vec<SiblingLine>,
}

impl Document {
    fn of(letter: &pb::DeadLetter, service: &'static str, siblings: Vec<SiblingLine>) -> Result<Self> {
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
            siblings,
        })
    }
}

#[derive(Serialize)]
struct Documents {
    dead_letters: Vec<Document>,
}

impl Show {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let ids = services.resolve(&self.ids).await?;
        let mut documents = Vec::new();
        for id in &ids {
            let Some((service, letter)) = services.find(*id).await? else {
                say!("no service has a dead letter {id}");
                continue;
            };
            if let Some(path) = &self.raw {
                if ids.len() > 1 {
                    bail!(UsageError("--raw writes the value of one letter".to_owned()));
                }
                let Some(value) = &letter.value else {
                    bail!(NothingMatched("the record has no value".to_owned()));
                };
                fs::write(path, value).with_context(|| format!("cannot write {}", path.display()))?;
                say!("{} bytes are in {}", value.len(), path.display());
                return Ok(Outcome::Done);
            }
            let siblings = Siblings::of(&services, &letter).await?.lines();
            documents.push(Document::of(&letter, service.name, siblings)?);
        }
        let found = documents.len();
        match <[Document; 1]>::try_from(documents) {
            Ok([document]) => self.output.print(&document, || print(&document))?,
            Err(documents) => {
                let documents = Documents { dead_letters: documents };
                self.output.print(&documents, || documents.dead_letters.iter().try_for_each(print))?;
            }
        }
        Ok(match found {
            0 => Outcome::NothingMatched,
            some if some < ids.len() => Outcome::Partly,
            _ => Outcome::Done,
        })
    }
}

fn print(document: &Document) -> io::Result<()> {
    let letter = &document.letter;
    let none = || "-".to_owned();
    let mut facts = Table::new(&["FACT", "VALUE"]);
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
        let mut rows = Table::new(&[title, "VALUE"]);
        for header in headers {
            rows.add_row([header.name.clone(), header.value.show()]);
        }
        if !rows.is_empty() {
            data!("{rows}\n")?;
        }
    }
    match (&document.value, &document.value_hex) {
        (Some(value), _) => data!("VALUE\n{}\n", serde_json::to_string_pretty(value)?)?,
        (None, Some(hex)) => data!("VALUE (not an event of {})\n{}\n", letter.topic, beginning(hex))?,
        (None, None) => data!("VALUE\nnone\n")?,
    }
    if let Some(edited) = &document.edited_value {
        data!("EDITED VALUE\n{}\n", serde_json::to_string_pretty(edited)?)?;
    }
    for SiblingLine { service, id, state } in &document.siblings {
        data!("{service} has the same event: {id}, {state}")?;
    }
    if !document.history.is_empty() {
        // In the order of time; what is older than these is left to the audit.
        let mut history = Table::new(&["AT", "ACTOR", "ACTION", "DETAIL"]).cutting(&["DETAIL"]);
        for line in &document.history {
            history.add_row([&line.at, &line.actor, &line.action, &line.detail]);
        }
        data!("{history}")?;
    }
    Ok(())
}

/// A value in hexadecimal, as far as people read it, and as text if it is one.
fn beginning(hex: &str) -> String {
    let bytes = hex.len() / 2;
    let shown = &hex[..hex.len().min(2 * SHOWN_BYTES_MAX)];
    let decoded: Option<Vec<u8>> = (0..shown.len() / 2)
        .map(|place| u8::from_str_radix(&shown[2 * place..2 * place + 2], 16).ok())
        .collect();
    let text = decoded.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text =
        text.filter(|text| !text.is_empty() && !text.chars().any(|c| c.is_control() && !c.is_whitespace()));
    let more = if bytes > SHOWN_BYTES_MAX {
        format!("\n… {SHOWN_BYTES_MAX} of {bytes} bytes; --raw FILE writes all of them")
    } else {
        String::new()
    };
    match text {
        Some(text) => format!("{text}\n{shown}{more}"),
        None => format!("{shown}{more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of what is no event the beginning is shown, as text too where it is one.
    #[test]
    fn the_beginning_of_a_value_is_shown() {
        assert_eq!(beginning("ffff"), "ffff");
        assert_eq!(beginning(&hexadecimal(b"{\"a\": 1}")), "{\"a\": 1}\n7b2261223a20317d");
        let long = beginning(&hexadecimal(&[0xff; 2_000]));
        assert!(long.contains("512 of 2000 bytes") && long.len() < 1_200, "{long}");
        assert_eq!(beginning(""), "");
    }
}
