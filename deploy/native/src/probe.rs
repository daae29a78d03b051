//! How a component is, asked of the component itself: what a file says of it may be old (pitfalls P44).

use std::{fs, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::supervisor::ComponentState;

/// An admin port that lives answers at once.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Far more than the parts of a service need.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What a component says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) state: ComponentState,
    /// What is wrong, or empty.
    pub(crate) detail: String,
}

impl Answer {
    pub(crate) fn ready() -> Self {
        Self { state: ComponentState::Ready, detail: String::new() }
    }

    pub(crate) fn not_ready(detail: impl Into<String>) -> Self {
        Self { state: ComponentState::Starting, detail: detail.into() }
    }
}

/// The body of `/readyz`. What else is in it is for others.
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
    ready: bool,
    #[serde(default)]
    detail: String,
}

/// Asks a service on its admin port whether it can serve, and what is wrong.
pub(crate) async fn service(port: u16) -> Answer {
    match get(port, "/readyz").await {
        Some((_, body)) => read(&body),
        None => Answer::not_ready("does not answer on its admin port"),
    }
}

/// Whether a service makes progress, by its own word on its admin port.
pub(crate) async fn is_alive(port: u16) -> bool {
    get(port, "/healthz").await.is_some_and(|(status, _)| status == 200)
}

fn read(body: &str) -> Answer {
    let Ok(readiness) = serde_json::from_str::<Readiness>(body) else {
        return Answer::not_ready("its readiness cannot be read");
    };
    let wrong: Vec<String> = readiness
        .components
        .iter()
        .filter(|(_, part)| !part.ready || !part.detail.is_empty())
        .map(|(name, part)| format!("{name}: {}", part.detail))
        .collect();
    let state = match (readiness.ready, readiness.degraded) {
        (true, false) => ComponentState::Ready,
        (true, true) => ComponentState::Degraded,
        (false, _) => ComponentState::Starting,
    };
    Answer { state, detail: wrong.join("; ") }
}

async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    };
    tokio::time::timeout(ANSWER_TIME_MAX, ask).await.ok().flatten()
}

/// Whether a process runs: one that has ended, and that nobody has waited for, does not.
pub(crate) fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with('Z'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state follows what the service says, and the detail names what is wrong.
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
                ComponentState::Starting,
                "kafka: timed out",
            ),
            (r#"{"ready":true,"degraded":false,"components":{}}"#.to_owned(), ComponentState::Ready, ""),
            ("<html>".to_owned(), ComponentState::Starting, "its readiness cannot be read"),
        ] {
            assert_eq!(read(&body), Answer { state, detail: detail.to_owned() }, "{body}");
        }
    }

    /// A process that runs does, one that never was does not.
    #[test]
    fn a_process_runs_or_not() {
        assert!(is_running(std::process::id()));
        assert!(!is_running(u32::MAX));
    }
}
