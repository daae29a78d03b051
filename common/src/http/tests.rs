//! Connections as a client sees them: on pipes with a paused clock, and on sockets of the loopback.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::StatusCode,
    middleware,
    routing::{any, get},
};
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    connection::builder,
    guard::{Guard, Verdicts},
    line::Line,
    socket::Socket,
    *,
};

mod fuzz;

const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// What the kernel would buffer of a pipe.
const PIPE_BYTES: usize = 4 * 1024;

async fn whoami(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    client.to_string()
}

/// A piece a second, for as long as somebody reads.
async fn ticks() -> Response {
    let body = stream::unfold((), |()| async {
        sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'.'; 256])), ()))
    });
    let mut response = Body::from_stream(body).into_response();
    response.extensions_mut().insert(LongLived);
    response
}

fn router() -> Router {
    Router::new()
        .route("/", get(whoami))
        .route("/echo", any(|body: Bytes| async move { (StatusCode::CREATED, body) }))
        .route("/slow", get(|| sleep(Duration::from_secs(1))))
        .route("/never", get(|| sleep(Duration::from_secs(3_600))))
        .route("/large", get(|| async { vec![b'x'; 64 * 1024] }))
        .route("/ticks", get(ticks))
        .layer(middleware::from_fn(refuse))
}

/// A client at the other end of a pipe.
struct Pipe {
    io: DuplexStream,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Pipe {
    fn new() -> Self {
        let (io, served) = duplex(PIPE_BYTES);
        let stop = CancellationToken::new();
        let watch = Arc::new(Watch::new(Limits::default(), Instant::now()));
        let session = Self::session(watch.clone(), stop.clone());
        let server = tokio::spawn(session.run(Socket::new(served, watch)));
        Self { io, stop, server }
    }

    fn session(watch: Arc<Watch>, stop: CancellationToken) -> Session {
        Self::session_of(router(), watch, stop)
    }

    fn session_of(router: Router, watch: Arc<Watch>, stop: CancellationToken) -> Session {
        let port =
            Port { name: "test", limits: Limits::default(), tls: None, proxies: Vec::new(), router, stop };
        Session {
            port: Arc::new(port),
            client: CLIENT,
            watch,
            entry: Entry::Admitted,
            evicted: CancellationToken::new(),
        }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.expect("sent");
    }

    /// One answer with a short body.
    async fn answer(&mut self) -> (u16, String) {
        let mut text = String::new();
        let length = |text: &str| {
            let (head, body) = text.split_once("\r\n\r\n")?;
            let length =
                head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
            (body.len() >= length).then_some(())
        };
        while length(&text).is_none() {
            let mut byte = [0];
            assert_eq!(self.io.read(&mut byte).await.expect("read"), 1, "ended after {text:?}");
            text.push(char::from(byte[0]));
        }
        (text[9..12].parse().expect("a status"), text)
    }

    /// Everything until the connection is closed.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // Closed or reset, it is over.
        let _ = self.io.read_to_end(&mut rest).await;
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// How long something took, in whole seconds of the paused clock.
async fn seconds<T>(what: impl Future<Output = T>) -> (u64, T) {
    let begin = Instant::now();
    let done = timeout(Duration::from_secs(600), what).await.expect("it ends");
    (begin.elapsed().as_secs(), done)
}

/// The pause between two requests has a limit of its own, far above the time for a head (pitfalls P39).
#[tokio::test(start_paused = true)]
async fn an_idle_connection_lives_for_75_seconds() {
    let mut pipe = Pipe::new();
    sleep(Duration::from_secs(74)).await;
    for _ in 0..2 {
        pipe.send(GET).await;
        assert_eq!(pipe.answer().await.0, 200);
        sleep(Duration::from_secs(74)).await;
    }
    pipe.send(GET).await;
    assert_eq!(pipe.answer().await.0, 200);
    assert_eq!(seconds(pipe.rest()).await, (75, String::new()));
    pipe.server.await.expect("ended in order");
}

/// A connection that makes a pause gives back what serving it takes, and goes on with its next request, in however many pieces that
/// comes; in HTTP/1 only, and not in the middle of a head.
#[tokio::test(start_paused = true)]
async fn a_connection_rests_between_two_requests() {
    let (mut client, served) = duplex(PIPE_BYTES);
    let watch = Arc::new(Watch::new(Limits::default(), Instant::now()));
    let session = Pipe::session(watch.clone(), CancellationToken::new());
    let verdicts = Verdicts::default();
    let guard = Guard::new(Socket::new(served, watch), Limits::HEAD_TIME, Entry::Admitted, verdicts.clone());
    let (line, library) = (Line::new(guard), builder());
    client.write_all(GET).await.expect("sent");
    let (waited, step) = seconds(session.serve(&line, &library, &verdicts)).await;
    assert!(step.is_continue(), "it is not over");
    assert_eq!(waited, 2);

    let mut pipe = Pipe::new();
    for _ in 0..2 {
        for piece in GET.chunks(5) {
            pipe.send(piece).await;
            sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(pipe.answer().await.0, 200);
        sleep(Duration::from_secs(10)).await;
    }
    // A head that begins before the pause is long enough is not lost.
    pipe.send(GET).await;
    assert_eq!(pipe.answer().await.0, 200);
    sleep(Duration::from_secs(1)).await;
    pipe.send("GET / HTTP/1.1\r\n").await;
    sleep(Duration::from_secs(3)).await;
    pipe.send("Host: a\r\n\r\n").await;
    assert_eq!(pipe.answer().await.0, 200);
    sleep(Duration::from_secs(10)).await;
    pipe.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!(pipe.answer().await.0, 400);
    assert_eq!(pipe.rest().await, "");
}

/// A connection that rests ends like every other: when it is evicted, when the client goes, and when the process stops, after a request
/// that is on its way then.
#[tokio::test(start_paused = true)]
async fn a_connection_that_rests_can_end() {
    let resting = async || {
        let mut pipe = Pipe::new();
        pipe.send(GET).await;
        assert_eq!(pipe.answer().await.0, 200);
        sleep(Duration::from_secs(10)).await;
        pipe
    };
    let Pipe { io, server, .. } = resting().await;
    drop(io);
    assert_eq!(seconds(server).await.0, 0);
    let mut pipe = resting().await;
    pipe.stop.cancel();
    let (waited, rest) = seconds(pipe.rest()).await;
    assert_eq!((waited, rest.as_str()), (0, ""));
    let mut pipe = resting().await;
    pipe.stop.cancel();
    pipe.send(GET).await;
    let (status, text) = pipe.answer().await;
    assert!(status == 200 && text.contains("connection: close"), "{text}");
    pipe.server.await.expect("no panic");
}

/// A head has 5 s from its first byte, however busily it trickles; then it is 408 and the connection ends (pitfalls P34).
#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_refused() {
    let mut pipe = Pipe::new();
    sleep(Duration::from_secs(60)).await;
    pipe.send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
    for _ in 0..9 {
        sleep(Duration::from_millis(500)).await;
        pipe.send("x").await;
    }
    let (seconds, (status, text)) = seconds(pipe.answer()).await;
    assert_eq!((seconds, status), (0, 408), "{text}");
    assert!(text.contains("connection: close\r\n"), "{text}");
    assert_eq!(pipe.rest().await, "");
}

/// A client that never reads is let go after 10 s without progress, whatever it asked for.
#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_let_go() {
    for request in [GET.repeat(400), b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()] {
        let Pipe { io, server, .. } = Pipe::new();
        let (_reads_nothing, mut writes) = tokio::io::split(io);
        let sending = tokio::spawn(async move {
            // Fails when the connection ends.
            let _ = writes.write_all(&request).await;
            writes
        });
        assert_eq!(seconds(server).await.0, 10);
        sending.abort();
    }
}

/// A client that reads a little from time to time is not stalled, but its exchange has a limit: 30 s.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_has_30_seconds() {
    let mut pipe = Pipe::new();
    pipe.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reads = async {
        let mut some = [0; 64];
        while pipe.io.read(&mut some).await.is_ok_and(|read| read > 0) && !pipe.server.is_finished() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    // It notices at its next read.
    assert!((30..=31).contains(&seconds(reads).await.0));
}

/// A handler that never answers doesn't keep a connection either.
#[tokio::test(start_paused = true)]
async fn an_exchange_has_30_seconds() {
    let mut pipe = Pipe::new();
    pipe.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(seconds(pipe.rest()).await, (30, String::new()));
}

/// An answer that says that it has no end lives while it is read, and for 10 s without that.
#[tokio::test(start_paused = true)]
async fn a_stream_lives_while_it_is_read() {
    let mut pipe = Pipe::new();
    pipe.send("GET /ticks HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut piece = [0; 512];
    for _ in 0..300 {
        assert_ne!(pipe.io.read(&mut piece).await.expect("still there"), 0);
    }
    // The pipe takes some more of it before it is full.
    let full_after = (PIPE_BYTES / 256) as u64;
    let (seconds, ended) = seconds(&mut pipe.server).await;
    ended.expect("ended in order");
    assert!((10..=11 + full_after).contains(&seconds), "{seconds}");
}

/// A client that closes its half after its request gets its answer.
#[tokio::test(start_paused = true)]
async fn a_half_closed_client_gets_its_answer() {
    let mut pipe = Pipe::new();
    pipe.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    pipe.io.shutdown().await.expect("shut down");
    assert!(pipe.rest().await.starts_with("HTTP/1.1 200 "));
}

/// Heads that two parties can read in two ways are refused, and so is what is not HTTP. Each body would be 201 under either
/// reading, if the head were taken (pitfalls P43).
#[tokio::test(start_paused = true)]
async fn heads_that_are_wrong_are_refused() {
    const BODY: &str = "5\r\nhello\r\n0\r\n\r\n";
    let long = "x".repeat(33 * 1024);
    let fields = "X: 1\r\n".repeat(64);
    for (fields, expected) in [
        ("Host: a\r\nContent-Length: 15\r\n", 201),
        ("Host: a\r\nTransfer-Encoding: chunked\r\n", 201),
        ("Host: a\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 15\r\n", 400),
        ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", 400),
        ("Host: a\r\nTransfer-Encoding: chunked, chunked\r\n", 400),
        ("Host: a\r\nTransfer-Encoding: identity, chunked\r\n", 400),
        ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Host: a\r\nContent-Length: 15\r\nContent-Length: 15\r\n", 400),
        ("Content-Length: 15\r\n", 400),
        ("Host: a b\r\nContent-Length: 15\r\n", 400),
        ("Host: u@a\r\nContent-Length: 15\r\n", 400),
        ("Host: a\r\nHost: a\r\nContent-Length: 15\r\n", 400),
        ("Host: a\r\nContent-Length: 15\r\nX: a\0b\r\n", 400),
        (&format!("Host: a\r\nContent-Length: 15\r\nX: {long}\r\n"), 431),
        (&format!("Host: a\r\nContent-Length: 15\r\n{fields}"), 431),
    ] {
        let pipe = Pipe::new();
        let (mut reads, mut writes) = tokio::io::split(pipe.io);
        let request = format!("POST /echo HTTP/1.1\r\n{fields}\r\n{BODY}");
        // It may be refused before everything was sent.
        let sending = tokio::spawn(async move {
            let _ = writes.write_all(request.as_bytes()).await;
            writes
        });
        let mut status = [0; 12];
        reads.read_exact(&mut status).await.expect("answered");
        assert_eq!(status[9..], *expected.to_string().as_bytes(), "{fields}");
        drop(sending);
    }
}

/// A refusal waits for the answers before it, and nothing behind it is answered.
#[tokio::test(start_paused = true)]
async fn a_refusal_waits_for_its_turn() {
    let mut pipe = Pipe::new();
    pipe.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(pipe.answer().await.0, 200);
    assert_eq!(pipe.answer().await.0, 400);
    assert_eq!(pipe.rest().await, "");
}

/// A body in a form that is not strict is not read to its end, and no request can hide in it.
#[tokio::test(start_paused = true)]
async fn nothing_hides_in_a_body_that_is_wrong() {
    let mut pipe = Pipe::new();
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    pipe.send(format!("{head}5\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let answers = pipe.rest().await;
    assert!(answers.starts_with("HTTP/1.1 400 ") && answers.matches("HTTP/1.1").count() == 1, "{answers}");
}

/// A stop finishes what is in progress, says so in the answer, and waits neither for streams nor for those that read nothing.
#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_honest_exchanges() {
    let mut slow = Pipe::new();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut stream = Pipe::new();
    stream.send("GET /ticks HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut stuck = Pipe::new();
    stuck.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let idle = Pipe::new();
    // It never acknowledges that it was told to go.
    let mut mute = Pipe::new();
    mute.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    sleep(Duration::from_millis(10)).await;
    for pipe in [&slow, &stream, &stuck, &idle, &mute] {
        pipe.stop.cancel();
    }
    let (status, text) = slow.answer().await;
    assert!(status == 200 && text.contains("connection: close\r\n"), "{text}");
    for (what, pipe, limit) in
        [("idle", idle, 0), ("stream", stream, 0), ("slow", slow, 1), ("stuck", stuck, 2), ("mute", mute, 2)]
    {
        let (seconds, ended) = seconds(pipe.server).await;
        ended.expect("ended in order");
        assert!(seconds <= limit, "{what}: {seconds}");
    }
}

/// A request that is on its way when the process is told to stop is answered, and the client told that it is the last.
#[tokio::test(start_paused = true)]
async fn a_request_on_its_way_at_a_stop_is_answered() {
    let mut pipe = Pipe::new();
    pipe.send(GET).await;
    assert_eq!(pipe.answer().await.0, 200);
    pipe.stop.cancel();
    sleep(Duration::from_millis(100)).await;
    pipe.send(GET).await;
    let (status, text) = pipe.answer().await;
    assert!(status == 200 && text.contains("connection: close"), "{text}");
    let (waited, rest) = seconds(pipe.rest()).await;
    assert_eq!((waited, rest.as_str()), (0, ""));
    pipe.server.await.expect("no panic");
}

/// A connection that the kernel has taken is served, though the process was told to stop before it looked.
#[tokio::test]
async fn a_connection_in_the_backlog_at_a_stop_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(GET).await.expect("sent");
    let stop = CancellationToken::new();
    stop.cancel();
    let server = Server { name: "test", limits: Limits::default(), tls: None, proxies: Vec::new() };
    let server = tokio::spawn(server.serve(listener, router(), stop));
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    server.await.expect("no panic");
}

/// HTTP/2 is spoken to whoever begins with it, within limits of streams and heads; a flood of resets ends the connection
/// (pitfalls P36).
#[tokio::test(start_paused = true)]
async fn http2_has_limits() {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let mut pipe = Pipe::new();
    pipe.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let (kind, settings) = frame(&mut pipe.io).await;
    assert_eq!(kind, SETTINGS);
    let setting = |id: u16| {
        let found = settings.chunks(6).find(|setting| setting[..2] == id.to_be_bytes()).expect("it is said");
        u32::from_be_bytes([found[2], found[3], found[4], found[5]])
    };
    // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE.
    assert_eq!([3, 4, 6].map(setting), [100, 64 * 1024, 32 * 1024]);

    let mut flood = Vec::new();
    for stream in (1..400_u32).step_by(2) {
        // HEADERS with END_HEADERS: GET, http, "/" and authority "a", by HPACK's static table; then RST_STREAM with CANCEL.
        flood.extend([0, 0, 6, 1, 4]);
        flood.extend(stream.to_be_bytes());
        flood.extend([0x82, 0x86, 0x84, 0x41, 1, b'a']);
        flood.extend([0, 0, 4, 3, 0]);
        flood.extend(stream.to_be_bytes());
        flood.extend(8_u32.to_be_bytes());
    }
    let (mut reads, mut writes) = tokio::io::split(pipe.io);
    let sending = tokio::spawn(async move {
        // Fails when the connection ends.
        let _ = writes.write_all(&flood).await;
        writes
    });
    let calmed = async {
        loop {
            let (kind, payload) = frame(&mut reads).await;
            if kind == GOAWAY {
                // The last stream, then the error code: ENHANCE_YOUR_CALM.
                return payload[4..8] == 11_u32.to_be_bytes();
            }
        }
    };
    assert!(timeout(Duration::from_secs(10), calmed).await.expect("it ends the connection"), "for the flood");
    drop(sending);
}

/// Ten thousand connections must fit into little memory.
#[tokio::test]
async fn a_connection_is_small() {
    let (_client, served) = duplex(PIPE_BYTES);
    let watch = Arc::new(Watch::new(Limits::default(), Instant::now()));
    let session = Pipe::session(watch.clone(), CancellationToken::new());
    let size = size_of_val(&session.run(Socket::new(served, watch)));
    assert!(size <= 6 * 1024, "{size} bytes");
}

/// What a client does not read waits here, not in the kernel: one that asks a lot and reads nothing is soon answered no more.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_reads_nothing_is_soon_answered_no_more() {
    let (address, stop, _server) = port(Limits::default(), None).await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("set");
    let mut client = socket.connect(address).await.expect("connected");
    let requests = GET.repeat(100);
    // Until it is not read any more.
    while timeout(Duration::from_secs(1), client.write(&requests)).await.is_ok() {}
    stop.cancel();
    let mut answers = Vec::new();
    // Reset or not, what was stored comes first.
    let _ = timeout(Duration::from_secs(10), client.read_to_end(&mut answers)).await;
    assert!(answers.len() < 512 * 1024, "{} bytes were stored", answers.len());
}

/// A client that reads nothing is let go although its answers are so few that the kernel stores all of them: after the time that it has,
/// not for another reason.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_reads_nothing_of_a_few_answers_is_let_go() {
    async fn let_go_after(stall_time: Duration) {
        let (address, _stop, _server) = port(Limits { stall_time, ..Limits::default() }, None).await;
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(2_048).expect("set");
        let mut client = socket.connect(address).await.expect("connected");
        client.write_all(&GET.repeat(200)).await.expect("sent");
        // A blank line before a request is nothing.
        while client.write_all(b"\r\n").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    }
    let first = async || {
        tokio::select! {
            () = let_go_after(Duration::from_secs(1)) => "the impatient port",
            () = let_go_after(Duration::from_secs(600)) => "the patient port",
        }
    };
    // The kernel's time begins anew where the client's window is a little open when it stops reading, which is seldom (docs/gaps.md).
    for _ in 0..5 {
        if let Ok(first) = timeout(Duration::from_secs(15), first()).await {
            return assert_eq!(first, "the impatient port");
        }
    }
    panic!("it is never closed");
}

/// Over HTTP/2 a client is told before its idle connection is closed.
#[tokio::test(start_paused = true)]
async fn http2_is_told_before_an_idle_close() {
    const GOAWAY: u8 = 7;
    let mut pipe = Pipe::new();
    pipe.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let told = async { while frame(&mut pipe.io).await.0 != GOAWAY {} };
    assert_eq!(seconds(told).await.0, 75);
    let (seconds, ended) = seconds(pipe.server).await;
    ended.expect("ended in order");
    assert!(seconds <= 1, "{seconds}");
}

async fn frame(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.expect("a frame");
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    io.read_exact(&mut payload).await.expect("a whole frame");
    (head[3], payload)
}

/// A port of the loopback with these limits.
async fn port(limits: Limits, tls: Option<Tls>) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    port_behind(&[], limits, tls).await
}

/// The same behind proxies.
async fn port_behind(
    proxies: &[&str],
    limits: Limits,
    tls: Option<Tls>,
) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let proxies = proxies.iter().map(|network| network.parse().expect("a network")).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let server = Server { name: "test", limits, tls, proxies };
    (address, stop.clone(), tokio::spawn(server.serve(listener, router(), stop)))
}

/// Sends a request on a new connection and reads until it is closed.
async fn ask(address: SocketAddr) -> String {
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answered");
    answer + &client.local_addr().expect("connected").to_string()
}

/// Each request carries the address of its client, answers have a date, and a stop ends the server.
#[tokio::test]
async fn a_request_carries_the_address_of_its_client() {
    let (address, stop, server) = port(Limits::default(), None).await;
    for _ in 0..2 {
        let answer = ask(address).await;
        let (answer, own) = answer.split_at(answer.rfind("127.0.0.1:").expect("an address"));
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\ndate: "), "{answer}");
        assert!(answer.ends_with(own), "{own} in {answer}");
    }
    stop.cancel();
    server.await.expect("ended in order");
}

/// An address that has its share is told so, instead of being left to wait; its places are free again when they are given back.
#[tokio::test]
async fn an_address_that_has_its_share_is_told_so() {
    let limits = Limits { connections_per_address_max: 2, ..Limits::default() };
    let (address, _stop, _server) = port(limits, None).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(address).await.expect("connected");
        client.write_all(GET).await.expect("sent");
        // It is answered, so it has its place.
        client.read_exact(&mut [0; 12]).await.expect("answered");
        held.push(client);
    }
    let answer = ask(address).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many connections"), "{answer}");
    drop(held);
    for attempt in 0.. {
        if ask(address).await.starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(attempt < 1_000, "places are not free again");
        tokio::task::yield_now().await;
    }
}

/// When all places are taken, a silent one is closed for a new one; one that handles a request is not.
#[tokio::test]
async fn a_silent_one_is_closed_for_a_new_one() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let (address, _stop, _server) = port(limits, None).await;
    let mut busy = TcpStream::connect(address).await.expect("connected");
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
    let mut silent = TcpStream::connect(address).await.expect("connected");
    let answer = ask(address).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(silent.read(&mut [0; 1]).await.expect("closed"), 0);
    busy.read_exact(&mut [0; 12]).await.expect("answered all the same");
}

/// TLS on the loopback: HTTP/1.1 and HTTP/2; a certificate that changes is used from the next connection on, and files that don't
/// fit together change nothing.
#[tokio::test]
async fn the_certificate_of_the_port_changes_while_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = TlsConfig { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
    let issue = || {
        let made = rcgen::generate_simple_self_signed(["edge.example".to_owned()]).expect("generated");
        (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().clone())
    };
    let write = |certificate: &str, key: &str| {
        std::fs::write(&config.certificate, certificate).expect("written");
        std::fs::write(&config.key, key).expect("written");
    };
    let (first, second) = (issue(), issue());
    write(&first.0, &first.1);
    let tls = Tls::load(config.clone()).expect("loaded");
    let (address, _stop, _server) = port(Limits::default(), Some(tls.clone())).await;

    let old = secure(address, &first.2, b"http/1.1").await.expect("served");
    assert!(secure(address, &second.2, b"http/1.1").await.is_none(), "it is not there yet");
    // A key that is not the certificate's: half of a rotation.
    write(&second.0, &first.1);
    tls.reload().expect_err("refused");
    assert!(secure(address, &first.2, b"h2").await.is_some(), "the old one is still in use");
    write(&second.0, &second.1);
    assert_eq!(tls.reload().expect("loaded"), crate::reload::Reload::Swapped);
    assert!(secure(address, &second.2, b"h2").await.is_some(), "the new one is in use");
    assert!(secure(address, &first.2, b"h2").await.is_none());
    // The connection that was open is not affected.
    let mut old = old;
    old.write_all(b"GET / HTTP/1.1\r\nHost: edge.example\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    old.read_to_end(&mut answer).await.expect("answered");
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

/// A connection to a server that must have this very certificate.
async fn secure(
    address: SocketAddr,
    certificate: &rustls::pki_types::CertificateDer<'static>,
    protocol: &[u8],
) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await.expect("connected");
    secure_over(tcp, certificate, protocol).await
}

/// The same over a connection that is there.
async fn secure_over(
    tcp: TcpStream,
    certificate: &rustls::pki_types::CertificateDer<'static>,
    protocol: &[u8],
) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).expect("added");
    let mut config = rustls::ClientConfig::builder_with_provider(crate::identity::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("offered")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = rustls::pki_types::ServerName::try_from("edge.example").expect("a name");
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(protocol));
    Some(tls)
}

/// Sends a request on a new connection, with `before` in front of it, and reads until it is closed.
async fn ask_as(address: SocketAddr, before: &[u8]) -> String {
    let mut client = TcpStream::connect(address).await.expect("connected");
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(&[before, request].concat()).await.expect("sent");
    let mut answer = Vec::new();
    // Closed or reset, it is over.
    let _ = client.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("text")
}

/// Behind a proxy that says so, a connection is its client's, and each client has its share; the proxy itself has no cap.
#[tokio::test]
async fn a_proxy_says_whose_a_connection_is() {
    let limits = Limits { connections_per_address_max: 1, ..Limits::default() };
    let (address, _stop, _server) = port_behind(&["127.0.0.0/8"], limits, None).await;
    let alice = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n";
    let answer = ask_as(address, alice).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("192.0.2.7:4711"), "{answer}");
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\x0a\0\0\x01\x12\x67\x01\xbb";
    let answer = ask_as(address, binary).await;
    assert!(answer.ends_with("192.0.2.8:4711"), "{answer}");
    // The proxy itself, as for its own checks.
    let answer = ask_as(address, b"PROXY UNKNOWN\r\n").await;
    assert!(answer.contains("127.0.0.1:"), "{answer}");

    let bob = b"PROXY TCP4 192.0.2.9 10.0.0.1 4711 443\r\n";
    let mut held = TcpStream::connect(address).await.expect("connected");
    held.write_all(&[bob, GET].concat()).await.expect("sent");
    held.read_exact(&mut [0; 12]).await.expect("answered");
    let answer = ask_as(address, bob).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many connections"), "{answer}");
    let carol = b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n";
    let answer = ask_as(address, carol).await;
    assert!(answer.ends_with("[2001:db8::7]:4711"), "others have shares of their own: {answer}");
}

/// With TLS it says so before the handshake.
#[tokio::test]
async fn an_introduction_comes_before_the_handshake() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = TlsConfig { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
    let made = rcgen::generate_simple_self_signed(["edge.example".to_owned()]).expect("generated");
    std::fs::write(&config.certificate, made.cert.pem()).expect("written");
    std::fs::write(&config.key, made.signing_key.serialize_pem()).expect("written");
    let tls = Tls::load(config).expect("loaded");
    let (address, _stop, _server) = port_behind(&["127.0.0.0/8"], Limits::default(), Some(tls)).await;
    let mut tcp = TcpStream::connect(address).await.expect("connected");
    tcp.write_all(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n").await.expect("sent");
    let mut client = secure_over(tcp, made.cert.der(), b"http/1.1").await.expect("served");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("192.0.2.7:4711"), "{answer}");
}

/// A trusted proxy whose connection does not begin with a header is not served; from anybody else a header is nonsense, and gains
/// nothing.
#[tokio::test]
async fn a_forged_introduction_gains_nothing() {
    let (address, _stop, _server) = port_behind(&["127.0.0.0/8"], Limits::default(), None).await;
    assert_eq!(ask_as(address, b"").await, "");
    assert_eq!(ask_as(address, b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n").await, "");
    let (address, _stop, _server) = port_behind(&["10.0.0.0/8"], Limits::default(), None).await;
    let answer = ask_as(address, b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let answer = ask_as(address, b"").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("127.0.0.1:"), "{answer}");
}

/// A proxy that never says whose connection it is loses it when the time for a head is over.
#[tokio::test(start_paused = true)]
async fn an_introduction_has_five_seconds() {
    let (address, _stop, _server) = port_behind(&["127.0.0.0/8"], Limits::default(), None).await;
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(b"PROXY TCP4 ").await.expect("sent");
    let (waited, closed) = seconds(async { client.read(&mut [0; 1]).await }).await;
    assert_eq!((waited, closed.expect("closed, not reset")), (5, 0));
}
