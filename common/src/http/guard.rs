//! Lets bytes pass to the HTTP library only after the head that they belong to was checked.
//!
//! A head that is refused never reaches the library. In its place goes a head of ours, and the refusal in a queue beside it: the
//! request that comes out of the library takes it from there, so that a refusal passes through the same layers as every answer, in
//! its turn behind the answers to earlier requests.

use std::{
    collections::VecDeque,
    future::Future as _,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Duration, Instant, Sleep, sleep},
};

use super::{head::Refusal, scanner::Scanner};

/// Stands for a head that is refused.
const REFUSED_HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";
/// Most bytes of one read.
const READ_BYTES_MAX: usize = 8 * 1024;
/// Closing a socket that has unread bytes resets the connection, and the client may never see the answer. So what it still sends
/// is discarded first: so long, and so many bytes.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// A client that is refused whatever it asks has this long to ask.
const TURN_AWAY_TIME: Duration = Duration::from_secs(1);

/// What is known of a head that passed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict {
    /// When its first byte came.
    pub(super) began: Instant,
    pub(super) refusal: Option<Refusal>,
}

/// The verdicts on the heads of a connection, in their order. The guard adds one for each head; the service takes one for each
/// request.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdicts(Arc<Mutex<VecDeque<Verdict>>>);

impl Verdicts {
    fn add(&self, began: Instant, refusal: Option<Refusal>) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(Verdict { began, refusal });
    }

    pub(super) fn take(&self) -> Option<Verdict> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// What the guard does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Checks it.
    Admitted,
    /// Refuses its first request, whatever it is.
    TurnedAway,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Nothing more is read for the library.
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Guard<S> {
    io: S,
    scanner: Scanner,
    /// What came and has not passed.
    waiting: BytesMut,
    /// So many of those bytes may pass.
    passed: usize,
    mode: Mode,
    entry: Entry,
    head_time: Duration,
    /// When the first byte of the unfinished head came, and when its time is over.
    head: Option<(Instant, Pin<Box<Sleep>>)>,
    verdicts: Verdicts,
    linger: Linger,
    /// The library is done with the connection, and the connection goes on.
    rests: bool,
}

/// What is discarded before a connection is closed.
#[derive(Debug)]
enum Linger {
    /// Not decided yet.
    Undecided,
    Discarding(Pin<Box<Sleep>>, usize),
    Done,
}

impl<S> Guard<S> {
    pub(super) fn new(io: S, head_time: Duration, entry: Entry, verdicts: Verdicts) -> Self {
        let head = match entry {
            Entry::Admitted => None,
            Entry::TurnedAway => Some((Instant::now(), Box::pin(sleep(TURN_AWAY_TIME)))),
        };
        Self {
            io,
            scanner: Scanner::new(),
            waiting: BytesMut::new(),
            passed: 0,
            mode: Mode::Open,
            entry,
            head_time,
            head,
            verdicts,
            linger: Linger::Undecided,
            rests: false,
        }
    }

    /// Lets the library end without ending the connection, if it is between two requests.
    pub(super) fn try_rest(&mut self) -> bool {
        let is_between = !self.scanner.is_in_message() && self.waiting.is_empty() && self.head.is_none();
        self.rests = self.entry == Entry::Admitted && self.mode == Mode::Open && is_between;
        self.rests
    }

    /// The library goes on with it, or the connection ends.
    pub(super) const fn resume(&mut self) {
        self.rests = false;
    }

    /// Replaces what is waiting by a head of ours that carries the refusal.
    fn refuse(&mut self, refusal: Refusal) {
        let began = self.head.take().map_or_else(Instant::now, |(began, _)| began);
        self.verdicts.add(began, Some(refusal));
        self.waiting.truncate(self.passed);
        self.waiting.extend_from_slice(REFUSED_HEAD);
        self.passed = self.waiting.len();
        self.mode = Mode::Closed;
    }

    fn scan(&mut self) {
        let scan = self.scanner.scan(&self.waiting);
        self.waiting.advance(scan.skipped);
        self.passed = scan.passed;
        if self.entry == Entry::TurnedAway && (scan.heads > 0 || scan.refusal.is_some()) {
            self.passed = 0;
            self.refuse(Refusal::TooManyConnections);
            return;
        }
        for _ in 0..scan.heads {
            let began = self.head.take().map_or_else(Instant::now, |(began, _)| began);
            self.verdicts.add(began, None);
        }
        if scan.is_in_head && self.head.is_none() {
            self.head = Some((Instant::now(), Box::pin(sleep(self.head_time))));
        }
        if let Some(refusal) = scan.refusal {
            self.refuse(refusal);
        } else if scan.is_broken {
            self.mode = Mode::Closed;
        }
    }

    /// Gives `buffer` what may pass.
    fn pass(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.passed.min(buffer.remaining());
        buffer.put_slice(&self.waiting[..length]);
        self.waiting.advance(length);
        self.passed -= length;
        if self.waiting.is_empty() {
            // Thousands of idle connections must not keep a buffer each.
            self.waiting = BytesMut::new();
        }
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// Reads once from the socket; `Ready(0)` at its end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.waiting.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Ready when there are bytes to serve, or, with `false`, when there will be none.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.waiting.is_empty() {
            return Poll::Ready(true);
        }
        self.poll_more(cx).map(|read| matches!(read, Ok(1..)))
    }

    /// Discards what a client still sends, within limits. Only where it is still sending: otherwise there is nothing to lose.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.linger {
                Linger::Done => return Poll::Ready(()),
                Linger::Undecided if self.mode == Mode::Closed || self.scanner.is_in_message() => {
                    self.linger = Linger::Discarding(Box::pin(sleep(LINGER_TIME)), 0);
                }
                Linger::Undecided => self.linger = Linger::Done,
                Linger::Discarding(time, discarded) => {
                    let is_enough = *discarded > LINGER_BYTES_MAX || time.as_mut().poll(cx).is_ready();
                    let read = if is_enough { 0 } else { ready!(self.poll_more(cx)).unwrap_or(0) };
                    self.waiting.clear();
                    match &mut self.linger {
                        Linger::Discarding(_, discarded) if read > 0 => *discarded += read,
                        linger => *linger = Linger::Done,
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        loop {
            if guard.passed > 0 {
                guard.pass(buffer);
                return Poll::Ready(Ok(()));
            }
            if guard.mode == Mode::Closed {
                return Poll::Ready(Ok(()));
            }
            if !guard.waiting.is_empty() {
                let before = guard.waiting.len();
                guard.scan();
                if guard.passed > 0 || guard.mode == Mode::Closed || guard.waiting.len() < before {
                    continue;
                }
            }
            match guard.poll_more(cx)? {
                Poll::Ready(0) => {
                    // The end. What is left is a part of a head, and nobody can answer it.
                    guard.mode = Mode::Closed;
                    guard.linger = Linger::Done;
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    let Some((_, time)) = &mut guard.head else { return Poll::Pending };
                    ready!(time.as_mut().poll(cx));
                    guard.refuse(match guard.entry {
                        Entry::Admitted => Refusal::Slow,
                        Entry::TurnedAway => Refusal::TooManyConnections,
                    });
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.rests {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        ready!(self.poll_linger(cx));
        Poll::Ready(Ok(()))
    }
}
