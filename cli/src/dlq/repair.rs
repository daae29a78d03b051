//! `dlq edit`, `dlq discard` and `dlq resume`: what changes something at once.

use anyhow::{Context as _, Result};
use holdfast_proto::ops::v1 as pb;
use tonic::Code;
use uuid::Uuid;

use super::{
    arguments::{DlqDiscard, DlqEdit, DlqResume, DlqSkip},
    client::Services,
    schema,
};
use crate::{
    Outcome,
    output::{confirmed, data},
};

pub(super) async fn edit(edit: &DlqEdit) -> Result<Outcome> {
    let services = Services::connect(&edit.at, None)?;
    let Some((service, letter)) = services.find(edit.id).await? else {
        eprintln!("no service has a dead letter {}", edit.id);
        return Ok(Outcome::NothingMatched);
    };
    let value = match edit.value.as_deref() {
        None => None,
        Some("-") => Some(std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?),
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?),
    };
    let header = |(name, value): &(String, String)| pb::RecordHeader {
        name: name.clone(),
        value: value.clone().into_bytes(),
    };
    let request = pb::EditDeadLetterRequest {
        id: edit.id.to_string(),
        value: value.map(|text| schema::encode(&letter.topic, &text)).transpose()?.unwrap_or_default(),
        key: edit.record_key.clone().map(String::into_bytes),
        headers: edit.header.iter().map(header).collect(),
        reason: edit.reason.clone(),
        author: edit.by.name(),
    };
    let edited = service.client().edit_dead_letter(service.request(request)?).await;
    edited.with_context(|| service.failed())?;
    eprintln!("edited; the original is kept. Next: holdfast dlq redrive {} --execute", edit.id);
    Ok(Outcome::Done)
}

pub(super) async fn discard(discard: &DlqDiscard) -> Result<Outcome> {
    let services = Services::connect(&discard.at, None)?;
    let ids: Vec<String> = discard.ids.iter().map(Uuid::to_string).collect();
    eprintln!("{} dead letters are given up for good: {}", ids.len(), ids.join(" "));
    if !discard.yes && !confirmed("discard them?")? {
        return Ok(Outcome::Failed);
    }
    let mut discarded = Vec::new();
    for service in &services.all {
        let request = pb::DiscardDeadLettersRequest {
            ids: ids.clone(),
            reason: discard.reason.clone(),
            author: discard.by.name(),
        };
        let done = service.client().discard_dead_letters(service.request(request)?).await;
        discarded.extend(done.with_context(|| service.failed())?.into_inner().discarded);
    }
    for id in &discarded {
        data!("{id}")?;
    }
    Ok(match discarded.len() {
        0 => {
            eprintln!("none of them is parked");
            Outcome::NothingMatched
        }
        some if some < discard.ids.len() => {
            eprintln!("{} of {} were parked", some, discard.ids.len());
            Outcome::Partly
        }
        _ => Outcome::Done,
    })
}

pub(super) async fn resume(resume: &DlqResume) -> Result<Outcome> {
    let services = Services::connect(&resume.at, Some(&resume.service))?;
    for service in &services.all {
        let request = pb::ResumeConsumersRequest {
            dead_letters_max: resume.park,
            reason: resume.reason.clone(),
            author: resume.by.name(),
        };
        match service.client().resume_consumers(service.request(request)?).await {
            Ok(answer) => eprintln!("{}: {} stopped go on", service.name, answer.into_inner().resumed),
            Err(status) if status.code() == Code::FailedPrecondition => {
                eprintln!("{}: {}", service.name, status.message());
                return Ok(Outcome::NothingMatched);
            }
            Err(status) => return Err(status).with_context(|| service.failed()),
        }
    }
    Ok(Outcome::Done)
}

pub(super) async fn skip(skip: &DlqSkip) -> Result<Outcome> {
    let services = Services::connect(&skip.at, Some(&skip.service))?;
    let last = skip.offset + i64::from(skip.records) - 1;
    eprintln!(
        "{} gives up {} record(s) of {}-{}, offsets {} to {last}: they are never handled",
        skip.service, skip.records, skip.topic, skip.partition, skip.offset
    );
    if !skip.yes && !confirmed("skip them?")? {
        return Ok(Outcome::Failed);
    }
    for service in &services.all {
        let request = pb::SkipRecordsRequest {
            topic: skip.topic.clone(),
            partition: skip.partition,
            offset: skip.offset,
            records: skip.records,
            reason: skip.reason.clone(),
            author: skip.by.name(),
        };
        match service.client().skip_records(service.request(request)?).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                eprintln!("set aside; {} goes on at offset {}", service.name, answer.position);
                data!("{}", answer.dead_letter_id)?;
            }
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => {
                eprintln!("{}: {}; see `holdfast positions`", service.name, status.message());
                return Ok(Outcome::NothingMatched);
            }
            Err(status) => return Err(status).with_context(|| service.failed()),
        }
    }
    Ok(Outcome::Done)
}
