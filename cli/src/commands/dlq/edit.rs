//! `dlq edit`.

use anyhow::{Context as _, Result};
use clap::{Args, builder::NonEmptyStringValueParser};
use holdfast_proto::ops::v1 as pb;
use uuid::Uuid;

use super::{filter::parse_id, schema};
use crate::{
    options::{By, parse_reason},
    output::Outcome,
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

impl Edit {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let Some((service, letter)) = services.find(self.id).await? else {
            eprintln!("no service has a dead letter {}", self.id);
            return Ok(Outcome::NothingMatched);
        };
        let value = match self.value.as_deref() {
            None => None,
            Some("-") => {
                Some(std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?)
            }
            Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?),
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
        eprintln!("edited; the original is kept. Next: {next}");
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
}
