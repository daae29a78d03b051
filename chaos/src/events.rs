//! A client of server-sent events, as a browser has one: events with their ids, and what else is in a stream.

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use serde_json::Value;

/// The longest block that is taken for one.
const BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// What stands between two empty lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// `id`.
    pub id: Option<String>,
    /// `event`.
    pub event: Option<String>,
    /// `data`, as JSON; null if there is none.
    pub data: Value,
    /// `retry`, in milliseconds.
    pub retry_ms: Option<u64>,
    /// It has a comment.
    pub is_comment: bool,
}

impl Block {
    fn parse(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => block.is_comment = true,
                "id" => block.id = Some(value.to_owned()),
                "event" => block.event = Some(value.to_owned()),
                "data" => block.data = serde_json::from_str(value).unwrap_or_default(),
                "retry" => block.retry_ms = value.parse().ok(),
                _ => {}
            }
        }
        block
    }

    /// The order, if this is an event about one.
    #[must_use]
    pub fn order(&self) -> Option<&Value> {
        (self.event.as_deref() == Some("order")).then_some(&self.data)
    }
}

/// An answer whose body is read as it comes.
pub struct EventStream {
    /// Its status; there are events only with 200.
    pub status: StatusCode,
    /// Its head.
    pub headers: HeaderMap,
    body: BoxBody<Bytes, anyhow::Error>,
    buffer: BytesMut,
    /// The id to resume from.
    pub last_id: Option<String>,
}

impl EventStream {
    pub(crate) fn new(status: StatusCode, headers: HeaderMap, body: BoxBody<Bytes, anyhow::Error>) -> Self {
        Self { status, headers, body, buffer: BytesMut::new(), last_id: None }
    }

    /// The next block; `None` at the end of the stream, an error if it was cut off.
    pub async fn next(&mut self) -> Result<Option<Block>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let text = self.buffer.split_to(end);
                self.buffer.advance(2);
                let block = Block::parse(std::str::from_utf8(&text).context("not UTF-8")?);
                if block.id.is_some() {
                    self.last_id.clone_from(&block.id);
                }
                return Ok(Some(block));
            }
            anyhow::ensure!(self.buffer.len() < BLOCK_BYTES_MAX, "a block without an end");
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// The next event about an order; `None` at the end of the stream.
    pub async fn next_order(&mut self) -> Result<Option<Value>> {
        while let Some(block) = self.next().await? {
            if let Some(order) = block.order() {
                return Ok(Some(order.clone()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    /// A stream is read block by block, as it would be by a browser.
    #[tokio::test]
    async fn a_stream_is_read_block_by_block() {
        let text = "event: order\nid: 7\ndata: {\"version\":7}\n\n:\n\nid: 9\n: current\n\nretry: 500\n\n";
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
        let mut stream = EventStream::new(StatusCode::OK, HeaderMap::new(), body);
        let mut blocks = Vec::new();
        while let Some(block) = stream.next().await.expect("read") {
            blocks.push(block);
        }
        assert_eq!(blocks.len(), 4);
        assert_eq!(blocks[0].order(), Some(&serde_json::json!({"version": 7})));
        assert!(blocks[1].is_comment && blocks[1].id.is_none());
        assert!(blocks[2].is_comment && blocks[2].order().is_none());
        assert_eq!(blocks[3].retry_ms, Some(500));
        assert_eq!(stream.last_id.as_deref(), Some("9"));
    }
}
