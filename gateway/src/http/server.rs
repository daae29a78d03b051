//! Our own accept loop, because limits on connections and on slow heads belong to it (pitfalls P34).

use std::{sync::Arc, time::Duration};

use axum::Router;
use holdfast_common::error::{BoxError, chain};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at a time; the next ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 2_048;
/// A head that takes longer ends its connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of a head; a longer one is 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Fields of a head; more are 431.
const HEAD_FIELDS_MAX: usize = 64;

/// Serves until `stop`, then finishes the requests in hand.
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
            Ok((tcp, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    connection(tcp, router, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Mostly: no file descriptors left. They come back when connections close.
                tracing::warn!(error = chain(&error), "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn connection(tcp: TcpStream, router: Router, stop: CancellationToken) {
    // Answers are small; waiting to fill a segment would add a delayed acknowledgement to each.
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(error = chain(&error), "connection is gone already");
        return;
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEAD_FIELDS_MAX)
        .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The client's doing: gone, too slow, or not HTTP.
        tracing::debug!(error = chain(&error), "connection ended early");
    }
}
