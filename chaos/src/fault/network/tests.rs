//! Each condition, against a server that sends back what it gets.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use super::{Condition, Direction, Proxy};

const PATIENCE: Duration = Duration::from_secs(20);
/// What has not come by then is taken as held back. A test that fails to see a leak in it is not wrong otherwise.
const SILENCE: Duration = Duration::from_millis(100);
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A server, the proxy before it, and how many connections the server has accepted and still has.
struct Scene {
    proxy: Proxy,
    accepted: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

impl Scene {
    async fn new() -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.expect("a port");
        let target = listener.local_addr().expect("bound");
        let (accepted, open) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (counted, opened) = (accepted.clone(), open.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                opened.fetch_add(1, Ordering::SeqCst);
                let opened = opened.clone();
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    // Ends with the connection, in order or not.
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    opened.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let proxy = Proxy::bind(LOOPBACK, target).await.expect("a port");
        Self { proxy, accepted, open }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy.address()).await.expect("accepted")
    }

    /// A connection that has worked.
    async fn working(&self) -> TcpStream {
        let mut stream = self.connect().await;
        assert_eq!(round_trip(&mut stream, b"hello").await.expect("answered"), b"hello");
        stream
    }

    /// Waits until the counters are as they should be.
    async fn counted(&self, what: &str, condition: impl Fn(&super::Counters) -> bool) {
        until(what, || condition(&self.proxy.counters())).await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never came true: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn receive(stream: &mut TcpStream, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    timeout(PATIENCE, stream.read_exact(&mut buffer)).await.expect("in time")?;
    Ok(buffer)
}

async fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    receive(stream, bytes.len()).await
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read(&mut [0; 16])).await.is_err()
}

/// Whether a new connection is reset after it was accepted, which may be before the client has seen that it was.
async fn is_reset_when_new(proxy: &Proxy) -> bool {
    match TcpStream::connect(proxy.address()).await {
        Ok(stream) => is_reset(stream).await,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

async fn is_reset(mut stream: TcpStream) -> bool {
    let read = timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("in time");
    read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// Different at each place, so that a gap or a swap is seen.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at * 7 % 251).expect("below 251")).collect()
}

/// Without a fault everything passes, the end of a side too; a server that is away is a reset.
#[tokio::test]
async fn clear_passes_everything() {
    let scene = Scene::new().await;
    let mut client = scene.working().await;
    let sent = pattern(300_000);
    let (mut reader, mut writer) = client.split();
    let (written, read) = tokio::join!(
        async {
            writer.write_all(&sent).await?;
            writer.shutdown().await
        },
        async {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.map(|_| all)
        }
    );
    written.expect("sent");
    assert!(read.expect("to the end") == sent);
    let counters = scene.proxy.counters();
    assert_eq!((counters.connections, counters.connections_reset), (1, 0));
    assert_eq!((counters.bytes_to_server, counters.bytes_to_client), (300_005, 300_005));
    assert_eq!((counters.bytes_held, counters.bytes_delayed, counters.bytes_corrupted), (0, 0, 0));

    let nobody = TcpListener::bind(LOOPBACK).await.expect("a port").local_addr().expect("bound");
    let proxy = Proxy::bind(LOOPBACK, nobody).await.expect("a port");
    assert!(is_reset_when_new(&proxy).await);
}

/// Each direction is later by the delay, but what follows closely does not wait for what is before it.
#[tokio::test]
async fn latency_delays_both_ways() {
    const DELAY: Duration = Duration::from_millis(150);
    const PINGS: u8 = 30;
    let scene = Scene::new().await;
    let mut client = scene.working().await;
    let timed = async |client: &mut TcpStream| {
        let begin = Instant::now();
        round_trip(client, b"ping").await.expect("answered");
        begin.elapsed()
    };
    let mut before = Duration::MAX;
    for _ in 0..10 {
        before = before.min(timed(&mut client).await);
    }
    scene.proxy.set(Condition::Latency { delay: DELAY, jitter: Duration::from_millis(10) });
    assert!(timed(&mut client).await >= before.max(DELAY * 2), "{before:?} before");
    let begin = Instant::now();
    for number in 0..PINGS {
        client.write_all(&[number]).await.expect("sent");
        sleep(Duration::from_millis(1)).await;
    }
    let answers = receive(&mut client, usize::from(PINGS)).await.expect("answered");
    assert_eq!(answers, (0..PINGS).collect::<Vec<_>>());
    assert!(begin.elapsed() < DELAY * u32::from(PINGS), "one by one it would take longer");
    assert_eq!(scene.proxy.counters().bytes_delayed, 2 * (4 + u64::from(PINGS)));

    // What is on its way when the link is healed arrives at once.
    scene.proxy.set(Condition::Latency { delay: PATIENCE * 10, jitter: Duration::ZERO });
    client.write_all(b"late").await.expect("sent");
    assert!(is_silent(&mut client).await);
    scene.proxy.set(Condition::Clear);
    assert_eq!(receive(&mut client, 4).await.expect("answered"), b"late");
}

/// What exists is reset, on both sides, and what is new too; also if the condition is over before anybody has looked.
#[tokio::test]
async fn reset_resets_what_exists_and_what_is_new() {
    let scene = Scene::new().await;
    let client = scene.working().await;
    scene.proxy.set(Condition::Reset);
    assert!(is_reset(client).await);
    assert!(is_reset_when_new(&scene.proxy).await);
    until("the server has lost it", || scene.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(scene.accepted.load(Ordering::SeqCst), 1, "the new one never came to the server");
    assert_eq!(scene.proxy.counters().connections_reset, 2);
    scene.proxy.set(Condition::Clear);
    let client = scene.working().await;
    scene.proxy.set(Condition::Reset);
    scene.proxy.set(Condition::Clear);
    assert!(is_reset(client).await);
    scene.working().await;
}

/// Nothing passes, and memory is bounded; then everything passes, without a gap.
#[tokio::test]
async fn a_black_hole_holds_back_and_loses_nothing() {
    const SENT_BYTES: usize = 20 * 1024 * 1024;
    let scene = Scene::new().await;
    let client = scene.working().await;
    let passed = scene.proxy.counters();
    scene.proxy.set(Condition::BlackHole);
    let (mut reader, mut writer) = client.into_split();
    // More than all buffers on the way: sending stands still.
    let sending = tokio::spawn(async move { writer.write_all(&pattern(SENT_BYTES)).await });
    scene.counted("bytes are held back", |counters| counters.bytes_held >= 128 * 1024).await;
    assert!(timeout(SILENCE, reader.read(&mut [0; 16])).await.is_err());

    let mut new = scene.connect().await;
    new.write_all(b"new").await.expect("sent");
    assert!(is_silent(&mut new).await);
    drop(scene.connect().await);
    scene.counted("all were accepted", |counters| counters.connections == 3).await;
    assert_eq!(scene.accepted.load(Ordering::SeqCst), 1, "the server sees none of the new ones");
    let seen = scene.proxy.counters().since(&passed);
    assert_eq!((seen.bytes_to_server, seen.bytes_to_client), (0, 0));
    assert!(seen.bytes_held < 256 * 1024, "{seen:?}");
    assert!(!sending.is_finished());

    scene.proxy.set(Condition::Clear);
    let mut received = vec![0; SENT_BYTES];
    timeout(PATIENCE, reader.read_exact(&mut received)).await.expect("in time").expect("whole");
    assert!(received == pattern(SENT_BYTES));
    sending.await.expect("no panic").expect("sent");
    assert_eq!(receive(&mut new, 3).await.expect("answered"), b"new");
}

/// That a side has gone is not told either.
#[tokio::test]
async fn a_black_hole_tells_nobody_that_a_side_has_gone() {
    let scene = Scene::new().await;
    let (closed, broken) = (scene.working().await, scene.working().await);
    scene.proxy.set(Condition::BlackHole);
    broken.set_zero_linger().expect("set");
    drop((closed, broken));
    sleep(SILENCE).await;
    assert_eq!(scene.open.load(Ordering::SeqCst), 2);
    scene.proxy.set(Condition::Clear);
    until("the server has heard it", || scene.open.load(Ordering::SeqCst) == 0).await;
}

/// One direction is held back, the other is not.
#[tokio::test]
async fn one_way_holds_back_one_direction() {
    for blocked in [Direction::ToServer, Direction::ToClient] {
        let scene = Scene::new().await;
        let mut client = scene.working().await;
        let before = scene.proxy.counters();
        scene.proxy.set(Condition::OneWay(blocked));
        client.write_all(b"request").await.expect("sent");
        scene.counted("held back", |counters| counters.bytes_held == 7).await;
        assert!(is_silent(&mut client).await);
        let passed = scene.proxy.counters().since(&before);
        let to_server = if blocked == Direction::ToServer { 0 } else { 7 };
        assert_eq!((passed.bytes_to_server, passed.bytes_to_client), (to_server, 0), "{blocked:?}");
        scene.proxy.set(Condition::Clear);
        assert_eq!(receive(&mut client, 7).await.expect("answered"), b"request");
    }
}

/// The server loses what exists, the client hears nothing and talks to nobody; new connections work.
#[tokio::test]
async fn half_open_connections_are_silent() {
    let scene = Scene::new().await;
    let mut client = scene.working().await;
    scene.proxy.set(Condition::HalfOpen);
    until("the server has lost it", || scene.open.load(Ordering::SeqCst) == 0).await;
    client.write_all(b"anybody there?").await.expect("sent");
    scene.counted("dropped", |counters| counters.bytes_dropped == 14).await;
    assert!(is_silent(&mut client).await);
    let mut new = scene.working().await;
    assert_eq!(scene.proxy.counters().connections_half_open, 1);
    scene.proxy.set(Condition::Clear);
    assert!(is_reset(client).await);
    round_trip(&mut new, b"still there").await.expect("answered");
}

/// Bytes take the time that the rate gives them, whole and in order.
#[tokio::test]
async fn throttled_bytes_trickle() {
    let scene = Scene::new().await;
    let mut client = scene.working().await;
    scene.proxy.set(Condition::Throttle { bytes_per_second: NonZeroU64::new(20_000).expect("not 0") });
    let sent = pattern(5_000);
    let begin = Instant::now();
    assert!(round_trip(&mut client, &sent).await.expect("answered") == sent);
    // The first share of a second's bytes goes at once.
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    assert_eq!(scene.proxy.counters().bytes_delayed, 10_000);
}

/// Some bits are flipped, and nothing is added or lost.
#[tokio::test]
async fn corruption_flips_bits() {
    let scene = Scene::new().await;
    let mut client = scene.working().await;
    scene.proxy.set(Condition::Corrupt);
    let sent = pattern(50_000);
    let received = round_trip(&mut client, &sent).await.expect("answered");
    let changed = sent.iter().zip(&received).filter(|(sent, received)| sent != received).count() as u64;
    let corrupted = scene.proxy.counters().bytes_corrupted;
    // A bit that was flipped on both ways is as it was.
    assert!((1..=corrupted).contains(&changed) && corrupted >= 12, "{changed} of {corrupted}");
    scene.proxy.set(Condition::Clear);
    assert!(round_trip(&mut client, &sent).await.expect("answered") == sent);
}

/// A proxy that is dropped listens no more, and its connections end, whatever their condition.
#[tokio::test]
async fn nothing_outlives_its_proxy() {
    for condition in [Condition::Clear, Condition::BlackHole, Condition::HalfOpen] {
        let scene = Scene::new().await;
        let mut client = scene.working().await;
        scene.proxy.set(condition);
        let Scene { proxy, open, .. } = scene;
        let address = proxy.address();
        drop(proxy);
        let read = timeout(PATIENCE, client.read(&mut [0; 16])).await.expect("in time");
        assert!(read.is_err() || read.is_ok_and(|bytes| bytes == 0), "{condition:?}");
        until("the server has lost it", || open.load(Ordering::SeqCst) == 0).await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
