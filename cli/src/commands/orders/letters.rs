//! Dead letters of orders. To its reader a parked event is one that has arrived, so only the letters say that it was not handled.

use std::collections::HashMap;

use anyhow::Result;
use holdfast_operator::examine::Examination;
use holdfast_proto::ops::v1 as pb;

use crate::services::{Service, Services};

/// Letters of one page.
const PAGE_SIZE: u32 = 1_000;

/// A parked letter of an order.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) service: &'static str,
    pub(super) id: String,
    pub(super) topic: String,
    pub(super) class: String,
    /// Of the event, if its headers can be read.
    pub(super) event_id: Option<String>,
}

impl Letter {
    fn of(service: &Service, letter: pb::DeadLetter) -> Self {
        let id = letter.headers.iter().find(|header| header.name == "ce_id");
        let event_id = id.and_then(|header| String::from_utf8(header.value.clone()).ok());
        Self { service: service.name, id: letter.id, topic: letter.topic, class: letter.class, event_id }
    }

    /// Where the event is, for people; its id first, which is what is copied, also from a table that cuts the rest.
    pub(super) fn place(&self) -> String {
        format!("dead letter {} ({}) of {}", self.id, self.class, self.service)
    }
}

/// All parked letters of the one order that was looked at, oldest first, each with the id of its event.
pub(super) async fn of_order(
    services: &Services,
    found: &mut Examination,
    order_id: &str,
) -> Result<Vec<Letter>> {
    let mut letters = Vec::new();
    for service in
        services.all.iter().filter(|service| found.blocked.iter().any(|(name, _)| *name == service.name))
    {
        letters.extend(
            found.away.ask(&services.all, service, whole(service, order_id)).await?.unwrap_or_default(),
        );
    }
    // The ids are of version 7: the order of parking.
    letters.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(letters)
}

/// The parked letters of an order in a service, each with the id of its event.
async fn whole(service: &Service, order_id: &str) -> Result<Vec<Letter>> {
    let mut letters = Vec::new();
    for listed in list(service, order_id, Vec::new()).await? {
        let request = service.request(pb::GetDeadLetterRequest { id: listed.id })?;
        let answer = service.dead_letters().get_dead_letter(request).await;
        let letter = service.answer(answer)?.dead_letter;
        letters.extend(letter.map(|letter| Letter::of(service, letter)));
    }
    Ok(letters)
}

/// The oldest parked letter of each order that waits behind one, by the order's id.
pub(super) async fn oldest(services: &Services, found: &mut Examination) -> Result<HashMap<String, Letter>> {
    let mut oldest: HashMap<String, Letter> = HashMap::new();
    for service in &services.all {
        let of_service = found.blocked.iter().filter(|(name, _)| *name == service.name);
        let ids: Vec<String> = of_service.map(|(_, parked)| parked.dead_letter_id.clone()).collect();
        for ids in ids.chunks(PAGE_SIZE as usize) {
            let listed = found.away.ask(&services.all, service, list(service, "", ids.to_vec())).await?;
            for letter in listed.unwrap_or_default() {
                let order_id = letter.subject.clone();
                let letter = Letter::of(service, letter);
                let known = oldest.entry(order_id).or_insert_with(|| letter.clone());
                if letter.id < known.id {
                    *known = letter;
                }
            }
        }
    }
    Ok(oldest)
}

/// The parked letters of an order, or those with these ids; at most a page.
async fn list(service: &Service, subject: &str, ids: Vec<String>) -> Result<Vec<pb::DeadLetter>> {
    let request = service.request(pb::ListDeadLettersRequest {
        subject: subject.to_owned(),
        ids,
        state: pb::DeadLetterState::Parked.into(),
        page_size: PAGE_SIZE,
        ..pb::ListDeadLettersRequest::default()
    })?;
    let answer = service.dead_letters().list_dead_letters(request).await;
    Ok(service.answer(answer)?.dead_letters)
}
