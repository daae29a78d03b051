//! The stream of a client as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use holdfast_common::http::LongLived;

use super::to_json;
use crate::live::{Change, Step, Track, Watcher};

/// A comment is sent when nothing else was for this long, so that proxies and clients see that the stream is alive.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// When clients of a process that stops come back at the earliest, and up to when: not all at once.
const RETRY_MS_MIN: u64 = 500;
const RETRY_MS_MAX: u64 = 2_500;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Proxies must not collect a stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The id of the last event that the client got. What is no id of ours counts as none, so the client gets the current state.
pub(super) fn last_event_id(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(LAST_EVENT_ID)?.to_str().ok()?;
    // Digits only: a parser of numbers would take a sign too.
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The stream. 204 if there will never be anything in it: clients don't come back after that.
pub(super) fn response(watcher: Watcher) -> Response {
    if watcher.is_over() {
        return StatusCode::NO_CONTENT.into_response();
    }
    let events = stream::unfold(watcher, |mut watcher: Watcher| async move {
        let event = event(watcher.track(), &watcher.next().await?)?;
        Some((Ok(event), watcher))
    });
    stream_response(events)
}

fn stream_response(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(COMMENT_EVERY)).into_response();
    response.extensions_mut().insert(LongLived);
    response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// `None` ends the stream: what can't be written is in the log.
fn event(track: Track, step: &Step) -> Option<Event> {
    match step {
        Step::Order(change) => order_event(track, change),
        // An event without data is no event, but its id counts.
        Step::Current(position) => Some(Event::default().id(position.to_string()).comment("current")),
        Step::Expired => Some(Event::default().comment("the token has expired")),
        Step::Stopping => {
            let retry = Duration::from_millis(fastrand::u64(RETRY_MS_MIN..=RETRY_MS_MAX));
            Some(Event::default().retry(retry))
        }
    }
}

fn order_event(track: Track, change: &Change) -> Option<Event> {
    let json = to_json(&change.order).ok()?;
    let data = std::str::from_utf8(&json).ok()?;
    Some(Event::default().event("order").id(track.number(change).to_string()).data(data))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::time::Instant;

    use super::*;

    /// A stream in which nothing happens has a comment each 15 s.
    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_shows_that_it_is_alive() {
        let mut response = stream_response(stream::pending());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let begin = Instant::now();
        for round in 1..=3 {
            let frame = response.body_mut().frame().await.expect("open").expect("no failure");
            assert_eq!(frame.into_data().expect("data"), ":\n\n");
            assert_eq!(begin.elapsed().as_secs(), 15 * round);
        }
    }

    /// What is not an id of ours is as good as none.
    #[test]
    fn only_an_id_of_ours_is_one() {
        for (text, expected) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("-1", None),
            ("", None),
            ("x", None),
            ("1e3", None),
            ("+7", None),
        ] {
            let headers = HeaderMap::from_iter([(LAST_EVENT_ID, HeaderValue::from_static(text))]);
            assert_eq!(last_event_id(&headers), expected, "{text:?}");
        }
        assert_eq!(last_event_id(&HeaderMap::new()), None);
    }

    /// Clients that must come back don't all come back at the same moment.
    #[test]
    fn a_stopping_process_spreads_its_clients() {
        let delays: std::collections::HashSet<String> = (0..50)
            .map(|_| format!("{:?}", event(Track::Version, &Step::Stopping).expect("an event")))
            .collect();
        assert!(delays.len() > 10, "{delays:?}");
    }
}
