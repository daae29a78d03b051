//! What of a page updates by itself, as server-sent events.

use std::{convert::Infallible, time::Duration};

use askama::Template as _;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use holdfast_common::http::LongLived;
use holdfast_operator::ticket::Author;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{groups, job, letters, order, record::is_topic_name, redrives, start, stuck, topic};
use crate::{
    live::{Look, Subject, Watcher},
    state::Console,
    view::message,
};

/// A comment is sent when nothing else was for this long.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// When browsers come back after a stream has ended.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    page: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    older: String,
    #[serde(default)]
    topic: String,
    #[serde(default)]
    partition: String,
}

impl Wanted {
    fn subject(&self) -> Option<Subject> {
        let id = || Uuid::try_parse(&self.id).ok();
        match self.page.as_str() {
            "start" => Some(Subject::Start),
            "letters" => Some(Subject::Letters),
            "groups" => Some(Subject::Groups),
            "redrives" => Some(Subject::Redrives),
            "order" => id().map(Subject::Order),
            "job" => id().map(Subject::Job),
            "stuck" => stuck::before(&self.older, OffsetDateTime::now_utc())
                .map(|_| Subject::Stuck(self.older.clone())),
            "topic" if is_topic_name(&self.topic) => {
                let partition = match self.partition.as_str() {
                    "" => None,
                    text => Some(text.parse().ok().filter(|number| *number >= 0)?),
                };
                Some(Subject::Topic(self.topic.clone(), partition))
            }
            _ => None,
        }
    }
}

/// What an event says.
#[derive(Debug, Serialize)]
struct Data<'l> {
    /// What is to be shown; absent if it is the same as before.
    html: Option<&'l str>,
    /// Of the look.
    age_ms: u128,
}

/// The stream of what is watched. 503 if there are too many.
pub(crate) async fn stream(State(console): State<Console>, Query(wanted): Query<Wanted>) -> Response {
    let Some(subject) = wanted.subject() else {
        return message(
            StatusCode::NOT_FOUND,
            "No such page",
            "there is no such page that updates by itself",
        );
    };
    match console.live.watch(subject) {
        Some(watcher) => response(events(watcher)),
        None => message(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many",
            "too many pages update by themselves, or the console ends",
        ),
    }
}

fn response(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(COMMENT_EVERY)).into_response();
    response.extensions_mut().insert(LongLived);
    response
}

fn events(watcher: Watcher) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let first = stream::once(async { Ok(Event::default().retry(RETRY_AFTER)) });
    let looks = stream::unfold((watcher, String::new()), |(mut watcher, shown)| async move {
        let look = watcher.next().await?;
        let event = event(&look, &shown)?;
        Some((Ok(event), (watcher, look.html.clone())))
    });
    futures_util::StreamExt::chain(first, looks)
}

/// `None` ends the stream; texts and numbers can always be written.
fn event(look: &Look, shown: &str) -> Option<Event> {
    let html = Some(look.html.as_str()).filter(|html| *html != shown);
    let data = serde_json::to_string(&Data { html, age_ms: look.at.elapsed().as_millis() }).ok()?;
    Some(Event::default().data(data))
}

/// What of a subject's page updates by itself, as its page shows it; `None` if there is no such page any more.
pub(crate) async fn look(console: Console, subject: Subject) -> Option<String> {
    // Of the frame only what was not asked is in it.
    let (console, author) = (&console, &Author::default());
    let html = match subject {
        Subject::Start => start::view(console, author).await.as_live().render(),
        Subject::Letters => letters::view(console, author).await.as_live().render(),
        Subject::Groups => groups::view(console, author).await.as_live().render(),
        Subject::Redrives => redrives::view(console, author).await.as_live().render(),
        Subject::Order(id) => order::view(console, author, id).await.as_live().render(),
        Subject::Stuck(older) => {
            stuck::view(console, author, &stuck::Wanted::older(&older)).await?.as_live().render()
        }
        Subject::Topic(name, partition) => topic::newest(console, &name, partition).await?.as_live().render(),
        Subject::Job(id) => job::view(console, author, id).await?.as_live().render(),
    };
    match html {
        Ok(html) => Some(html),
        Err(error) => {
            tracing::warn!(%error, "a page cannot be made");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::time::Instant;

    use super::*;

    /// Each name of a page that updates has its subject, and nothing else has.
    #[test]
    fn a_page_has_its_subject() {
        let of = |text: &str| serde_urlencoded::from_str::<Wanted>(text).expect("fields").subject();
        let id = Uuid::from_u128(1);
        assert_eq!(of("page=start"), Some(Subject::Start));
        assert_eq!(of(&format!("page=order&id={id}")), Some(Subject::Order(id)));
        assert_eq!(of(&format!("page=job&id={id}")), Some(Subject::Job(id)));
        let topic = |partition| Some(Subject::Topic("order.created".to_owned(), partition));
        assert_eq!(of("page=topic&topic=order.created"), topic(None));
        assert_eq!(of("page=topic&topic=order.created&partition=3"), topic(Some(3)));
        assert_eq!(of("page=stuck&older=5m"), Some(Subject::Stuck("5m".to_owned())));
        for wrong in [
            "",
            "page=",
            "page=order",
            "page=order&id=x",
            "page=stuck&older=x",
            "page=stuck&older=000000000000000001s",
            "page=letter",
            "page=topic",
            "page=topic&topic=a/b",
            "page=topic&topic=order.created&partition=x",
            "page=topic&topic=order.created&partition=-1",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    /// An event is one line, whatever is shown; what has not changed is not sent again, but its age is.
    #[tokio::test(start_paused = true)]
    async fn what_has_not_changed_is_not_sent_again() {
        let look = |html: &str| Look { html: html.to_owned(), at: Instant::now() };
        let events = [event(&look("<p>a\n\r\ndata: x</p>"), ""), event(&look("same"), "same")];
        let mut response = response(stream::iter(events.map(|event| Ok(event.expect("written")))));
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut text = String::new();
        while let Some(Ok(frame)) = response.body_mut().frame().await {
            text += std::str::from_utf8(frame.data_ref().expect("data")).expect("text");
        }
        let expected = "data: {\"html\":\"<p>a\\n\\r\\ndata: x</p>\",\"age_ms\":0}\n\ndata: {\"html\":null,\"age_ms\":0}\n\n";
        assert_eq!(text, expected);
    }
}
