//! One connection through a proxy.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Condition, Direction,
    counters::add,
    proxy::{Setting, Shared},
};

/// Bytes of one direction that wait to be passed on, in this many pieces; what is more waits in the sender's socket.
const WAITING_BYTES_MAX: usize = 128 * 1024;
const WAITING_PIECES_MAX: usize = 1024;
const READ_BYTES_MAX: usize = 16 * 1024;
/// A flipped bit is at most this many bytes behind the last one.
const FLIP_WITHIN_BYTES: usize = 8 * 1024;
/// A throttled direction passes on as much as it may in this part of a second, and pauses.
const THROTTLE_PER_SECOND: u64 = 20;
/// A server that accepts no connection is as one that is gone.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Why a connection ends.
enum Ending {
    /// Both sides have closed it, or the client has before the server knew of it.
    Closed,
    /// A side has reset it, or can't be reached.
    Broken,
    /// [`Condition::Reset`].
    Reset,
    /// [`Condition::HalfOpen`].
    HalfOpen,
}

/// Carries a connection from its first byte to its last.
pub(super) async fn serve(mut client: TcpStream, target: SocketAddr, shared: Arc<Shared>) {
    shared.counting.connections.fetch_add(1, Ordering::Relaxed);
    let begun = *shared.setting.borrow();
    if begun.condition == Condition::Reset {
        return reset_by_condition(client, &shared);
    }
    let mut server = None;
    let ending = tokio::select! {
        ending = carry(&mut client, &mut server, target, &shared) => ending,
        ending = until_cut(begun, &shared) => ending,
    };
    match ending {
        Ending::Closed => {}
        Ending::Broken => {
            // The other side can't hear of it before.
            let mut settings = shared.setting.subscribe();
            let _ = settings.wait_for(|setting| setting.condition.lets_all_pass()).await;
            reset(client);
            server.into_iter().for_each(reset);
        }
        Ending::Reset => {
            reset_by_condition(client, &shared);
            server.into_iter().for_each(reset);
        }
        Ending::HalfOpen => {
            shared.counting.connections_half_open.fetch_add(1, Ordering::Relaxed);
            server.into_iter().for_each(reset);
            swallow(client, &shared).await;
        }
    }
}

/// Until a condition is set that cuts the connections that exist.
async fn until_cut(begun: Setting, shared: &Shared) -> Ending {
    let mut settings = shared.setting.subscribe();
    let cut = settings.wait_for(|now| now.resets != begun.resets || now.half_opens != begun.half_opens).await;
    match cut {
        Ok(now) if now.resets == begun.resets => Ending::HalfOpen,
        _ => Ending::Reset,
    }
}

/// Closes with RST instead of FIN.
fn reset(stream: TcpStream) {
    // Fails only if the peer has reset it.
    let _ = stream.set_zero_linger();
    drop(stream);
}

fn reset_by_condition(client: TcpStream, shared: &Shared) {
    shared.counting.connections_reset.fetch_add(1, Ordering::Relaxed);
    reset(client);
}

/// Lets a client send to nobody until the condition changes, or it gives up.
async fn swallow(mut client: TcpStream, shared: &Shared) {
    let mut settings = shared.setting.subscribe();
    let mut buffer = vec![0; READ_BYTES_MAX];
    loop {
        tokio::select! {
            _ = settings.wait_for(|setting| setting.condition != Condition::HalfOpen) => break,
            read = client.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(bytes) => add(&shared.counting.bytes_dropped, bytes),
            },
        }
    }
    reset_by_condition(client, shared);
}

/// Connects to the server, left in `server`, and passes on what either side sends.
async fn carry(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    target: SocketAddr,
    shared: &Shared,
) -> Ending {
    let _ = client.set_nodelay(true);
    let (mut from_client, to_client) = client.split();
    let mut there = Pump::new(Direction::ToServer, shared);
    if there.collect_while_blocked(&mut from_client).await.is_err() {
        return Ending::Closed;
    }
    let Ok(Ok(connected)) = timeout(CONNECT_TIME_MAX, TcpStream::connect(target)).await else {
        return Ending::Broken;
    };
    let _ = connected.set_nodelay(true);
    let (from_server, to_server) = server.insert(connected).split();
    let back = Pump::new(Direction::ToClient, shared);
    match tokio::try_join!(there.run(from_client, to_server), back.run(from_server, to_client)) {
        Ok(_) => Ending::Closed,
        Err(_) => Ending::Broken,
    }
}

/// Some bytes that wait to be passed on.
struct Piece {
    bytes: Bytes,
    due: Instant,
}

/// One direction of a connection: what is read waits here until it may be written.
struct Pump<'a> {
    direction: Direction,
    shared: &'a Shared,
    settings: watch::Receiver<Setting>,
    buffer: BytesMut,
    waiting: VecDeque<Piece>,
    waiting_bytes: usize,
    /// When a throttled direction may go on.
    resumes: Instant,
    flip_in: usize,
}

impl<'a> Pump<'a> {
    fn new(direction: Direction, shared: &'a Shared) -> Self {
        Self {
            direction,
            shared,
            settings: shared.setting.subscribe(),
            buffer: BytesMut::zeroed(READ_BYTES_MAX),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            resumes: Instant::now(),
            flip_in: fastrand::usize(..FLIP_WITHIN_BYTES),
        }
    }

    fn has_room(&self) -> bool {
        self.waiting_bytes < WAITING_BYTES_MAX && self.waiting.len() < WAITING_PIECES_MAX
    }

    /// Reads, but writes nothing, until the direction is open. An error if the sender has gone before.
    async fn collect_while_blocked(&mut self, from: &mut ReadHalf<'_>) -> io::Result<()> {
        loop {
            let condition = self.settings.borrow_and_update().condition;
            if condition.lets_pass(self.direction) {
                return Ok(());
            }
            let has_room = self.has_room();
            tokio::select! {
                _ = self.settings.changed() => {}
                read = from.read(&mut self.buffer), if has_room => match read? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    bytes => self.take_in(bytes, condition),
                },
            }
        }
    }

    /// Passes on until the sender has closed its side and the receiver has got everything. An error if either has reset it.
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut sender_is_open = true;
        loop {
            let condition = self.settings.borrow_and_update().condition;
            let passes = condition.lets_pass(self.direction);
            if passes && !sender_is_open && self.waiting.is_empty() {
                return to.shutdown().await;
            }
            let has_room = self.has_room();
            tokio::select! {
                _ = self.settings.changed() => {}
                read = from.read(&mut self.buffer), if sender_is_open && has_room => match read? {
                    0 => sender_is_open = false,
                    bytes => self.take_in(bytes, condition),
                },
                written = write_part(self.waiting.front(), self.resumes, &mut to, condition),
                    if passes && !self.waiting.is_empty() => self.has_written(written?, condition),
            }
        }
    }

    /// Has the first bytes of the buffer wait.
    fn take_in(&mut self, bytes: usize, condition: Condition) {
        if condition == Condition::Corrupt {
            self.flip_bits(bytes);
        }
        if !condition.lets_pass(self.direction) {
            add(&self.shared.counting.bytes_held, bytes);
        }
        // A copy: a piece of one byte must not hold a whole buffer.
        let piece = Bytes::copy_from_slice(&self.buffer[..bytes]);
        self.waiting.push_back(Piece { bytes: piece, due: Instant::now() + condition.delay() });
        self.waiting_bytes += bytes;
    }

    fn flip_bits(&mut self, bytes: usize) {
        let mut at = self.flip_in;
        while at < bytes {
            self.buffer[at] ^= 1 << fastrand::u8(..8);
            add(&self.shared.counting.bytes_corrupted, 1);
            at += 1 + fastrand::usize(..FLIP_WITHIN_BYTES);
        }
        self.flip_in = at - bytes;
    }

    fn has_written(&mut self, bytes: usize, condition: Condition) {
        let counting = &self.shared.counting;
        add(
            match self.direction {
                Direction::ToServer => &counting.bytes_to_server,
                Direction::ToClient => &counting.bytes_to_client,
            },
            bytes,
        );
        if let Condition::Throttle { bytes_per_second } = condition {
            let pause = bytes as u64 * 1_000_000_000 / bytes_per_second;
            self.resumes = Instant::now() + Duration::from_nanos(pause);
        }
        if matches!(condition, Condition::Latency { .. } | Condition::Throttle { .. }) {
            add(&counting.bytes_delayed, bytes);
        }
        self.waiting_bytes -= bytes;
        if let Some(next) = self.waiting.front_mut() {
            next.bytes.advance(bytes);
            if next.bytes.is_empty() {
                self.waiting.pop_front();
            }
        }
    }
}

/// Writes what the condition allows of a piece, once it does; a throttled direction goes on when it `resumes`. Nothing has been written
/// if this is dropped before its end.
async fn write_part(
    piece: Option<&Piece>,
    resumes: Instant,
    to: &mut WriteHalf<'_>,
    condition: Condition,
) -> io::Result<usize> {
    let Some(piece) = piece else { return Ok(0) };
    let mut bytes = &piece.bytes[..];
    match condition {
        Condition::Latency { .. } => sleep_until(piece.due).await,
        Condition::Throttle { bytes_per_second } => {
            sleep_until(resumes).await;
            let share = (bytes_per_second.get() / THROTTLE_PER_SECOND).max(1);
            bytes = &bytes[..bytes.len().min(usize::try_from(share).unwrap_or(usize::MAX))];
        }
        _ => {}
    }
    to.write(bytes).await
}
