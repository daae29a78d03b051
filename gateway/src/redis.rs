//! Redis, which all gateways share. It makes answers better while it is there, and is never needed: it may be away, slow or paused
//! at any time, and whoever calls it then does without it.
//!
//! So no request waits long for it: a call takes at most [`RedisConfig::call_time`], and the first that fails ends the connection
//! for all. Until a connection that answers in time is there again, which [`Redis::keep_connected`] sees to, calls are [`Away`]
//! at once. (The connection manager of the library would have them wait until it is connected.) No more calls than [`CALLS_MAX`]
//! are in progress, and what was sent on a connection that is given up is forgotten with it, so a Redis that stalls piles up nothing.

use std::{fmt, sync::Arc, time::Duration};

use holdfast_common::{
    backoff::Backoff, error::chain, health::Component, metric, stop::sleep_unless_stopped,
};
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisConnectionInfo, RedisError, RedisResult,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use secrecy::ExposeSecret as _;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::config::RedisConfig;

/// Calls in progress at a time. More would wait for each other, so they do without.
const CALLS_MAX: usize = 256;
/// A connection that nobody uses is tried this often.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The pause before the next connection: short at first, since a single late answer says little, and longer while each that
/// was made has failed soon.
const RECONNECT_PAUSE_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a good one.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Redis gave no answer, whatever the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Away;

/// The connection; clones share it.
#[derive(Clone)]
pub(crate) struct Redis(Arc<Inner>);

struct Inner {
    client: Client,
    call_time: Duration,
    connect_time: Duration,
    state: watch::Sender<State>,
    calls: Semaphore,
}

enum State {
    /// Why there is no connection.
    Away(String),
    Connected {
        /// Tells it apart from those before it, on which calls may still end.
        number: u64,
        connection: MultiplexedConnection,
    },
}

impl State {
    fn why_away(&self) -> Option<&str> {
        match self {
            Self::Away(why) => Some(why),
            Self::Connected { .. } => None,
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("away", &self.0.state.borrow().why_away()).finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects to nothing yet: see [`Redis::keep_connected`]. An error says that the address is none.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, RedisError> {
        let login = RedisConnectionInfo::default().set_skip_set_lib_name();
        let login = match &config.password {
            Some(password) => login.set_password(password.expose_secret()),
            None => login,
        };
        let info = format!("redis://{}", config.address).into_connection_info()?;
        let info = info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self(Arc::new(Inner {
            client: Client::open(info)?,
            call_time: config.call_time,
            connect_time: config.connect_time,
            state: watch::Sender::new(State::Away("not connected yet".to_owned())),
            calls: Semaphore::new(CALLS_MAX),
        })))
    }

    /// Has `ask` call Redis: one command, a pipeline or a script. Returns within the time of a call.
    pub(crate) async fn call<T, F>(&self, ask: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, Away>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let (number, connection) = match &*self.0.state.borrow() {
            State::Connected { number, connection } => (*number, connection.clone()),
            State::Away(_) => return Err(count(Outcome::Away)),
        };
        let Ok(_place) = self.0.calls.try_acquire() else {
            return Err(count(Outcome::Busy));
        };
        let began = Instant::now();
        let answer = timeout(self.0.call_time, ask(connection)).await;
        let time = began.elapsed();
        match answer {
            Ok(Ok(answer)) => {
                let _ = measure(Outcome::Answered, time);
                Ok(answer)
            }
            Ok(Err(error)) => {
                self.give_up(number, chain(&error));
                Err(measure(Outcome::Failed, time))
            }
            Err(_) => {
                self.give_up(number, self.late());
                Err(measure(Outcome::Late, time))
            }
        }
    }

    fn late(&self) -> String {
        format!("does not answer within {:?}", self.0.call_time)
    }

    /// Has nobody use this connection any more. It closes when those that do have ended.
    fn give_up(&self, failed: u64, why: String) {
        self.0.state.send_if_modified(|state| {
            let is_current = matches!(state, State::Connected { number, .. } if *number == failed);
            if is_current {
                *state = State::Away(why);
            }
            is_current
        });
    }

    /// Connects, again and again, until `stop`. `component` says how it is.
    pub(crate) async fn keep_connected(self, component: Component, stop: CancellationToken) {
        let mut backoff = Backoff::new(RECONNECT_PAUSE_FIRST, RECONNECT_PAUSE_MAX);
        for number in 0.. {
            let why = match self.connect().await {
                Ok(connection) => {
                    let began = Instant::now();
                    self.0.state.send_replace(State::Connected { number, connection });
                    component.ready();
                    let why = tokio::select! {
                        () = stop.cancelled() => return,
                        why = self.given_up() => why,
                    };
                    if began.elapsed() > STABLE_AFTER {
                        backoff.reset();
                    }
                    why
                }
                Err(why) => why,
            };
            component.waiting(why);
            if sleep_unless_stopped(&stop, backoff.next_pause()).await.is_break() {
                return;
            }
        }
    }

    /// A connection that answers in time.
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        // The limits of time are ours.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(CALLS_MAX);
        let connect = self.0.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = match timeout(self.0.connect_time, connect).await {
            Ok(connected) => connected.map_err(|error| chain(&error))?,
            Err(_) => return Err(format!("no connection within {:?}", self.0.connect_time)),
        };
        match timeout(self.0.call_time, redis::cmd("PING").exec_async(&mut connection)).await {
            Ok(answer) => answer.map(|()| connection).map_err(|error| chain(&error)),
            Err(_) => Err(self.late()),
        }
    }

    /// Returns when the connection was given up, and why. Tries it now and then, so that this is noticed without requests too.
    async fn given_up(&self) -> String {
        let mut states = self.0.state.subscribe();
        loop {
            let why = states.borrow_and_update().why_away().map(str::to_owned);
            if let Some(why) = why {
                return why;
            }
            if timeout(PROBE_EVERY, states.changed()).await.is_err() {
                // If it fails, the state says so.
                let _ = self.call(ping).await;
            }
        }
    }
}

async fn ping(mut connection: MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("PING").exec_async(&mut connection).await
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Answered,
    /// With an error.
    Failed,
    /// Not in time.
    Late,
    /// Not made: there is no connection.
    Away,
    /// Not made: too many are in progress.
    Busy,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::Away => "away",
            Self::Busy => "busy",
        }
    }
}

/// Counts a call that was made, with its time.
fn measure(outcome: Outcome, time: Duration) -> Away {
    let mut labels = vec![("db_system_name", "redis")];
    if !matches!(outcome, Outcome::Answered) {
        labels.push(("error_type", outcome.as_str()));
    }
    metrics::histogram!(metric::DB_CLIENT_OPERATION_DURATION_SECONDS, &labels).record(time.as_secs_f64());
    count(outcome)
}

/// Returns what a call without an answer returns.
fn count(outcome: Outcome) -> Away {
    metrics::counter!(metric::REDIS_CALLS_TOTAL, "outcome" => outcome.as_str()).increment(1);
    Away
}

#[cfg(test)]
pub(crate) mod tests;
