//! What a connection is doing, and since when: the state that its limits of time are read from. Socket and exchanges write it
//! down; [`super::connection`] asks when the next limit is due.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::Limits;

/// While the process stops, a client that takes in nothing, or does not say goodbye, is waited for only this long.
const PATIENCE_STOPPING: Duration = Duration::from_secs(2);

/// After a pause of so long a connection gives back what serving it takes.
const REST_AFTER: Duration = Duration::from_secs(2);

/// Why a connection is ended, or rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// No request for a moment.
    Quiet,
    /// No request for a long time.
    Idle,
    /// The client takes in nothing of what is written to it.
    Stalled,
    /// An exchange took too long.
    Exchange,
    /// The process stops, and an answer without end is still being written.
    Stopping,
}

impl Overdue {
    /// The label of the metric.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Exchange => "exchange-time",
            Self::Stopping => "stopping",
        }
    }
}

/// How long an exchange may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    Bounded,
    LongLived,
}

#[derive(Debug)]
struct Exchange {
    id: u64,
    began: Instant,
    span: Span,
    /// Since when the HTTP library has not asked for more of the answer: it waits for the client.
    handed_over: Option<Instant>,
}

/// Whether the process is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    Stopping { since: Instant },
}

/// A connection that waits for a request. Those that never made one come first when places are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Silence {
    pub(super) has_spoken: bool,
    since: Instant,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// When it was accepted, or its last exchange ended.
    waits_since: Instant,
    has_spoken: bool,
    /// It speaks HTTP/1, and is served.
    may_rest: bool,
    /// Since when the socket takes nothing more.
    blocked_since: Option<Instant>,
    /// When the oldest exchange began whose answer is complete, but not yet written to its end.
    unwritten: Option<Instant>,
    /// One at a time in HTTP/1, up to the number of streams in HTTP/2.
    exchanges: Vec<Exchange>,
    next_id: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Limits,
    state: Mutex<State>,
}

impl Watch {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        let state = State {
            mode: Mode::Serving,
            waits_since: now,
            has_spoken: false,
            may_rest: false,
            blocked_since: None,
            unwritten: None,
            exchanges: Vec::new(),
            next_id: 0,
        };
        Self { limits, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket took some bytes.
    pub(super) fn wrote(&self) {
        self.state().blocked_since = None;
    }

    /// The socket took nothing.
    pub(super) fn blocked(&self, now: Instant) {
        self.state().blocked_since.get_or_insert(now);
    }

    /// Everything is written.
    pub(super) fn flushed(&self, now: Instant) {
        let mut state = self.state();
        if state.unwritten.take().is_some() {
            state.waits_since = now;
        }
    }

    /// A request is handled from now on; its first byte came at `began`.
    pub(super) fn begin(&self, began: Instant) -> u64 {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.has_spoken = true;
        state.exchanges.push(Exchange { id, began, span: Span::Bounded, handed_over: None });
        id
    }

    /// The answer has no end of its own.
    pub(super) fn long_lived(&self, id: u64) {
        self.change(id, |exchange| exchange.span = Span::LongLived);
    }

    /// The HTTP library got a piece of the answer.
    pub(super) fn handed_over(&self, id: u64, now: Instant) {
        self.change(id, |exchange| exchange.handed_over = Some(now));
    }

    /// The HTTP library asks for more of the answer: what it had is on its way.
    pub(super) fn asked(&self, id: u64) {
        self.change(id, |exchange| exchange.handed_over = None);
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.state().exchanges.iter_mut().find(|exchange| exchange.id == id) {
            change(exchange);
        }
    }

    /// The HTTP library has the whole answer, or it was given up.
    pub(super) fn end(&self, id: u64, now: Instant) {
        let mut state = self.state();
        let Some(index) = state.exchanges.iter().position(|exchange| exchange.id == id) else { return };
        let exchange = state.exchanges.swap_remove(index);
        let began = match exchange.span {
            Span::Bounded => exchange.began,
            Span::LongLived => now,
        };
        state.unwritten = Some(state.unwritten.map_or(began, |other| other.min(began)));
        state.waits_since = now;
    }

    /// Whether it may rest when it makes a pause: HTTP/1 is between two requests then.
    pub(super) fn may_rest(&self, may_rest: bool) {
        self.state().may_rest = may_rest;
    }

    /// From now on only honest exchanges are waited for.
    pub(super) fn stop(&self, now: Instant) {
        self.state().mode = Mode::Stopping { since: now };
    }

    /// Since when it waits for a request; `None` if it handles one.
    pub(super) fn silence(&self) -> Option<Silence> {
        let state = self.state();
        let (has_spoken, since) = (state.has_spoken, state.waits_since);
        state.exchanges.is_empty().then_some(Silence { has_spoken, since })
    }

    /// Since when it handles its oldest request.
    pub(super) fn busy_since(&self) -> Option<Instant> {
        self.state().exchanges.iter().map(|exchange| exchange.began).min()
    }

    /// The next limit, and when it is due. It may be due later by then: ask again.
    pub(super) fn due(&self, now: Instant) -> (Instant, Overdue) {
        let state = self.state();
        let limits = &self.limits;
        let (stall_time, idle_end) = match state.mode {
            Mode::Serving => (limits.stall_time, state.waits_since + limits.idle_time),
            Mode::Stopping { since } => {
                (limits.stall_time.min(PATIENCE_STOPPING), state.waits_since.max(since) + PATIENCE_STOPPING)
            }
        };
        let waits = state.exchanges.is_empty() && state.unwritten.is_none();
        let idle = waits.then_some((idle_end, Overdue::Idle));
        let rests = waits && state.may_rest && state.mode == Mode::Serving;
        let quiet = rests.then_some((state.waits_since + REST_AFTER, Overdue::Quiet));
        let unwritten = state.unwritten.map(|began| (began + limits.exchange_time, Overdue::Exchange));
        let stalled = state
            .exchanges
            .iter()
            .filter_map(|exchange| exchange.handed_over)
            .chain(state.blocked_since)
            .map(|since| (since + stall_time, Overdue::Stalled));
        let ends = state.exchanges.iter().filter_map(|exchange| match (exchange.span, state.mode) {
            (Span::Bounded, _) => Some((exchange.began + limits.exchange_time, Overdue::Exchange)),
            (Span::LongLived, Mode::Stopping { .. }) => Some((now, Overdue::Stopping)),
            (Span::LongLived, Mode::Serving) => None,
        });
        // Nothing is due while an answer without end is read; it must be asked about again before it can stall.
        let nothing = (now + limits.stall_time, Overdue::Stalled);
        idle.into_iter()
            .chain(quiet)
            .chain(unwritten)
            .chain(stalled)
            .chain(ends)
            .min_by_key(|(due, _)| *due)
            .unwrap_or(nothing)
    }

    /// The limit that has passed, if one has.
    pub(super) fn overdue(&self, now: Instant) -> Option<Overdue> {
        let (due, overdue) = self.due(now);
        (due <= now).then_some(overdue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watch() -> (Watch, Instant) {
        let now = Instant::now();
        (Watch::new(Limits::default(), now), now)
    }

    /// The time between requests has a limit of its own, and each exchange begins it anew.
    #[test]
    fn idle_time_counts_between_exchanges() {
        let (watch, t0) = watch();
        assert_eq!(watch.due(t0), (t0 + Limits::IDLE_TIME, Overdue::Idle));
        let id = watch.begin(t0 + seconds(70));
        assert_eq!(watch.due(t0 + seconds(70)).1, Overdue::Exchange);
        watch.end(id, t0 + seconds(70));
        // Until it is written, it is not over.
        assert_eq!(watch.overdue(t0 + seconds(100)), Some(Overdue::Exchange));
        watch.flushed(t0 + seconds(71));
        watch.flushed(t0 + seconds(72));
        assert_eq!(watch.overdue(t0 + seconds(76)), None);
        assert_eq!(watch.due(t0).0, t0 + seconds(71) + Limits::IDLE_TIME);
        assert_eq!(watch.overdue(t0 + seconds(146)), Some(Overdue::Idle));
    }

    /// A whole exchange has a limit; an answer without end has none, but must be read.
    #[test]
    fn only_an_answer_that_is_read_may_last() {
        let (watch, t0) = watch();
        let id = watch.begin(t0);
        assert_eq!(watch.overdue(t0 + seconds(29)), None);
        assert_eq!(watch.overdue(t0 + seconds(30)), Some(Overdue::Exchange));
        watch.long_lived(id);
        assert_eq!(watch.overdue(t0 + seconds(3_600)), None);
        watch.handed_over(id, t0 + seconds(3_600));
        assert_eq!(watch.overdue(t0 + seconds(3_609)), None);
        assert_eq!(watch.overdue(t0 + seconds(3_610)), Some(Overdue::Stalled));
        watch.asked(id);
        assert_eq!(watch.overdue(t0 + seconds(3_700)), None);
        // When the process stops, it is not waited for.
        watch.stop(t0 + seconds(3_700));
        assert_eq!(watch.overdue(t0 + seconds(3_700)), Some(Overdue::Stopping));
        // Nor is a client that does not say goodbye.
        watch.end(id, t0 + seconds(3_700));
        watch.flushed(t0 + seconds(3_700));
        assert_eq!(watch.overdue(t0 + seconds(3_701)), None);
        assert_eq!(watch.overdue(t0 + seconds(3_702)), Some(Overdue::Idle));
    }

    /// Writing without progress has a limit, and any progress begins it anew.
    #[test]
    fn progress_begins_the_time_anew() {
        let (watch, t0) = watch();
        watch.blocked(t0);
        watch.blocked(t0 + seconds(9));
        assert_eq!(watch.overdue(t0 + seconds(10)), Some(Overdue::Stalled));
        watch.wrote();
        watch.blocked(t0 + seconds(10));
        assert_eq!(watch.overdue(t0 + seconds(19)), None);
        watch.stop(t0 + seconds(11));
        assert_eq!(watch.overdue(t0 + seconds(12)), Some(Overdue::Stalled));
    }

    /// Those that never spoke come before those that did, and each by the length of its silence.
    #[test]
    fn those_that_never_spoke_come_first() {
        let (spoke, t0) = watch();
        let never = Watch::new(Limits::default(), t0 + seconds(5));
        let id = spoke.begin(t0);
        assert_eq!(spoke.silence(), None);
        spoke.end(id, t0);
        assert!(never.silence() < spoke.silence());
        let later = Watch::new(Limits::default(), t0 + seconds(6));
        assert!(never.silence() < later.silence());
    }
}
