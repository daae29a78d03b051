//! Probes a component: what a file says about it may be old (pitfalls P44).

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::state::ComponentState;

/// A working admin port answers at once.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Far more than the answer of a service needs.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The answer of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) state: ComponentState,
    /// What is wrong, or empty.
    pub(crate) detail: String,
    /// Whether it makes progress; `None` for databases and broker, which don't report it.
    pub(crate) life: Option<Life>,
}

impl Answer {
    pub(crate) fn ready() -> Self {
        Self { state: ComponentState::Ready, detail: String::new(), life: None }
    }

    pub(crate) fn unready(detail: impl Into<String>) -> Self {
        Self { state: ComponentState::Unready, detail: detail.into(), life: None }
    }

    pub(crate) fn degraded(detail: impl Into<String>) -> Self {
        Self { state: ComponentState::Degraded, detail: detail.into(), life: None }
    }

    pub(crate) fn down() -> Self {
        Self { state: ComponentState::Down, detail: "does not run".to_owned(), life: None }
    }

    /// The same of a process in its start: what can't serve yet is not to blame for it.
    pub(crate) fn within_start(self) -> Self {
        match self.state {
            ComponentState::Unready => Self { state: ComponentState::Starting, ..self },
            _ => self,
        }
    }
}

/// The answer of a service on `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// 200: all its loops make progress.
    Alive,
    /// Another status: one of them makes none.
    Stalled,
    /// No response at all.
    Silent,
}

/// The fields of `/readyz` that are needed here; an older service has fewer.
#[derive(Debug, Deserialize)]
struct Readiness {
    ready: bool,
    #[serde(default)]
    degraded: bool,
    #[serde(default)]
    components: std::collections::BTreeMap<String, Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    detail: String,
}

/// The body of `/healthz`.
#[derive(Debug, Default, Deserialize)]
struct Liveness {
    #[serde(default)]
    stalled: Vec<String>,
}

/// Asks a service on its admin port whether it can serve, whether it makes progress, and what is wrong.
pub(crate) async fn service(address: SocketAddr) -> Answer {
    let (readiness, liveness) = tokio::join!(get(address, "/readyz"), get(address, "/healthz"));
    answer(readiness.as_ref(), liveness.as_ref())
}

fn answer(readiness: Option<&(u16, String)>, liveness: Option<&(u16, String)>) -> Answer {
    let mut answer = match readiness {
        Some((_, body)) => read(body),
        None => Answer::unready("does not answer on its admin port"),
    };
    let life = match liveness {
        Some((200, _)) => Life::Alive,
        Some((_, body)) => {
            let stalled = serde_json::from_str::<Liveness>(body).unwrap_or_default().stalled.join(", ");
            let detail = [answer.detail.as_str(), &format!("makes no progress: {stalled}")];
            answer.detail = detail.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
            if answer.state == ComponentState::Ready {
                answer.state = ComponentState::Degraded;
            }
            Life::Stalled
        }
        None => Life::Silent,
    };
    Answer { life: Some(life), ..answer }
}

fn read(body: &str) -> Answer {
    let Ok(readiness) = serde_json::from_str::<Readiness>(body) else {
        return Answer::unready("its readiness cannot be read");
    };
    let wrong: Vec<String> = readiness
        .components
        .iter()
        .filter(|(_, part)| !part.ready || !part.detail.is_empty())
        .map(|(name, part)| format!("{name}: {}", part.detail))
        .collect();
    let degraded = readiness.degraded || readiness.components.values().any(|part| !part.ready);
    let state = match (readiness.ready, degraded) {
        (true, false) => ComponentState::Ready,
        (true, true) => ComponentState::Degraded,
        (false, _) => ComponentState::Unready,
    };
    Answer { state, detail: wrong.join("; "), life: None }
}

/// Tracks whether a service is alive, and decides when to restart it.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// The last time it was alive; before that, its start.
    since: Instant,
    was_alive: bool,
    /// Missing or bad responses since then.
    missed: u32,
}

/// A service that was alive, and whose `/healthz` has not returned 200 for this time, is restarted. Longer than an
/// overloaded machine or a short stop in a debugger takes.
pub(crate) const DEAF_TIME_MAX: Duration = Duration::from_secs(30);
/// One that has not been alive yet gets more time: to migrate its database, or to wait for a slow disk. What has not been able to
/// serve by then is no longer called starting.
pub(crate) const START_TIME_MAX: Duration = Duration::from_secs(120);
/// Time alone proves nothing: while the supervisor itself was paused, it did not probe.
pub(crate) const MISSED_MIN: u32 = 5;

impl Pulse {
    pub(crate) const fn new(started: Instant) -> Self {
        Self { since: started, was_alive: false, missed: 0 }
    }

    /// Records a response; returns the reason to restart the service, if there is one.
    pub(crate) fn heard(&mut self, life: &Life, now: Instant) -> Option<String> {
        if *life == Life::Alive {
            *self = Self { since: now, was_alive: true, missed: 0 };
            return None;
        }
        self.missed += 1;
        let bound = if self.was_alive { DEAF_TIME_MAX } else { START_TIME_MAX };
        let silence = now.saturating_duration_since(self.since);
        if self.missed < MISSED_MIN || silence <= bound {
            return None;
        }
        let what = if *life == Life::Silent { "does not answer" } else { "says that it makes no progress" };
        Some(format!("/healthz {what}, no 200 for {} s, asked {} times", silence.as_secs(), self.missed))
    }
}

async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    get_up_to(address, path, ANSWER_BYTES_MAX).await
}

async fn get_up_to(address: SocketAddr, path: &str, bytes_max: u64) -> Option<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(bytes_max).read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    };
    tokio::time::timeout(ANSWER_TIME_MAX, ask).await.ok().flatten()
}

/// Metrics need more room than answers.
const METRICS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// When a periodic task of a service has last succeeded, in seconds since 1970, as its metrics say; `None` if it does not answer, or has
/// no such task.
pub(crate) async fn last_success(address: SocketAddr, task: &str) -> Option<f64> {
    let (status, page) = get_up_to(address, "/metrics", METRICS_BYTES_MAX).await?;
    let series = format!("{PERIODIC_TASK_LAST_SUCCESS}{{task=\"{task}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok());
    value.filter(|_| status == 200)
}

/// The metric of the services (`holdfast_common::metric`, which is not known here).
const PERIODIC_TASK_LAST_SUCCESS: &str = "holdfast_periodic_task_last_success_timestamp_seconds";

/// How long a process has run.
pub(crate) fn age(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    // The 22nd field (proc(5)), counted after the name, which may contain spaces.
    let started: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Duration::try_from_secs_f64((uptime - started / TICKS_PER_SECOND).max(0.0)).ok()
}

/// The unit that Linux reports to user space, whatever the kernel's own tick rate is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Whether a process runs. A zombie does not; but one whose first thread has ended before the others still has its locks and files.
pub(crate) fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !has_ended(&stat))
}

/// From the third field (proc(5)) on, behind the name: the state, and as the 20th the number of threads.
fn has_ended(stat: &str) -> bool {
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let (state, threads) = (fields.next(), fields.nth(16).and_then(|number| number.parse::<u32>().ok()));
    state == Some("Z") && threads.is_none_or(|threads| threads <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state follows from the service's answer, and the detail names what is wrong.
    #[test]
    fn readiness_is_read() {
        let parts = r#""components":{"database":{"ready":true,"required":true,"detail":""},
            "kafka":{"ready":false,"required":false,"detail":"timed out"}}"#;
        for (body, state, detail) in [
            (
                format!(r#"{{"ready":true,"degraded":true,{parts}}}"#),
                ComponentState::Degraded,
                "kafka: timed out",
            ),
            (
                format!(r#"{{"ready":false,"degraded":true,{parts}}}"#),
                ComponentState::Unready,
                "kafka: timed out",
            ),
            (r#"{"ready":true,"degraded":false,"components":{}}"#.to_owned(), ComponentState::Ready, ""),
            // From an older service.
            (format!(r#"{{"ready":true,{parts}}}"#), ComponentState::Degraded, "kafka: timed out"),
            (r#"{"ready":true}"#.to_owned(), ComponentState::Ready, ""),
            ("<html>".to_owned(), ComponentState::Unready, "its readiness cannot be read"),
        ] {
            assert_eq!(read(&body), Answer { state, detail: detail.to_owned(), life: None }, "{body}");
        }
    }

    /// A service that can serve while one of its loops makes no progress is degraded; a silent one is not ready.
    #[test]
    fn liveness_is_read() {
        let ready = (200, r#"{"ready":true,"degraded":false,"components":{}}"#.to_owned());
        let stalled = (503, r#"{"alive":false,"stalled":["relay"]}"#.to_owned());
        let ask = |readiness: Option<&(u16, String)>, liveness: Option<&(u16, String)>| {
            let Answer { state, detail, life } = answer(readiness, liveness);
            (state, detail, life.expect("a service's"))
        };
        let alive = (200, String::new());
        assert_eq!(ask(Some(&ready), Some(&alive)), (ComponentState::Ready, String::new(), Life::Alive));
        let (state, detail, life) = ask(Some(&ready), Some(&stalled));
        assert_eq!((state, life), (ComponentState::Degraded, Life::Stalled));
        assert_eq!(detail, "makes no progress: relay");
        let (state, _, life) = ask(None, None);
        assert_eq!((state, life), (ComponentState::Unready, Life::Silent));
    }

    /// A service is restarted when it was deaf for long enough and was probed often enough; one that is starting gets
    /// longer, and time during which the supervisor was paused does not count.
    #[test]
    fn only_a_deaf_service_is_started_again() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(begin);
        assert!((1..=120).all(|second| pulse.heard(&Life::Silent, at(second)).is_none()), "it starts");
        let reason = pulse.heard(&Life::Silent, at(121)).expect("it never will");
        assert!(reason.contains("does not answer"), "{reason}");

        let mut pulse = Pulse::new(begin);
        assert_eq!(pulse.heard(&Life::Alive, at(100)), None);
        assert!((101..=130).all(|second| pulse.heard(&Life::Stalled, at(second)).is_none()), "not yet");
        let reason = pulse.heard(&Life::Stalled, at(131)).expect("deaf");
        assert!(reason.contains("no progress"), "{reason}");

        let mut pulse = Pulse::new(begin);
        assert_eq!(pulse.heard(&Life::Alive, at(1)), None);
        assert_eq!(pulse.heard(&Life::Silent, at(500)), None, "asked once after a long sleep");
        assert_eq!(pulse.heard(&Life::Alive, at(501)), None);
        assert_eq!(pulse.missed, 0);
    }

    /// A running process is found, an unknown one is not.
    #[test]
    fn a_process_runs_or_not() {
        assert!(is_running(std::process::id()));
        assert!(!is_running(u32::MAX));
        let stat = |state: &str, threads: u32| {
            format!("7 (a) b) {state} 1 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 {threads} 0 99 0 0\n")
        };
        for (state, threads, expected) in [("S", 9, false), ("Z", 1, true), ("Z", 2, false), ("S", 1, false)]
        {
            assert_eq!(has_ended(&stat(state, threads)), expected, "{state} {threads}");
        }
        assert!(age(std::process::id()).is_some_and(|age| age < Duration::from_secs(3600)));
        assert_eq!(age(u32::MAX), None);
    }
}
