//! `dlq list`.

use anyhow::{Context as _, Result};
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;

use super::{LetterLine, PAGE_SIZE, arguments::DlqList, client::Services, table};
use crate::{Outcome, arguments::Format, output::data};

pub(super) async fn run(list: &DlqList) -> Result<Outcome> {
    let services = Services::connect(&list.at, list.filter.service.as_deref())?;
    let filter = list.filter.to_proto();
    let mut letters = Vec::new();
    let most = list.limit as usize;
    for service in &services.all {
        let mut page_token = String::new();
        loop {
            let request = pb::ListDeadLettersRequest {
                topic: filter.topic.clone(),
                class: filter.class.clone(),
                subject: filter.subject.clone(),
                state: list.state.map_or(pb::DeadLetterState::Unspecified, Into::into).into(),
                since: filter.since,
                until: filter.until,
                page_size: PAGE_SIZE,
                page_token,
                ids: Vec::new(),
            };
            let page = service.client().list_dead_letters(service.request(request)?).await;
            let page = page.with_context(|| service.failed())?.into_inner();
            letters.extend(page.dead_letters.iter().map(LetterLine::of));
            page_token = page.next_page_token;
            if page_token.is_empty() || letters.len() > most {
                break;
            }
        }
    }
    // The ids are of version 7, so this is the order of parking over all services.
    letters.sort_by(|a, b| a.id.cmp(&b.id));
    if letters.len() > most {
        letters.truncate(most);
        eprintln!("only the first {most}: narrow the filter, or raise --limit");
    }
    if letters.is_empty() {
        eprintln!("no dead letter matches");
    }
    match list.output {
        Format::Json => {
            #[derive(Serialize)]
            struct Document<'a> {
                dead_letters: &'a [LetterLine],
            }
            data!("{}", serde_json::to_string_pretty(&Document { dead_letters: &letters })?)?;
        }
        Format::Table if letters.is_empty() => {}
        Format::Table => {
            let mut table = table(&["ID", "SERVICE", "TOPIC", "CLASS", "KEY", "PARKED", "STATE", "REASON"]);
            for letter in &letters {
                table.add_row([
                    &letter.id,
                    &letter.service,
                    &letter.topic,
                    &letter.class,
                    letter.key.as_deref().unwrap_or("-"),
                    &letter.parked_at,
                    letter.state,
                    &letter.reason,
                ]);
            }
            data!("{table}")?;
        }
    }
    Ok(if letters.is_empty() { Outcome::NothingMatched } else { Outcome::Done })
}
