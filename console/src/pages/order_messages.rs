//! What the topics have of one order: its events, and copies of its dead letters, in the order of their times.

use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use holdfast_proto::topic;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    message::{busy, cannot_be_shown, tool},
    no_such_id, order_link,
    record::MessageRow,
    topic::{LookedRow, Wanted, by_time, is_cut, said},
};
use crate::{
    browse::{self, OrderSeen, SEARCH_TIME_MAX, Which},
    payloads::Payloads,
    session::Session,
    state::Console,
    topics::NotRead,
    view::{self, Frame, ROWS_MAX, Shown},
};

#[derive(Debug, Template)]
#[template(path = "order_messages.html")]
pub(super) struct View {
    frame: Frame,
    order: Shown,
    order_link: String,
    said: String,
    is_cut: bool,
    has_more: bool,
    messages: Vec<MessageRow>,
    looked: Vec<LookedRow>,
}

impl View {
    pub(super) fn of(
        frame: Frame,
        id: Uuid,
        seen: OrderSeen,
        payloads: Payloads,
        now: OffsetDateTime,
    ) -> anyhow::Result<Self> {
        let mut scan = seen.scan;
        let said = said(&scan, "the order, from a minute before it was made on");
        scan.found.sort_by(|a, b| by_time(a).cmp(&by_time(b)));
        let wanted = Wanted::of_order(id);
        let messages = scan.found.iter().take(ROWS_MAX).map(|record| MessageRow::of(record, payloads, now));
        Ok(Self {
            frame,
            order: Shown::of(id.to_string()),
            order_link: order_link(&id.to_string()),
            said,
            is_cut: is_cut(&scan),
            has_more: scan.found.len() > ROWS_MAX,
            messages: messages.collect::<anyhow::Result<_>>()?,
            looked: LookedRow::all(&scan, &wanted, &Which::Order(id)),
        })
    }
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = Uuid::try_parse(&id) else { return no_such_id() };
    let read = console
        .topics
        .read(SEARCH_TIME_MAX, move |reader, deadline| browse::order(reader, deadline, id))
        .await;
    let seen = match read {
        Ok(seen) => seen,
        Err(NotRead::Busy) => return busy(),
        Err(NotRead::NotThere(why) | NotRead::Failed(why)) => {
            OrderSeen { missing: vec![why], ..OrderSeen::default() }
        }
    };
    let mut frame = Frame::new(&console, "Messages of an order", &session.author)
        .missing(&seen.missing)
        .command(console.command(&format!("orders show {id}")));
    let topics = topic::EVENT_TOPICS.map(|name| name.replace('.', "\\.")).join("|");
    let tool = tool(&console, &format!("--include '{topics}' --from-beginning --timeout-ms 5000"));
    frame.commands.extend(tool.map(|tool| format!("{tool} | grep --text {id}")));
    match View::of(frame, id, seen, console.payloads, OffsetDateTime::now_utc()) {
        Ok(view) => view::page(StatusCode::OK, &view),
        Err(error) => cannot_be_shown(&error),
    }
}
