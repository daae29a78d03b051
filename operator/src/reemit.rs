//! Events that a reader lacks are written to the outboxes of their writers again.

use std::collections::BTreeMap;

use anyhow::Result;
use holdfast_proto::ops::v1 as pb;

use crate::{
    examine::Missing,
    service::Service,
    verdict::{Reach, State},
};

/// Events of one call.
const EVENTS_PER_CALL: usize = 100;

/// Who wants it, and why, for the audit of the writers.
#[derive(Debug, Clone, Copy)]
pub struct Consent<'a> {
    /// At most 255 characters.
    pub author: &'a str,
    /// 1 to 512 bytes.
    pub reason: &'a str,
}

/// Has the writers re-emit those events that are within reach, each order's in the order of their times. The state of each says then
/// what has become of it: [`State::ReEmitted`], [`State::Waiting`] (its writer has it in its outbox already), or [`State::Refused`] with
/// the reason in its detail, also if its writer could not be reached.
pub async fn reemit(
    services: &[Service],
    missing: &mut [Missing],
    reach: Reach,
    consent: Consent<'_>,
) -> Result<()> {
    for service in services {
        for (subject, ids) in chosen(missing, service.name, reach) {
            for ids in ids.chunks(EVENTS_PER_CALL) {
                reemit_some(service, missing, &subject, ids, consent).await?;
            }
        }
    }
    Ok(())
}

/// The ids of what a writer is to re-emit, by order.
fn chosen(missing: &[Missing], writer: &str, reach: Reach) -> BTreeMap<String, Vec<String>> {
    let mut chosen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in missing.iter().filter(|event| event.writer == writer && event.state.is_within(reach)) {
        chosen.entry(event.order_id.clone()).or_default().extend(event.event_id.clone());
    }
    chosen
}

async fn reemit_some(
    service: &Service,
    missing: &mut [Missing],
    subject: &str,
    ids: &[String],
    consent: Consent<'_>,
) -> Result<()> {
    let request = service.request(pb::ReemitEventsRequest {
        subject: subject.to_owned(),
        event_ids: ids.to_vec(),
        reason: consent.reason.to_owned(),
        author: consent.author.to_owned(),
    })?;
    let answer = service.reconcile().reemit_events(request).await;
    let of_these =
        |event: &&mut Missing| event.event_id.as_ref().is_some_and(|event_id| ids.contains(event_id));
    match answer {
        Ok(answer) => {
            let done = answer.into_inner().event_ids;
            for event in missing.iter_mut().filter(of_these) {
                let is_done = event.event_id.as_ref().is_some_and(|id| done.contains(id));
                event.state = if is_done { State::ReEmitted } else { State::Waiting };
                event.detail.clear();
            }
        }
        Err(status) => {
            for event in missing.iter_mut().filter(of_these) {
                event.state = State::Refused;
                status.message().clone_into(&mut event.detail);
            }
        }
    }
    Ok(())
}
