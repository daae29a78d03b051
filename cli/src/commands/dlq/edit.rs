//! `dlq edit`.

use std::{
    fs::File,
    io::{self, Read as _},
};

use anyhow::{Context as _, Result};
use clap::{Args, builder::NonEmptyStringValueParser};
use holdfast_proto::{ops::v1 as pb, topic::RECORD_BYTES_MAX};
use uuid::Uuid;

use super::{filter::parse_id, schema};
use crate::{
    options::{By, parse_reason},
    output::{Outcome, say},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Edit {
    #[command(flatten)]
    target: Target,
    /// Its id
    #[arg(value_parser = parse_id)]
    id: Uuid,
    /// The event as JSON: a file, or - for standard input
    #[arg(long, value_name = "FILE|-", required_unless_present_any = ["header", "record_key"], value_parser = NonEmptyStringValueParser::new())]
    value: Option<String>,
    /// A header, which replaces all headers of this name; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// The record's key
    #[arg(long, value_name = "TEXT")]
    record_key: Option<String>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    by: By,
}

fn parse_header(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("must be NAME=VALUE")?;
    anyhow::ensure!(!name.is_empty(), "must be NAME=VALUE");
    Ok((name.to_owned(), value.to_owned()))
}

/// An event as JSON. It takes more room than its bytes, at most six times as much.
fn read_bounded(input: impl io::Read) -> io::Result<String> {
    let most = 6 * RECORD_BYTES_MAX;
    let mut text = String::new();
    input.take(most as u64 + 1).read_to_string(&mut text)?;
    if text.len() > most {
        let detail = format!("it has more than {most} bytes, and an event at most {RECORD_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
    }
    Ok(text)
}

impl Edit {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let Some((service, letter)) = services.find(self.id).await? else {
            say!("no service has a dead letter {}", self.id);
            return Ok(Outcome::NothingMatched);
        };
        let value = match self.value.as_deref() {
            None => None,
            Some("-") => Some(read_bounded(io::stdin()).context("cannot read standard input")?),
            Some(path) => {
                let read = File::open(path).and_then(read_bounded);
                Some(read.with_context(|| format!("cannot read {path}"))?)
            }
        };
        let header = |(name, value): &(String, String)| pb::RecordHeader {
            name: name.clone(),
            value: value.clone().into_bytes(),
        };
        let request = pb::EditDeadLetterRequest {
            id: self.id.to_string(),
            value: value.map(|text| schema::encode(&letter.topic, &text)).transpose()?.unwrap_or_default(),
            key: self.record_key.clone().map(String::into_bytes),
            headers: self.header.iter().map(header).collect(),
            reason: self.reason.clone(),
            author: self.by.name(),
        };
        let edited = service.dead_letters().edit_dead_letter(service.request(request)?).await;
        edited.with_context(|| service.failed())?;
        let next = self.target.hint(&format!("dlq redrive {} --execute", self.id))?;
        say!("edited; the original is kept. Next: {next}");
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header has a name; its value may hold anything.
    #[test]
    fn a_header_has_a_name() {
        let header = parse_header("ce_type=a=b").expect("a header");
        assert_eq!(header, ("ce_type".to_owned(), "a=b".to_owned()));
        assert!(parse_header("ce_type").is_err() && parse_header("=x").is_err());
    }

    /// What is read for an event has an end, whatever is read.
    #[test]
    fn what_is_read_has_an_end() {
        assert_eq!(read_bounded("{}".as_bytes()).expect("read"), "{}");
        let refused = read_bounded(io::repeat(b' ')).expect_err("too long");
        assert!(refused.to_string().contains("more than 12582912 bytes"), "{refused}");
    }
}
