//! What is no request: each refusal is to be a problem document with the id of its request.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    edge::Edge,
    gateway::{SHIPPED, Server},
};

pub(crate) async fn measure(edge: &Edge) -> Result<()> {
    let server = Server::gateway(&edge.world.stack.layout, SHIPPED).await?;
    let long = "x".repeat(40_000);
    let many = "X: 1\r\n".repeat(70);
    let get = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n");
    let post =
        |fields: &str| format!("POST /api/orders HTTP/1.1\r\nHost: a\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\n");
    let wrong = [
        "nonsense\r\n\r\n".to_owned(),
        "\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0".to_owned(),
        "GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET http:// HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "G\u{7}T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        get(""),
        get("Host: a\r\nHost: b\r\n"),
        get("Host: a b\r\n"),
        get("Host: u@a\r\n"),
        get("Host : a\r\n"),
        get("Host: a\r\n folded\r\n"),
        get("Host: a\r\nX: a\0b\r\n"),
        get(&format!("Host: a\r\nX: {long}\r\n")),
        get(&format!("Host: a\r\n{many}")),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        post("Content-Length: 15\r\nTransfer-Encoding: chunked\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 15\r\n"),
        post("Content-Length: 15\r\nContent-Length: 15\r\n"),
        post("Content-Length: -1\r\n"),
        post("Content-Length: 99999999999999999999\r\n"),
        post("Transfer-Encoding: gzip, chunked\r\n"),
        post("Transfer-Encoding: chunked, chunked\r\n"),
        post("Transfer-Encoding: identity\r\n"),
        "POST /api/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nX: ".to_owned(),
    ];
    let mut bare = Vec::new();
    for (number, request) in wrong.iter().enumerate() {
        let mut stream = server.connect(Ipv4Addr::new(127, 0, 11, u8::try_from(number + 2)?)).await?;
        // It may be refused before all was sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        while timeout(Duration::from_secs(8), stream.read_buf(&mut answer))
            .await
            .is_ok_and(|read| read.is_ok_and(|read| read > 0))
        {
            if answer.ends_with(b"}") {
                break;
            }
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        let is_problem =
            text.contains("content-type: application/problem+json") && text.contains("x-request-id: ");
        if !(is_problem && text.starts_with("HTTP/1.1 4")) {
            bare.push(format!("{:?}: {:?}", &request[..request.len().min(40)], &text[..text.len().min(60)]));
        }
    }
    let verdict = if bare.is_empty() { "met" } else { "**missed**" };
    println!(
        "| refusals of the parser | {} of {} are problem documents with a request id {} | | | all | {verdict} |",
        wrong.len() - bare.len(),
        wrong.len(),
        bare.join(", "),
    );
    Ok(())
}
