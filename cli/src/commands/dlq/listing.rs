//! Letters that match, over all services.

use std::collections::BTreeSet;

use anyhow::Result;
use holdfast_proto::ops::v1 as pb;
use uuid::Uuid;

use super::letter::PAGE_SIZE;
use crate::{
    output::say,
    services::{Answers, Service, Services},
};

/// Ids of one call.
pub(super) const IDS_PER_CALL: usize = 500;

/// The letters that match `wanted`, of each service oldest first. Stops asking a service for more when it has given more than `most`.
pub(super) async fn matching<'s>(
    services: &'s Services,
    wanted: &pb::ListDeadLettersRequest,
    most: usize,
) -> Result<Answers<'s, Vec<pb::DeadLetter>>> {
    services.ask(async |service| of_service(service, wanted, most).await).await
}

/// Those of one service, oldest first; no further page once there are more than `most`.
pub(super) async fn of_service(
    service: &Service,
    wanted: &pb::ListDeadLettersRequest,
    most: usize,
) -> Result<Vec<pb::DeadLetter>> {
    let mut letters = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListDeadLettersRequest { page_size: PAGE_SIZE, page_token, ..wanted.clone() };
        let page =
            service.answer(service.dead_letters().list_dead_letters(service.request(request)?).await)?;
        letters.extend(page.dead_letters);
        page_token = page.next_page_token;
        if page_token.is_empty() || letters.len() > most {
            return Ok(letters);
        }
    }
}

/// Those of these ids that there are, in whatever state, and the ids of the others, which are said.
pub(super) async fn with_ids<'s>(
    services: &'s Services,
    ids: &[Uuid],
) -> Result<(Answers<'s, Vec<pb::DeadLetter>>, Vec<Uuid>)> {
    let answers = services
        .ask(async |service| {
            let mut letters = Vec::new();
            for ids in ids.chunks(IDS_PER_CALL) {
                let wanted = pb::ListDeadLettersRequest {
                    ids: ids.iter().map(Uuid::to_string).collect(),
                    ..pb::ListDeadLettersRequest::default()
                };
                letters.extend(of_service(service, &wanted, usize::MAX).await?);
            }
            Ok(letters)
        })
        .await?;
    let letters = answers.each.iter().flat_map(|(_, letters)| letters);
    let known: BTreeSet<&str> = letters.map(|letter| letter.id.as_str()).collect();
    let absent: Vec<Uuid> =
        ids.iter().filter(|id| !known.contains(id.to_string().as_str())).copied().collect();
    for id in &absent {
        say!("no {}service has a dead letter {id}", if answers.any_away() { "other " } else { "" });
    }
    Ok((answers, absent))
}
