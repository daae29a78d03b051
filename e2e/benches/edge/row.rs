//! One row of the table: what those who behave see before, during and after an attack, and whether that meets the target.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    edge::Edge,
    gateway::Server,
    honest::{Honest, Kind, Seen},
};

/// How long a phase takes; `EDGE_SECONDS` changes it.
pub(crate) fn phase() -> Duration {
    let seconds = std::env::var("EDGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// Whether the attackers go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What an attack found out besides, and whether that meets its part of the target.
pub(crate) struct Finding {
    pub(crate) said: String,
    pub(crate) is_met: bool,
}

/// What the others may suffer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// 99 of 100 requests take at most twice as long as before, and none fails.
    Twice,
    /// They take at most so many milliseconds, and none fails.
    Milliseconds(f64),
}

const KINDS: [(Kind, &str); 3] = [(Kind::Kept, "kept"), (Kind::New, "new"), (Kind::Write, "POST")];

/// Measures a row and prints it. `attack` runs until it is told to stop, for at least one phase.
pub(crate) async fn measure<A: Future<Output = Result<Finding>>>(
    edge: &Edge,
    settings: &str,
    name: &str,
    target: Target,
    attack: impl FnOnce(Arc<Server>, Stop) -> A,
) -> Result<()> {
    let server = Arc::new(Server::gateway(&edge.world.stack.layout, settings).await?);
    let honest = Honest::start(edge, &server).await?;
    // The first requests pay for connections and statements.
    sleep(Duration::from_secs(3)).await;
    let memory_before = server.megabytes();
    let begin = Instant::now();
    sleep(phase()).await;
    let attacked = Instant::now();
    let stop = Stop::default();
    let (finding, memory) = tokio::join!(attack(server.clone(), stop.clone()), async {
        sleep(phase()).await;
        let memory = server.megabytes();
        stop.set();
        memory
    });
    let (finding, ended) = (finding?, Instant::now());
    sleep(Duration::from_secs(2)).await;
    let calm = Instant::now();
    sleep(phase() / 2).await;

    let mut is_met = finding.is_met;
    let mut cells = Vec::new();
    for (kind, label) in KINDS {
        let phases = [(begin, attacked), (attacked, ended), (calm, Instant::now())];
        let [before, during, after] = phases.map(|(from, to)| honest.seen(kind, from, to));
        is_met &= is_within(target, before, during);
        let ratio = during.p99_ms / before.p99_ms;
        let figures = format!("{:.1} -> {:.1} -> {:.1}", before.p99_ms, during.p99_ms, after.p99_ms);
        cells.push(format!("{label} {figures} ({ratio:.1}x), {} of {} failed", during.failed, during.count));
    }
    let target = match target {
        Target::Twice => "2x".to_owned(),
        Target::Milliseconds(most) => format!("{most} ms"),
    };
    let verdict = if is_met { "met" } else { "**missed**" };
    println!(
        "| {name} | {} | {memory_before} -> {memory} | {} | {target} | {verdict} |",
        cells.join("; "),
        finding.said
    );
    Ok(())
}

fn is_within(target: Target, before: Seen, during: Seen) -> bool {
    let most = match target {
        Target::Twice => before.p99_ms * 2.0,
        Target::Milliseconds(most) => most,
    };
    during.failed == 0 && during.p99_ms <= most
}
