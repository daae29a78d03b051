//! A client that costs as little as it can, so that what is measured is the gateway: HTTP/1.1 on one connection, one request at a
//! time.

use std::io;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::gateway::PATIENCE;

/// An answer that was read to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// The connection is still open for the next request.
    pub(crate) is_open: bool,
}

/// Sends a request and reads its answer.
pub(crate) async fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<Reply> {
    timeout(PATIENCE, async {
        stream.write_all(request).await?;
        read(stream).await
    })
    .await?
}

/// Reads an answer whose length is said in its head.
pub(crate) async fn read(stream: &mut TcpStream) -> io::Result<Reply> {
    let mut bytes = Vec::with_capacity(2_048);
    let (head_bytes, status, length, is_open) = loop {
        if let Some(head) = head(&bytes) {
            break head;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    while bytes.len() < head_bytes + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Reply { status, is_open })
}

/// The length of a head, its status, the length of its body, and whether the connection stays open.
fn head(bytes: &[u8]) -> Option<(usize, u16, usize, bool)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = str::from_utf8(&bytes[..end]).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    let (mut length, mut is_open) = (0, true);
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
        is_open &= line != "connection: close";
    }
    Some((end, status, length, is_open))
}

/// A `GET` of `path`, with a token if there is one.
pub(crate) fn get(path: &str, token: &str) -> Bytes {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{}\r\n", authorization(token)).into()
}

/// A `POST` of JSON.
pub(crate) fn post(path: &str, token: &str, body: &str) -> Bytes {
    let length = body.len();
    let fields = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
    format!("POST {path} HTTP/1.1\r\nHost: a\r\n{}{fields}\r\n{body}", authorization(token)).into()
}

fn authorization(token: &str) -> String {
    if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") }
}
