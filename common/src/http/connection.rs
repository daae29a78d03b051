//! One connection, from its first byte to its last.

use std::{
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::ConnectInfo};
use http::{HeaderValue, Request, Response, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    LongLived, Port, Refusal,
    exchange::{Exchange, Watched},
    guard::{Entry, Guard, Verdicts},
    head,
    line::Line,
    proxy,
    slots::{Slot, Slots},
    socket::Socket,
    watch::{Overdue, Watch},
};
use crate::{
    error::{causes, chain},
    identity, metric,
};

/// Streams of a connection at a time.
const STREAMS_MAX: u32 = 100;
/// Streams that the client reset and we have not forgotten yet; more end the connection (pitfalls P36).
const RESETS_PENDING_MAX: usize = 20;
/// Streams that we had to reset because of the client's mistakes; more end the connection.
const RESETS_LOCAL_MAX: usize = 100;
/// The same limit of a head as over HTTP/1.
const HEADER_LIST_BYTES_MAX: u32 = 32 * 1024;
const _: () = assert!(HEADER_LIST_BYTES_MAX as usize == head::HEAD_BYTES_MAX);
/// How much a client may send ahead, per stream and in all.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 128 * 1024;
/// How much of a stream's answer is stored before the client takes it in.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// How much may wait in the kernel to be sent.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 64 * 1024;
/// How long a connection may take to say goodbye, after it was told to.
const GOODBYE_TIME: Duration = Duration::from_secs(1);
/// How long a connection waits for the request that is on its way when the process stops.
const LAST_REQUEST_TIME: Duration = Duration::from_millis(500);
/// How long a connection without a place may last in all.
const TURNED_AWAY_TIME: Duration = Duration::from_secs(3);
/// Room for one whole head, and what came with it.
const READ_BUFFER_BYTES_MAX: usize = 2 * head::HEAD_BYTES_MAX;

/// Serves a connection until it ends, one of its limits is passed, it is evicted, or the process stops.
pub(super) async fn serve(session: Session, tcp: TcpStream) {
    // Answers are small; waiting to fill a segment would add a delayed acknowledgement to each.
    if let Err(error) = identity::tune(&tcp).and_then(|()| bound_unsent(&tcp, session.port.limits.stall_time))
    {
        tracing::debug!(error = chain(&error), "connection is already gone");
        return;
    }
    let socket = Socket::new(tcp, session.watch.clone());
    match session.port.tls.clone() {
        // Each in a box of its own, or every plain connection would take the memory of one with TLS.
        None => Box::pin(session.run(socket)).await,
        Some(tls) => match Box::pin(session.shake_hands(tls.server_config().into(), socket)).await {
            Ok(stream) => Box::pin(session.run(stream)).await,
            Err(error) => {
                metrics::counter!(metric::TLS_HANDSHAKE_FAILURES_TOTAL).increment(1);
                tracing::debug!(error = chain(&error), "connection ended in the handshake");
            }
        },
    }
}

/// What a client has not taken in yet waits in our answer, not in the kernel, which would store megabytes for each client that asks a
/// lot and reads nothing, and make us answer all of it. What the kernel stores all the same, a client must take in too: answers that
/// are few or small never fill its buffers.
fn bound_unsent(tcp: &TcpStream, stall_time: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(tcp);
        socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        socket.set_tcp_user_timeout(Some(stall_time))?;
    }
    Ok(())
}

/// What is known of a connection from its beginning.
pub(super) struct Session {
    pub(super) port: Arc<Port>,
    pub(super) client: SocketAddr,
    pub(super) watch: Arc<Watch>,
    pub(super) entry: Entry,
    /// Cancelled when somebody else needs the place more.
    pub(super) evicted: CancellationToken,
}

/// Why a connection is no longer served.
enum End {
    Closed,
    Overdue(Overdue),
    Evicted,
    Stopped,
}

impl Session {
    /// Learns from a proxy whose connection this is. Who has its share of connections is turned away from here on; a connection
    /// that does not begin with a header in time is not served at all.
    pub(super) async fn introduce(
        &mut self,
        tcp: &mut TcpStream,
        place: Option<(&Slots, &Slot)>,
    ) -> ControlFlow<()> {
        let stopped = async {
            self.port.stop.cancelled().await;
            tokio::time::sleep(LAST_REQUEST_TIME).await;
        };
        let header = tokio::select! {
            header = tokio::time::timeout(self.port.limits.head_time, proxy::read_header(tcp)) => header,
            () = self.evicted.cancelled() => return ControlFlow::Break(()),
            () = stopped => return ControlFlow::Break(()),
        };
        match header.unwrap_or_else(|late| Err(late.into())) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(client)) => {
                self.client = client;
                if let Some((slots, slot)) = place
                    && let Err(full) = slots.assign(slot, client)
                {
                    self.port.count_refusal(full);
                    self.entry = Entry::TurnedAway;
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                // A connection that says nothing and closes is how proxies try whether we are there.
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    self.port.count_end("proxy-header");
                }
                tracing::debug!(error = chain(&error), "a proxy did not say whose connection it is");
                ControlFlow::Break(())
            }
        }
    }

    async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        acceptor: TlsAcceptor,
        socket: S,
    ) -> io::Result<tokio_rustls::server::TlsStream<S>> {
        let stop = async {
            tokio::select! {
                () = self.evicted.cancelled() => {}
                () = self.port.stop.cancelled() => {}
            }
        };
        tokio::select! {
            done = tokio::time::timeout(self.port.limits.head_time, acceptor.accept(socket)) => done?,
            () = stop => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, socket: S) {
        let verdicts = Verdicts::default();
        let guard = Guard::new(socket, self.port.limits.head_time, self.entry, verdicts.clone());
        let (line, mut library) = (Line::new(guard), builder());
        while self.serve(&line, &library, &verdicts).await.is_continue()
            && self.rest(&line).await.is_continue()
        {
            library = builder().http1_only();
        }
    }

    /// Serves a connection until it ends, or makes a pause.
    pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        line: &Line<S>,
        library: &auto::Builder<TokioExecutor>,
        verdicts: &Verdicts,
    ) -> ControlFlow<()> {
        let service = {
            let (port, watch, verdicts) = (self.port.clone(), self.watch.clone(), verdicts.clone());
            let (client, entry) = (self.client, self.entry);
            service_fn(move |request| answer(&port, client, entry, watch.clone(), &verdicts, request))
        };
        let mut connection = pin!(library.serve_connection(TokioIo::new(line.clone()), service));
        let mut alarm = pin!(sleep_until(self.watch.due(Instant::now()).0));
        let mut served = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(End::Closed),
            Poll::Ready(Err(error)) => {
                // The client's doing: it left, or did not speak HTTP.
                tracing::debug!(error = chain(error.as_ref()), "connection ended early");
                if is_timeout(error.as_ref()) {
                    return Poll::Ready(End::Overdue(Overdue::Stalled));
                }
                Poll::Ready(End::Closed)
            }
            Poll::Pending => poll_overdue(&self.watch, alarm.as_mut(), cx).map(End::Overdue),
        });
        let turned_away = async {
            match self.entry {
                Entry::Admitted => std::future::pending().await,
                Entry::TurnedAway => tokio::time::sleep(TURNED_AWAY_TIME).await,
            }
        };
        let mut turned_away = pin!(turned_away);
        let end = loop {
            let end = tokio::select! {
                end = &mut served => end,
                () = self.evicted.cancelled() => End::Evicted,
                () = self.port.stop.cancelled() => End::Stopped,
                () = &mut turned_away => End::Closed,
            };
            if let End::Overdue(Overdue::Quiet) = end {
                // Until its next exchange.
                self.watch.may_rest(false);
                if !line.lock().try_rest() {
                    continue;
                }
            }
            break end;
        };
        match end {
            End::Closed => {}
            End::Overdue(Overdue::Quiet) => {
                // The library has nothing to do, and ends at once.
                connection.as_mut().graceful_shutdown();
                let ended = tokio::time::timeout(GOODBYE_TIME, connection).await;
                line.lock().resume();
                if let Ok(Ok(())) = ended {
                    return ControlFlow::Continue(());
                }
            }
            End::Overdue(Overdue::Idle) => {
                self.port.count_end(Overdue::Idle.reason());
                // Over HTTP/2 the client is told; over HTTP/1 there is no answer left to tell it in.
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(GOODBYE_TIME, connection).await;
            }
            End::Overdue(overdue) => self.port.count_end(overdue.reason()),
            End::Evicted => {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(GOODBYE_TIME, connection).await;
            }
            End::Stopped => {
                // A request that is on its way is still answered, and told that it is the last: if the connection were closed at
                // once, its client would see a reset.
                self.watch.may_rest(false);
                match tokio::time::timeout(LAST_REQUEST_TIME, &mut served).await {
                    Ok(End::Overdue(overdue)) => {
                        self.port.count_end(overdue.reason());
                        return ControlFlow::Break(());
                    }
                    Ok(_) => return ControlFlow::Break(()),
                    Err(_) => self.watch.stop(Instant::now()),
                }
                connection.as_mut().graceful_shutdown();
                let finished = poll_fn(|cx| match connection.as_mut().poll(cx) {
                    Poll::Ready(_) => Poll::Ready(End::Closed),
                    Poll::Pending => poll_overdue(&self.watch, alarm.as_mut(), cx).map(End::Overdue),
                });
                if let End::Overdue(overdue) = finished.await {
                    self.port.count_end(overdue.reason());
                }
            }
        }
        ControlFlow::Break(())
    }

    /// Waits for the next request of a connection that nobody serves meanwhile.
    async fn rest<S: AsyncRead + AsyncWrite + Unpin>(&self, line: &Line<S>) -> ControlFlow<()> {
        let stopped = async {
            self.port.stop.cancelled().await;
            tokio::time::sleep(LAST_REQUEST_TIME).await;
        };
        tokio::select! {
            is_readable = line.is_readable() => {
                return if is_readable { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            }
            () = sleep_until(self.watch.due(Instant::now()).0) => self.port.count_end(Overdue::Idle.reason()),
            () = self.evicted.cancelled() => {}
            () = stopped => {}
        }
        let _ = tokio::time::timeout(GOODBYE_TIME, line.clone().shutdown()).await;
        ControlFlow::Break(())
    }
}

/// Whether the kernel has given up: the client has taken in nothing for [`super::Limits::stall_time`].
fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    })
}

/// Ready when a limit of time has passed. Limits move while the connection works, so it must be polled after each of its steps.
fn poll_overdue(watch: &Watch, mut alarm: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Overdue> {
    loop {
        let (due, _) = watch.due(Instant::now());
        if due < alarm.deadline() || alarm.is_elapsed() {
            alarm.as_mut().reset(due);
        }
        if alarm.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(overdue) = watch.overdue(Instant::now()) {
            return Poll::Ready(overdue);
        }
    }
}

pub(super) fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The guard has the times of head and pause.
        .header_read_timeout(None)
        // A client that sends its request and closes its half gets its answer.
        .half_close(true)
        .max_headers(head::HEAD_FIELDS_MAX)
        .max_buf_size(READ_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_LOCAL_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX);
    builder
}

/// Hands a request to the router, and its answer to the library.
fn answer(
    port: &Port,
    client: SocketAddr,
    entry: Entry,
    watch: Arc<Watch>,
    verdicts: &Verdicts,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Watched<Body>>, std::convert::Infallible>> + Send + use<> {
    let now = Instant::now();
    let (began, mut refusal) = match request.version() {
        Version::HTTP_2 => (now, None),
        // A head that the guard has not seen must not be served: then the two disagree about where a message ends.
        _ => verdicts.take().map_or((now, Some(Refusal::Syntax)), |verdict| (verdict.began, verdict.refusal)),
    };
    if entry == Entry::TurnedAway {
        refusal = Some(Refusal::TooManyConnections);
    }
    if let Some(refusal) = refusal {
        metrics::counter!(
            metric::HTTP_REQUESTS_REFUSED_TOTAL, "port" => port.name, "reason" => refusal.reason()
        )
        .increment(1);
        request.extensions_mut().insert(refusal);
    }
    request.extensions_mut().insert(ConnectInfo(client));
    watch.may_rest(request.version() != Version::HTTP_2);
    let exchange = Exchange::begin(watch, began);
    let stop = port.stop.clone();
    let router = TowerToHyperService::new(port.router.clone());
    let is_http_2 = request.version() == Version::HTTP_2;
    async move {
        let mut response = hyper::service::Service::call(&router, request).await?;
        if let Some(refusal) = refusal {
            // Whatever the router made of it, it is a refusal, and the last answer of this connection.
            *response.status_mut() = refusal.status();
        }
        if (refusal.is_some() || stop.is_cancelled()) && !is_http_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if response.extensions().get::<LongLived>().is_some() {
            exchange.long_lived();
        }
        Ok(response.map(|body| Watched::new(body, exchange)))
    }
}
