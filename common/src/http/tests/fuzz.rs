//! Whatever a client sends, and however it arrives, the library reads the same messages as the guard: a head that only one of the two
//! has seen is how a request is hidden in another.

use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt as _;
use proptest::prelude::*;

use super::*;
use crate::http::messages::{cut, finished, mutated, pieces, scan_pieces, stream};

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// The statuses of its answers.
    statuses: Vec<u16>,
    served: usize,
    refused: usize,
}

/// Sends `pieces` on a connection of its own, then closes its half.
async fn outcome(pieces: &[&[u8]]) -> Outcome {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counting = counts.clone();
    let count = move |request: Request, next: Next| {
        let is_refused = request.extensions().get::<Refusal>().is_some();
        counting[usize::from(is_refused)].fetch_add(1, Ordering::Relaxed);
        async move {
            // As the gateway does: a connection ends behind a body that nobody has read.
            let (parts, body) = request.into_parts();
            match body.collect().await {
                Ok(body) => next.run(Request::from_parts(parts, Body::from(body.to_bytes()))).await,
                Err(_) => StatusCode::BAD_REQUEST.into_response(),
            }
        }
    };
    let (io, served) = duplex(PIPE_BYTES);
    let watch = Arc::new(Watch::new(Limits::default(), Instant::now()));
    let router = router().layer(middleware::from_fn(count));
    let session = Pipe::session_of(router, watch.clone(), CancellationToken::new());
    let server = tokio::spawn(session.run(Socket::new(served, watch)));
    let (mut reads, mut writes) = tokio::io::split(io);
    let reading = tokio::spawn(async move {
        let mut answers = Vec::new();
        let _ = reads.read_to_end(&mut answers).await;
        answers
    });
    for piece in pieces {
        // Fails when the connection was refused already.
        let _ = writes.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let _ = writes.shutdown().await;
    let answers = reading.await.expect("no panic");
    server.await.expect("no panic");
    let text = String::from_utf8_lossy(&answers);
    let statuses = text.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(2..5)?.parse().ok());
    // Whether a client is told to go on depends on whether it has gone on already.
    let statuses = statuses.filter(|status| *status != 100);
    let [served, refused] = [0, 1].map(|kind: usize| counts[kind].load(Ordering::Relaxed));
    Outcome { statuses: statuses.collect(), served, refused }
}

proptest! {
    /// The answers are the same however the bytes are cut; nothing is served behind a refusal.
    #[test]
    fn a_client_is_answered_the_same_however_its_bytes_are_cut(
        bytes in mutated(stream()), pieces in pieces(),
    ) {
        let bytes = finished(&bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let (whole, in_pieces) = runtime.expect("a runtime").block_on(async {
            (outcome(&[&bytes]).await, outcome(&cut(&bytes, &pieces)).await)
        });
        prop_assert_eq!(&whole, &in_pieces);
        if bytes.starts_with(b"PRI * HTTP/2.0") {
            return Ok(());
        }
        let found = scan_pieces([&bytes[..]]);
        prop_assert!(whole.served <= found.heads, "{whole:?}, {found:?}");
        prop_assert!(whole.refused <= usize::from(found.refusal.is_some()), "{whole:?}, {found:?}");
    }
}
