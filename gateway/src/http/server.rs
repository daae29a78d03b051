//! Our own accept loop, because limits on connections and on slow heads belong to it (pitfalls P34). Each request
//! carries the address of its client, as `ConnectInfo<SocketAddr>`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use holdfast_common::error::{BoxError, chain};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Most connections at a time; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 2_048;
/// Time for a head to arrive; a slower one ends its connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// Most bytes of a head; a longer one is 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most fields of a head; more are 431.
const HEAD_FIELDS_MAX: usize = 64;

/// Serves until `stop`, then finishes the requests that are in progress.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, client)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    connection(tcp, client, router, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Most likely there are no file descriptors left. Closing connections return theirs.
                tracing::warn!(error = chain(&error), "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn connection(tcp: TcpStream, client: SocketAddr, router: Router, stop: CancellationToken) {
    // Responses are small; waiting to fill a segment would add a delayed acknowledgement to each.
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(error = chain(&error), "connection is already gone");
        return;
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEAD_FIELDS_MAX)
        .serve_connection(TokioIo::new(tcp), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The client's doing: it left, was too slow, or did not speak HTTP.
        tracing::debug!(error = chain(&error), "connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn whoami(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
        client.to_string()
    }

    /// Each request carries the address of its client, and a stop ends the server.
    #[tokio::test]
    async fn a_request_carries_the_address_of_its_client() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(whoami));
        let server = tokio::spawn(serve(listener, router, stop.clone()));

        for _ in 0..2 {
            let mut client = TcpStream::connect(address).await.expect("connected");
            let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            client.write_all(request).await.expect("sent");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("answered");
            let own = client.local_addr().expect("connected").to_string();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&own), "{own} in {answer}");
        }

        stop.cancel();
        server.await.expect("no panic").expect("ended in order");
    }

    /// A head that never ends loses its connection instead of keeping a place forever (pitfalls P34).
    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_costs_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(serve(listener, Router::new(), CancellationToken::new()));

        let begin = tokio::time::Instant::now();
        let mut client = TcpStream::connect(address).await.expect("connected");
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").await.expect("sent");
        let ended = tokio::time::timeout(HEAD_TIME_MAX * 2, client.read_to_end(&mut Vec::new())).await;
        ended.expect("in time").expect("closed");
        assert!(begin.elapsed() >= HEAD_TIME_MAX, "{:?}", begin.elapsed());
    }
}
