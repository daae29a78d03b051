//! What pages are made of: text of strangers, times, links, and the frame around every page.
//!
//! Templates escape for HTML; what would act on a reader instead of being read (control characters, what reorders or hides) is
//! escaped here, when a [`Shown`] is made. Views hold nothing else of strangers.

use std::{fmt, time::Duration};

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use holdfast_operator::ticket::{Author, May};
use holdfast_proto::{
    hexadecimal,
    text::{on_its_lines, on_one_line},
};
use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::state::Console;

/// Rows of one table. What has more says so, and has a next page or a filter.
pub(crate) const ROWS_MAX: usize = 50;
/// When whoever found something busy may come again.
const BUSY_RETRY_AFTER_SECONDS: u64 = 2;
/// Bytes of a value that is no event that are shown in hexadecimal.
const HEX_BYTES_MAX: usize = 512;

/// Text that is safe to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shown(String);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Shown {
    pub(crate) fn of(text: impl AsRef<str>) -> Self {
        Self(escaped(text.as_ref()))
    }

    /// The same for text that has lines of its own.
    pub(crate) fn lines(text: impl AsRef<str>) -> Self {
        Self(on_its_lines(text.as_ref()).into_owned())
    }

    /// Bytes as text where they are text, else in hexadecimal, as far as people read it.
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if bytes.len() <= HEX_BYTES_MAX => Self::of(text),
            _ => Self::hex_of_first(bytes, HEX_BYTES_MAX),
        }
    }

    /// Bytes in hexadecimal, as far as people read it.
    pub(crate) fn hex(bytes: &[u8]) -> Self {
        Self(hex_of(bytes, HEX_BYTES_MAX))
    }

    /// So many of these bytes at most, in hexadecimal.
    pub(crate) fn hex_of_first(bytes: &[u8], bytes_max: usize) -> Self {
        Self(format!("0x{}", hex_of(bytes, bytes_max)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn hex_of(bytes: &[u8], bytes_max: usize) -> String {
    let shown = hexadecimal(&bytes[..bytes.len().min(bytes_max)]);
    match bytes.len() {
        length if length > bytes_max => format!("{shown}… ({bytes_max} of {length} bytes)"),
        _ => shown,
    }
}

/// A text on one line, harmless to its reader.
pub(crate) fn escaped(text: &str) -> String {
    on_one_line(text).into_owned()
}

/// When something happened, to the millisecond, and how long ago that is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: String,
    pub(crate) ago: String,
}

impl Moment {
    pub(crate) fn of(at: Option<OffsetDateTime>, now: OffsetDateTime) -> Self {
        const FORM: &[BorrowedFormatItem<'_>] =
            format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3] UTC");
        let Some(at) = at else { return Self::default() };
        // The clock of a service may be ahead.
        let age = Duration::try_from(now - at).unwrap_or_default();
        Self { at: at.format(FORM).unwrap_or_default(), ago: holdfast_operator::text::age_text(age) }
    }
}

/// The name of a protobuf enum's value as people write it: `SET_ASIDE` with its prefix is `set-aside`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', "-")
}

/// A link with its parameters; empty ones are left out.
pub(crate) fn link(path: &str, parameters: &impl Serialize) -> String {
    // Only texts and numbers are parameters here, which can be written.
    let query = serde_urlencoded::to_string(parameters).unwrap_or_default();
    let given: Vec<&str> = query.split('&').filter(|pair| !pair.ends_with('=') && !pair.is_empty()).collect();
    if given.is_empty() { path.to_owned() } else { format!("{path}?{}", given.join("&")) }
}

/// What is around every page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frame {
    /// Never a text of strangers: it is kept in the browser's history.
    pub(crate) title: &'static str,
    /// Who is signed in.
    pub(crate) author: Shown,
    /// Whether they may change anything.
    pub(crate) may_change: bool,
    /// The command that prints an address with which they could.
    pub(crate) ticket_command: String,
    /// Why services were not asked.
    pub(crate) missing: Vec<Shown>,
    /// Commands that do the same.
    pub(crate) commands: Vec<String>,
    /// The path of the stream by which it updates by itself; empty if it does not.
    pub(crate) stream: String,
    /// When it was made.
    pub(crate) made: Moment,
}

impl Frame {
    pub(crate) fn new(console: &Console, title: &'static str, author: &Author) -> Self {
        Self {
            title,
            author: Shown::of(&author.name),
            may_change: console.may_change(author),
            ticket_command: console.ticket_command(May::Change),
            missing: Vec::new(),
            commands: Vec::new(),
            stream: String::new(),
            made: Moment::default(),
        }
    }

    /// It updates by itself.
    pub(crate) fn live(mut self, parameters: &impl Serialize, now: OffsetDateTime) -> Self {
        self.stream = link("/live", parameters);
        self.made = Moment::of(Some(now), now);
        self
    }

    pub(crate) fn missing(mut self, why: &[String]) -> Self {
        self.missing = why.iter().map(Shown::of).collect();
        self
    }

    pub(crate) fn command(mut self, command: String) -> Self {
        self.commands.push(command);
        self
    }
}

/// A page.
pub(crate) fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("this page cannot be made: {error}"),
        )
            .into_response(),
    }
}

/// A page that says one thing.
#[derive(Debug, Template)]
#[template(path = "message.html")]
struct Message {
    frame: Frame,
    text: Shown,
}

/// A refusal, or something that is not there.
pub(crate) fn message(status: StatusCode, title: &'static str, text: impl AsRef<str>) -> Response {
    let frame = Frame { title, ..Frame::default() };
    page(status, &Message { frame, text: Shown::of(text) })
}

/// What was asked for is done by somebody else now.
pub(crate) fn busy(title: &'static str, text: &str) -> Response {
    again_after(BUSY_RETRY_AFTER_SECONDS, StatusCode::SERVICE_UNAVAILABLE, title, text)
}

/// A refusal that ends by itself, and when to come again.
pub(crate) fn again_after(seconds: u64, status: StatusCode, title: &'static str, text: &str) -> Response {
    let mut response = message(status, title, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// A [`message`] in place of what was asked for: the error of whatever looks for that. Boxed, because a response is large.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Response>);

impl From<Response> for Refusal {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links say what was asked for and nothing else, whatever is in it.
    #[test]
    fn links_have_what_is_given() {
        assert_eq!(link("/a", &[("b", ""), ("c", "")]), "/a");
        assert_eq!(link("/a", &[("b", "x y&z=\"<"), ("c", ""), ("d", "1")]), "/a?b=x+y%26z%3D%22%3C&d=1");
    }

    /// Bytes are text only if they are, and long ones are cut.
    #[test]
    fn bytes_are_shown_as_far_as_people_read_them() {
        assert_eq!(Shown::bytes(b"a\x1b\n").to_string(), "a\\u001b\\n");
        assert_eq!(Shown::bytes(&[0xff, 0]).to_string(), "0xff00");
        let long = Shown::hex(&[0xab; 2_000]).to_string();
        assert!(long.ends_with("… (512 of 2000 bytes)") && long.len() < 1_100, "{long}");
    }

    /// Values of enums are words.
    #[test]
    fn names_of_the_wire_are_words() {
        assert_eq!(word("DEAD_LETTER_STATE_SET_ASIDE", "DEAD_LETTER_STATE_"), "set-aside");
    }
}
