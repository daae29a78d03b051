//! Records that a consumer can't read at all are given up.

use anyhow::Result;
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use holdfast_operator::service::Service;
use holdfast_proto::{ops::v1 as pb, topic::EVENT_TOPICS};
use serde::Deserialize;

use super::{
    Form,
    confirm::{self, Consent, Number, Plan},
    groups::positions,
    letter_link,
};
use crate::{
    session::Session,
    state::Console,
    view::{Refusal, escaped, message},
};

/// Of one step.
const RECORDS_MAX: u32 = 10_000;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Wanted {
    service: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[serde(default = "one")]
    records: u32,
}

const fn one() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
pub(crate) struct Confirmed {
    service: String,
    topic: String,
    partition: i32,
    offset: i64,
    records: u32,
    digest: String,
    reason: String,
}

impl Wanted {
    fn wrong(&self) -> Option<&'static str> {
        if !EVENT_TOPICS.contains(&self.topic.as_str()) {
            return Some("there is no such topic");
        }
        if self.partition < 0 || self.offset < 0 {
            return Some("partitions and offsets count from 0");
        }
        (!(1..=RECORDS_MAX).contains(&self.records)).then_some("1 to 10,000 records at a time")
    }
}

/// `position` is that of the partition, if it is known: whether reading has stopped where the records begin.
pub(super) fn plan(wanted: &Wanted, position: Option<i64>) -> Plan {
    let Wanted { service, topic, partition, offset, records } = wanted;
    let last = offset.saturating_add(i64::from(*records) - 1);
    let impossible = match position {
        Some(position) if position != *offset => format!(
            "{service} reads {topic}-{partition} at {position} now: these records were read already, or wait behind others"
        ),
        _ => String::new(),
    };
    Plan {
        title: "Skip records",
        path: "/groups/skip".to_owned(),
        sentences: vec![
            format!("{service} gives up {records} record(s) of {topic}-{partition}, offsets {offset} to {last}: they are never handled"),
            "their place is kept as a dead letter that is set aside; other readers of the topic are not touched".to_owned(),
        ],
        impossible,
        fields: vec![
            ("service", service.clone()),
            ("topic", topic.clone()),
            ("partition", partition.to_string()),
            ("offset", offset.to_string()),
            ("records", records.to_string()),
        ],
        number: Some(Number {
            name: "records",
            label: "Records",
            value: *records,
            least: 1,
            most: RECORDS_MAX,
        }),
        button: "Skip them",
        command: format!(
            "dlq skip --service {service} --topic {topic} --partition {partition} --offset {offset} --records {records} --reason TEXT"
        ),
        missing: Vec::new(),
    }
}

async fn look<'c>(console: &'c Console, wanted: &Wanted) -> Result<(&'c Service, Plan), Refusal> {
    let refused = |text: &str| Refusal::from(message(StatusCode::BAD_REQUEST, "Not understood", text));
    if let Some(wrong) = wanted.wrong() {
        return Err(refused(wrong));
    }
    let Some(service) = console.service(&wanted.service) else {
        return Err(refused(&format!("there is no service {}", escaped(&wanted.service))));
    };
    let positions = match positions(service).await {
        Ok(positions) => positions.positions,
        Err(error) => return Err(confirm::not_looked_at(&error).into()),
    };
    let is_wanted = |position: &&pb::ConsumerPosition| {
        position.topic == wanted.topic && position.partition == wanted.partition
    };
    let Some(position) = positions.iter().find(is_wanted) else {
        return Err(refused("the service does not read this partition"));
    };
    Ok((service, plan(wanted, position.position)))
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refusal> {
    let (_, plan) = look(&console, &wanted).await?;
    Ok(confirm::page(&console, &session, &plan))
}

pub(crate) async fn submit(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Form(confirmed): Form<Confirmed>,
) -> Result<Response, Refusal> {
    let Confirmed { service, topic, partition, offset, records, digest, reason } = confirmed;
    let wanted = Wanted { service, topic, partition, offset, records };
    let (service, plan) = look(&console, &wanted).await?;
    let act = |reason| async {
        let Wanted { topic, partition, offset, records, .. } = wanted.clone();
        let author = session.author.name.clone();
        let request = pb::SkipRecordsRequest { topic, partition, offset, records, reason, author };
        let answer = service.dead_letters().skip_records(service.request(request)?).await;
        Ok(letter_link(&service.answer(answer)?.dead_letter_id))
    };
    Ok(confirm::submit(&console, &session, &plan, &Consent { digest, reason }, act).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            service: "payment".to_owned(),
            topic: "order.created".to_owned(),
            partition: 3,
            offset: 5,
            records: 2,
        }
    }

    /// Records are skipped only where reading has stopped, and what is given up is said.
    #[test]
    fn only_where_reading_has_stopped() {
        let possible = plan(&wanted(), Some(5));
        assert!(possible.impossible.is_empty() && plan(&wanted(), None).impossible.is_empty());
        assert!(possible.sentences[0].contains("offsets 5 to 6"), "{possible:?}");
        assert!(plan(&wanted(), Some(9)).impossible.contains("at 9 now"));
    }

    /// What can't be a place of records is refused before a service is asked.
    #[test]
    fn a_place_is_one() {
        assert_eq!(wanted().wrong(), None);
        for wrong in [
            Wanted { topic: "x".to_owned(), ..wanted() },
            Wanted { partition: -1, ..wanted() },
            Wanted { offset: -1, ..wanted() },
            Wanted { records: 0, ..wanted() },
            Wanted { records: RECORDS_MAX + 1, ..wanted() },
        ] {
            assert!(wrong.wrong().is_some(), "{wrong:?}");
        }
    }
}
