//! Whether the broker has lost events: those of one order, or of orders that are unfinished for longer.

use askama::Template;
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use holdfast_operator::{
    examine::{Examination, Missing, Promise},
    verdict::{Reach, State as Known},
};
use holdfast_proto::{OrderId, ops::v1 as pb};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{counted, letter_link, no_such_id, order_link, stuck};
use crate::{
    examine::{NotExamined, Which},
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Refusal, Shown, busy, link, message},
};

/// Which orders, as the address says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Wanted {
    /// The id of one; empty: those that are unfinished.
    #[serde(default)]
    pub(super) order: String,
    /// For longer than this.
    #[serde(default)]
    pub(super) older: String,
    /// The token of a page that is not the first.
    #[serde(default)]
    pub(super) after: String,
}

impl Wanted {
    pub(super) fn older(&self) -> &str {
        if self.older.is_empty() { stuck::OLDER } else { &self.older }
    }

    /// Which orders are meant, or what is said if none can be.
    pub(super) fn which(&self, now: OffsetDateTime) -> Result<Which, Refusal> {
        if !self.order.is_empty() {
            let id = Uuid::try_parse(self.order.trim()).ok();
            let order = id.and_then(|id| OrderId::parse(&id.to_string()).ok());
            return order.map(Which::Order).ok_or_else(|| no_such_id().into());
        }
        // Taken as it is, it would pass over all orders before it, and nothing would look lost.
        if !self.after.is_empty() && OrderId::parse(&self.after).is_err() {
            return Err(message(StatusCode::BAD_REQUEST, "Not understood", "there is no such page").into());
        }
        match stuck::before(self.older(), now) {
            Some(before) => Ok(Which::Unfinished { before, after: self.after.clone() }),
            None => Err(stuck::no_such_age().into()),
        }
    }

    /// The same as a command.
    pub(super) fn command(&self) -> String {
        match self.order.as_str() {
            "" => format!("reconcile --older-than {}", self.older()),
            order => format!("reconcile --order {}", order.trim()),
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "reconcile.html")]
pub(super) struct View {
    frame: Frame,
    older: Shown,
    order: Shown,
    looked: Shown,
    verdict: Shown,
    events: Vec<EventRow>,
    has_more_events: bool,
    blocked: Vec<BlockedRow>,
    has_more_blocked: bool,
    promises: Vec<PromiseRow>,
    /// Of the page on which what is lost is re-emitted; empty if nothing is.
    reemit: String,
    /// Also what is in doubt; empty if nothing is.
    reemit_doubtful: String,
    next: String,
}

#[derive(Debug)]
struct EventRow {
    order: Shown,
    order_link: String,
    topic: Shown,
    id: Shown,
    written: Moment,
    writer: &'static str,
    missing_at: String,
    unknown_at: String,
    state: &'static str,
    detail: Shown,
}

impl EventRow {
    fn of(event: &Missing, now: OffsetDateTime) -> Self {
        Self {
            order: Shown::of(&event.order_id),
            order_link: order_link(&event.order_id),
            topic: Shown::of(&event.topic),
            id: Shown::of(event.event_id.as_deref().unwrap_or_default()),
            written: Moment::of(event.time, now),
            writer: event.writer,
            missing_at: event.readers.join(", "),
            unknown_at: event.unknown_at.join(", "),
            state: event.state.name(),
            detail: Shown::of(if event.detail.is_empty() { means(event.state) } else { &event.detail }),
        }
    }
}

/// What a state says of an event of which nothing more is known.
const fn means(state: Known) -> &'static str {
    match state {
        Known::Lost => "the broker has acknowledged it, and who lacks it has read to the end",
        _ => "",
    }
}

#[derive(Debug)]
struct BlockedRow {
    order: Shown,
    order_link: String,
    service: &'static str,
    letter: Shown,
    letter_link: String,
}

impl BlockedRow {
    fn of((service, parked): &(&'static str, pb::ParkedAggregate)) -> Self {
        Self {
            order: Shown::of(&parked.subject),
            order_link: order_link(&parked.subject),
            service,
            letter: Shown::of(&parked.dead_letter_id),
            letter_link: letter_link(&parked.dead_letter_id),
        }
    }
}

#[derive(Debug)]
struct PromiseRow {
    topic: &'static str,
    writer: &'static str,
    reader: &'static str,
    /// Why it was not checked.
    unchecked: Shown,
}

impl PromiseRow {
    fn of(promise: &Promise) -> Self {
        let Promise { topic, writer, reader, unchecked } = promise;
        Self { topic, writer, reader, unchecked: Shown::of(unchecked.as_deref().unwrap_or_default()) }
    }
}

/// How far was looked, in a sentence.
fn looked(wanted: &Wanted, found: &Examination) -> String {
    if !wanted.order.is_empty() {
        return match found.handled.len() + found.missing.len() {
            0 => "No service that was asked has written an event about this order.".to_owned(),
            events => format!("Of this order {events} events are known."),
        };
    }
    let orders = found.orders.len();
    let which = if wanted.after.is_empty() { "" } else { "further " };
    let after = if found.next.is_empty() { "; there are no more" } else { "; there are more" };
    format!(
        "Looked at {orders} {which}orders that are unfinished for longer than {}, the oldest first{after}.",
        wanted.older()
    )
}

/// What was found, in a sentence. Nothing is well of what was not checked.
fn verdict(found: &Examination) -> String {
    let counts = counted(found.missing.iter().map(|event| event.state.name()));
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    match (counts.is_empty(), found.is_whole()) {
        (true, true) => "No event is missing.".to_owned(),
        (true, false) => "Nothing is known to be missing, but not everything was checked.".to_owned(),
        (false, true) => format!("Missing events: {}.", counts.join(", ")),
        (false, false) => format!("Missing events: {}. Not everything was checked.", counts.join(", ")),
    }
}

impl View {
    pub(super) fn of(frame: Frame, wanted: &Wanted, found: &Examination, now: OffsetDateTime) -> Self {
        // What is unknown may be every event of a service that was not asked: it is counted.
        let known: Vec<&Missing> =
            found.missing.iter().filter(|event| event.state != Known::Unknown).collect();
        let has = |reach| found.missing.iter().any(|event| event.state.is_within(reach));
        let reemit = |force: &str| {
            let Wanted { order, after, .. } = wanted;
            let older = if order.is_empty() { wanted.older() } else { "" };
            let of = [("order", order.as_str()), ("older", older), ("after", after), ("force", force)];
            link("/reconcile/reemit", &of)
        };
        let next =
            Wanted { after: found.next.clone(), older: wanted.older().to_owned(), ..Wanted::default() };
        Self {
            frame,
            older: Shown::of(wanted.older()),
            order: Shown::of(&wanted.order),
            looked: Shown::of(looked(wanted, found)),
            verdict: Shown::of(verdict(found)),
            has_more_events: known.len() > ROWS_MAX,
            events: known.into_iter().take(ROWS_MAX).map(|event| EventRow::of(event, now)).collect(),
            has_more_blocked: found.blocked.len() > ROWS_MAX,
            blocked: found.blocked.iter().take(ROWS_MAX).map(BlockedRow::of).collect(),
            promises: found.promises.iter().take(ROWS_MAX).map(PromiseRow::of).collect(),
            reemit: if has(Reach::Lost) { reemit("") } else { String::new() },
            reemit_doubtful: if has(Reach::Doubtful) { reemit("true") } else { String::new() },
            next: if found.next.is_empty() { String::new() } else { link("/reconcile", &next) },
        }
    }
}

/// What these orders are like, or why that is not known.
pub(super) async fn look(
    console: &Console,
    wanted: &Wanted,
    now: OffsetDateTime,
) -> Result<Examination, Refusal> {
    let refused = |text: &str| message(StatusCode::SERVICE_UNAVAILABLE, "Not looked at", text);
    let examined = console.examine(&wanted.which(now)?).await;
    let why = match examined {
        Ok(found) => return Ok(found),
        Err(NotExamined::Busy) => busy(
            "Somebody else looks",
            "orders are examined one after the other, for somebody else now: load this page again in a moment",
        ),
        Err(NotExamined::TooSlow) => refused(&format!(
            "the services have taken too long, so nothing is known. The command waits for longer: {}",
            console.command(&wanted.command())
        )),
        Err(NotExamined::Failed(error)) => refused(&format!("nothing is known: {error:#}")),
    };
    Err(why.into())
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let now = OffsetDateTime::now_utc();
    let found = match look(&console, &wanted, now).await {
        Ok(found) => found,
        Err(refusal) => return refusal.into_response(),
    };
    let missing: Vec<String> = found.away.whys().collect();
    let frame = Frame::new(&console, "Reconcile", &session.author)
        .missing(&missing)
        .command(console.command(&wanted.command()));
    view::page(StatusCode::OK, &View::of(frame, &wanted, &found, now))
}

#[cfg(test)]
mod tests {
    use holdfast_operator::examine::Away;

    use super::*;

    const ORDER: &str = "01a21184-8763-7214-acea-bb1c3b689082";

    fn now() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)
    }

    fn found(states: &[Known], away: &[&'static str]) -> Examination {
        let missing = |state: &Known| Missing {
            order_id: ORDER.to_owned(),
            topic: "payment.completed".to_owned(),
            event_id: Some(ORDER.to_owned()),
            time: Some(now()),
            writer: "payment",
            readers: vec!["delivery"],
            unknown_at: Vec::new(),
            state: *state,
            detail: String::new(),
        };
        Examination {
            orders: vec![ORDER.to_owned()],
            next: String::new(),
            handled: Vec::new(),
            missing: states.iter().map(missing).collect(),
            blocked: Vec::new(),
            promises: Vec::new(),
            away: Away::these(away),
        }
    }

    fn view(wanted: &Wanted, found: &Examination) -> View {
        View::of(Frame::default(), wanted, found, now())
    }

    /// Nothing is called well of which not everything was checked, and what is missing is counted by what is known of it.
    #[test]
    fn a_verdict_is_of_what_was_checked() {
        assert_eq!(verdict(&found(&[], &[])), "No event is missing.");
        let partly = "Nothing is known to be missing, but not everything was checked.";
        assert_eq!(verdict(&found(&[], &["payment"])), partly);
        let states = [Known::Lost, Known::Unknown, Known::Lost];
        assert_eq!(verdict(&found(&states, &[])), "Missing events: 2 lost, 1 unknown.");
        let mut unchecked = found(&[], &[]);
        unchecked.promises.push(Promise {
            topic: "order.created",
            writer: "order",
            reader: "payment",
            unchecked: Some("payment could not be asked".to_owned()),
        });
        assert_eq!(verdict(&unchecked), partly);
    }

    /// What can be done leads to where it is confirmed, for the same orders; where nothing can be done, nothing is offered.
    #[test]
    fn what_is_lost_can_be_re_emitted() {
        let of_order = Wanted { order: ORDER.to_owned(), ..Wanted::default() };
        let lost = view(&of_order, &found(&[Known::Lost], &[]));
        assert_eq!(lost.reemit, format!("/reconcile/reemit?order={ORDER}"));
        let doubtful = view(&Wanted::default(), &found(&[Known::OnItsWay], &[]));
        assert_eq!(doubtful.reemit, "");
        assert_eq!(doubtful.reemit_doubtful, "/reconcile/reemit?older=1m&force=true");
        let waiting = view(&of_order, &found(&[Known::Waiting, Known::Unknown], &[]));
        assert_eq!((waiting.reemit + &waiting.reemit_doubtful, waiting.events.len()), (String::new(), 1));
    }

    /// How far was looked is said, and the next orders are a link away.
    #[test]
    fn it_says_how_far_it_has_looked() {
        let wanted = Wanted { older: "5m".to_owned(), after: "a&b".to_owned(), ..Wanted::default() };
        let mut found = found(&[], &[]);
        let all = view(&wanted, &found);
        assert!(all.looked.to_string().contains("1 further orders") && all.next.is_empty(), "{all:?}");
        assert!(all.looked.to_string().ends_with("longer than 5m, the oldest first; there are no more."));
        "x y".clone_into(&mut found.next);
        let some = view(&wanted, &found);
        assert!(some.looked.to_string().ends_with("there are more."), "{some:?}");
        assert_eq!(some.next, "/reconcile?older=5m&after=x+y");
    }

    /// An order is named by its id, an age is one, and nothing else is looked for.
    #[test]
    fn which_orders_is_said() {
        let which = |order: &str, older: &str| {
            let wanted = Wanted { order: order.to_owned(), older: older.to_owned(), ..Wanted::default() };
            wanted.which(now()).ok()
        };
        let id = OrderId::parse(ORDER).expect("an id");
        assert_eq!(which(ORDER, ""), Some(Which::Order(id)));
        assert_eq!(which(&format!(" {} ", ORDER.to_uppercase()), "x"), Some(Which::Order(id)));
        let before = now() - time::Duration::minutes(1);
        assert_eq!(which("", ""), Some(Which::Unfinished { before, after: String::new() }));
        for (order, older) in [("x", "1m"), ("00000000-0000-0000-0000-000000000000", ""), ("", "x")] {
            assert_eq!(which(order, older), None, "{order} {older}");
        }
        let page = |after: &str| Wanted { after: after.to_owned(), ..Wanted::default() }.which(now()).ok();
        assert_eq!(page(ORDER), Some(Which::Unfinished { before, after: ORDER.to_owned() }));
        for after in ["x", "\0", "zzzz"] {
            assert_eq!(page(after), None, "{after}");
        }
    }
}
