//! Sockets that are silent, slow, too many, or never read.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{PACE, attacker, turn};
use crate::{
    gateway::Server,
    http::{self, exchange},
    row::{Finding, Stop},
};

const CALL: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
/// A client that waits for a place sees when it is closed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `count` heads of which a byte comes each half second.
pub(crate) async fn trickling_heads(server: Arc<Server>, stop: Stop, count: usize) -> Result<Finding> {
    trickling_from(server, stop, 0, count).await
}

async fn trickling_from(server: Arc<Server>, stop: Stop, first: usize, count: usize) -> Result<Finding> {
    let longest_ms = Arc::new(AtomicU64::new(0));
    let mut slow = JoinSet::new();
    for nth in 0..count {
        let trickling = trickle(server.clone(), first + nth, stop.clone(), longest_ms.clone());
        slow.spawn(async move {
            turn(nth).await;
            trickling.await;
        });
    }
    slow.join_all().await;
    let longest = Duration::from_millis(longest_ms.load(Ordering::Relaxed)).as_secs_f64();
    Ok(Finding { said: format!("the longest head lived {longest:.1} s"), is_met: longest <= 6.0 })
}

async fn trickle(server: Arc<Server>, socket: usize, stop: Stop, longest_ms: Arc<AtomicU64>) {
    while !stop.is_set() {
        let Ok(mut slow) = server.connect(attacker(socket)).await else { continue };
        if slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await.is_err() {
            continue;
        }
        let (begin, mut answer) = (Instant::now(), [0; 512]);
        // It ends with an answer or a reset.
        while timeout(LOOK_EVERY, slow.read(&mut answer)).await.is_err() && !stop.is_set() {
            let _ = slow.write_all(b"x").await;
        }
        longest_ms.fetch_max(milliseconds(begin), Ordering::Relaxed);
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// `count` sockets that say nothing, and are opened again when they are closed.
pub(crate) async fn silent(server: Arc<Server>, stop: Stop, count: usize) -> Result<Finding> {
    let opened = Arc::new(AtomicUsize::new(0));
    let mut sockets = JoinSet::new();
    for socket in 0..count {
        let (server, stop, opened) = (server.clone(), stop.clone(), opened.clone());
        sockets.spawn(async move {
            turn(socket).await;
            while !stop.is_set() {
                let Ok(mut silent) = server.connect(attacker(socket)).await else { continue };
                opened.fetch_add(1, Ordering::Relaxed);
                let mut answer = [0; 512];
                while timeout(LOOK_EVERY, silent.read(&mut answer)).await.is_err() && !stop.is_set() {}
            }
        });
    }
    sockets.join_all().await;
    Ok(Finding { said: format!("{} were opened", opened.load(Ordering::Relaxed)), is_met: true })
}

/// `idle` sockets, half of which have made a request, and `slow` heads that trickle.
pub(crate) async fn idle_and_trickling(
    server: Arc<Server>,
    stop: Stop,
    idle: usize,
    slow: usize,
) -> Result<Finding> {
    let before = server.megabytes();
    let mut sockets = Vec::new();
    for socket in 0..idle {
        let mut connection = server.connect(attacker(socket)).await?;
        if socket % 2 == 0 {
            exchange(&mut connection, CALL).await?;
        }
        sockets.push(connection);
        sleep(PACE).await;
    }
    let opened = Instant::now();
    let enough = Stop::default();
    let trickling = trickling_from(server.clone(), enough.clone(), idle, slow);
    let memory = async {
        sleep(Duration::from_secs(6)).await;
        let memory = server.megabytes();
        // The idle ones would be closed for their silence after 75 s.
        // Opening them may have taken the whole phase.
        while (!stop.is_set() || opened.elapsed() < Duration::from_secs(30))
            && opened.elapsed() < Duration::from_secs(60)
        {
            sleep(LOOK_EVERY).await;
        }
        enough.set();
        memory
    };
    let (trickling, memory) = tokio::join!(trickling, memory);
    for socket in sockets {
        drop(socket);
        sleep(PACE).await;
    }
    let Finding { said, is_met } = trickling?;
    let more = memory.saturating_sub(before);
    Ok(Finding { said: format!("{said}; +{more} MB (at most 128)"), is_met: is_met && more <= 128 })
}

/// `count` sockets of one address, each of which asks whether it is served.
pub(crate) async fn of_one_address(server: Arc<Server>, stop: Stop, count: usize) -> Result<Finding> {
    let mut asking = JoinSet::new();
    for nth in 0..count {
        let server = server.clone();
        asking.spawn(async move {
            turn(nth).await;
            let mut socket = server.connect(Ipv4Addr::new(127, 0, 9, 1)).await.ok()?;
            // Those without a place are told so, or closed; the rest wait.
            let answer = timeout(Duration::from_secs(4), http::read(&mut socket)).await;
            answer.is_err().then_some(socket)
        });
    }
    let held: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    while !stop.is_set() {
        sleep(LOOK_EVERY).await;
    }
    Ok(Finding { said: format!("{} of {count} got a place", held.len()), is_met: held.len() <= 256 })
}

/// `count` sockets that ask for a large page again and again, and never read.
pub(crate) async fn never_reading(server: Arc<Server>, stop: Stop, count: usize) -> Result<Finding> {
    let (closed, longest_ms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let mut greedy = JoinSet::new();
    for socket in 0..count {
        let (server, closed, longest_ms) = (server.clone(), closed.clone(), longest_ms.clone());
        greedy.spawn(async move {
            turn(socket).await;
            let Ok(mut connection) = narrow(attacker(socket), server.address).await else { return };
            let begin = Instant::now();
            // Ends when the connection is reset: it is never read.
            while connection.write_all(&CALL.repeat(100)).await.is_ok() {}
            closed.fetch_add(1, Ordering::Relaxed);
            longest_ms.fetch_max(milliseconds(begin), Ordering::Relaxed);
        });
    }
    let begin = Instant::now();
    // Refusals of an address are paced, so some of its sockets get their first ones late.
    while (!stop.is_set() || begin.elapsed() < Duration::from_secs(40)) && !greedy.is_empty() {
        let _ = timeout(LOOK_EVERY, greedy.join_next()).await;
    }
    let (closed, longest_ms) = (closed.load(Ordering::Relaxed), longest_ms.load(Ordering::Relaxed));
    let longest = Duration::from_millis(longest_ms).as_secs_f64();
    Ok(Finding {
        said: format!("{closed} of {count} were closed, the last after {longest:.1} s"),
        is_met: closed == count,
    })
}

/// A connection that can take in very little.
async fn narrow(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(2_048)?;
    // What waits here costs the attacker's machine, which is ours too.
    socket.set_send_buffer_size(16 * 1_024)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    Ok(timeout(crate::gateway::PATIENCE, TcpSocket::from_std_stream(socket.into()).connect(to)).await??)
}

/// A thousand connects a second, each closed at once.
pub(crate) async fn opened_and_closed(server: Arc<Server>, stop: Stop) -> Result<Finding> {
    let begin = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let (mut count, mut connects) = (0, JoinSet::new());
    while !stop.is_set() {
        tick.tick().await;
        for _ in 0..10 {
            let server = server.clone();
            connects.spawn(async move { server.connect(attacker(count % 2_000)).await.map(drop) });
            count += 1;
        }
        while connects.try_join_next().is_some() {}
    }
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    Ok(Finding { said: format!("{rate:.0} connects a second"), is_met: true })
}

/// A stream of events that nobody reads: for [`super::stop`].
pub(crate) async fn unread_stream(server: &Server, from: Ipv4Addr, token: &str) -> Result<TcpStream> {
    let mut stream = narrow(from, server.address).await?;
    stream.write_all(&http::get("/api/orders/events", token)).await?;
    Ok(stream)
}

/// A socket that asks a lot and reads nothing.
pub(crate) async fn unread_answers(server: &Server, from: Ipv4Addr) -> Result<TcpStream> {
    let mut stream = narrow(from, server.address).await?;
    let calls = CALL.repeat(2_000);
    let _ = timeout(Duration::from_millis(100), stream.write_all(&calls)).await;
    Ok(stream)
}
