//! Events that readers lack are re-emitted: what that would be, and the confirmation of exactly that.

use anyhow::{Result, bail};
use axum::{
    Extension,
    extract::{Query, State},
    response::Response,
};
use holdfast_operator::{
    examine::{Examination, Missing},
    reemit::Consent as By,
    verdict::{Reach, State as Known},
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    Form,
    confirm::{self, Consent, Plan},
    order_link, reconcile,
};
use crate::{
    session::Session,
    state::Console,
    view::{Moment, Refusal, link},
};

/// Of one confirmation; what is more is re-emitted by the next one.
const EVENTS_MAX: usize = 50;

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Wanted {
    #[serde(flatten)]
    orders: reconcile::Wanted,
    /// Also what is in doubt.
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Confirmed {
    #[serde(flatten)]
    orders: reconcile::Wanted,
    #[serde(default)]
    force: bool,
    digest: String,
    reason: String,
}

impl Wanted {
    const fn reach(&self) -> Reach {
        if self.force { Reach::Doubtful } else { Reach::Lost }
    }

    /// The page on which it is seen what has become of it.
    fn seen_at(&self) -> String {
        let of_order = order_link(self.orders.order.trim());
        if of_order.is_empty() { link("/reconcile", &self.orders) } else { of_order }
    }
}

#[cfg(test)]
impl Wanted {
    pub(super) fn of(order: &str) -> Self {
        let orders = reconcile::Wanted { order: order.to_owned(), ..reconcile::Wanted::default() };
        Self { orders, ..Self::default() }
    }
}

/// Those that would be re-emitted, the first ones, and how many are left after them.
fn chosen(found: &Examination, reach: Reach) -> (Vec<Missing>, usize) {
    let all = || found.missing.iter().filter(|event| event.state.is_within(reach));
    (all().take(EVENTS_MAX).cloned().collect(), all().skip(EVENTS_MAX).count())
}

pub(super) fn plan(wanted: &Wanted, found: &Examination, now: OffsetDateTime) -> Plan {
    let (events, left) = chosen(found, wanted.reach());
    let sentence = |event: &Missing| {
        format!(
            "{} writes {} of order {} to its outbox again, event {} of {}: {}, not handled by {}",
            event.writer,
            event.topic,
            event.order_id,
            event.event_id.as_deref().unwrap_or_default(),
            Moment::of(event.time, now).at,
            event.state.name(),
            event.readers.join(" and ")
        )
    };
    let mut sentences: Vec<String> = events.iter().map(sentence).collect();
    if !events.is_empty() {
        sentences.push("readers ignore an event that they have handled".to_owned());
    }
    if left > 0 {
        sentences.push(format!("{left} more are left for another time"));
    }
    let impossible = match (events.is_empty(), found.is_whole()) {
        (false, _) => "",
        (true, true) => "no event is lost: there is nothing to re-emit",
        (true, false) => {
            "no event is known to be lost, but not everything was checked: there is nothing to re-emit"
        }
    };
    let orders = &wanted.orders;
    let force = if wanted.force { " --force" } else { "" };
    Plan {
        title: "Re-emit events",
        path: "/reconcile/reemit".to_owned(),
        sentences,
        impossible: impossible.to_owned(),
        fields: vec![
            ("order", orders.order.clone()),
            ("older", orders.older.clone()),
            ("after", orders.after.clone()),
            ("force", wanted.force.to_string()),
        ],
        number: None,
        button: "Re-emit them",
        command: format!("{}{force} --execute --reason TEXT", orders.command()),
        missing: found.away.whys().collect(),
    }
}

async fn look(console: &Console, wanted: &Wanted) -> Result<(Vec<Missing>, Plan), Refusal> {
    let now = OffsetDateTime::now_utc();
    let found = reconcile::look(console, &wanted.orders, now).await?;
    let (events, _) = chosen(&found, wanted.reach());
    Ok((events, plan(wanted, &found, now)))
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
    let Confirmed { orders, force, digest, reason } = confirmed;
    let wanted = Wanted { orders, force };
    let (events, plan) = look(&console, &wanted).await?;
    let act = |reason| async {
        let reason: String = reason;
        let by = By { author: &session.author.name, reason: &reason };
        let events = console.reemit(events, wanted.reach(), by).await?;
        unless_refused(&events)?;
        Ok(wanted.seen_at())
    };
    Ok(confirm::submit(&console, &session, &plan, &Consent { digest, reason }, act).await)
}

/// An error if not all were re-emitted. One that is in its outbox by now is, whoever has put it there.
fn unless_refused(events: &[Missing]) -> Result<()> {
    let (refused, done): (Vec<_>, Vec<_>) = events.iter().partition(|event| event.state == Known::Refused);
    let Some(first) = refused.first() else { return Ok(()) };
    bail!("{} were re-emitted, {} were not: {}", done.len(), refused.len(), first.detail)
}

#[cfg(test)]
mod tests {
    use holdfast_operator::examine::Away;

    use super::*;

    const ORDER: &str = "01a21184-8763-7214-acea-bb1c3b689082";

    fn now() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)
    }

    fn found(states: &[Known]) -> Examination {
        let missing = |(number, state): (usize, &Known)| Missing {
            order_id: ORDER.to_owned(),
            topic: "payment.completed".to_owned(),
            event_id: Some(format!("event-{number}")),
            time: Some(now()),
            writer: "payment",
            readers: vec!["order", "delivery"],
            unknown_at: Vec::new(),
            state: *state,
            detail: String::new(),
        };
        Examination {
            orders: vec![ORDER.to_owned()],
            next: String::new(),
            handled: Vec::new(),
            missing: states.iter().enumerate().map(missing).collect(),
            blocked: Vec::new(),
            promises: Vec::new(),
            away: Away::default(),
        }
    }

    /// What is lost is re-emitted, what is in doubt only on request, and of many the first ones: the plan says each, and how many are left.
    #[test]
    fn a_plan_says_each_event() {
        let of =
            |states: &[Known], force| plan(&Wanted { force, ..Wanted::of(ORDER) }, &found(states), now());
        let states = [Known::Waiting, Known::Lost, Known::OnItsWay];
        let lost = of(&states, false);
        assert_eq!(lost.sentences.len(), 2, "{lost:?}");
        assert!(lost.sentences[0].contains("event-1") && lost.impossible.is_empty(), "{lost:?}");
        assert!(lost.sentences[0].ends_with("lost, not handled by order and delivery"), "{lost:?}");
        assert_eq!(lost.command, format!("reconcile --order {ORDER} --execute --reason TEXT"));
        let forced = of(&states, true);
        assert!(
            forced.sentences[1].contains("event-2") && forced.command.contains(" --force "),
            "{forced:?}"
        );
        let many = of(&[Known::Lost; EVENTS_MAX + 7], false);
        assert_eq!(many.sentences.len(), EVENTS_MAX + 2);
        assert_eq!(many.sentences.last().map(String::as_str), Some("7 more are left for another time"));
        assert!(!of(&[Known::Waiting], true).impossible.is_empty());
    }

    /// What its writer refuses is an error that says how much was done; what is in an outbox already is done.
    #[test]
    fn a_refusal_is_said() {
        let mut events = found(&[Known::ReEmitted, Known::Waiting, Known::Refused]).missing;
        "not proven".clone_into(&mut events[2].detail);
        let error = unless_refused(&events).expect_err("refused").to_string();
        assert_eq!(error, "2 were re-emitted, 1 were not: not proven");
        assert!(unless_refused(&events[..2]).is_ok());
    }

    /// What has become of it is seen on the page of its order, or where the others are looked at again.
    #[test]
    fn it_leads_to_where_it_is_seen() {
        assert_eq!(Wanted::of(ORDER).seen_at(), format!("/orders/{ORDER}"));
        let older: Wanted = serde_urlencoded::from_str("older=5m&after=x&force=true").expect("fields");
        assert!(older.force);
        assert_eq!(older.seen_at(), "/reconcile?older=5m&after=x");
    }
}
