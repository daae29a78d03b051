//! Carries out the faults of a plan, one after another, and says of each how it was seen to land.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_certs::Pki;
use holdfast_native::{
    control,
    layout::{GATEWAY, service_of},
    programs::{self, Running},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{
    admin,
    fault::{
        Fault,
        certificate::{Flaw, Flawed},
        disk::BrokerDisk,
        log::LogSince,
        network::Condition,
        poison::{self, Place, Victim},
        process::{Stopped, runs, state},
        syscalls::{Injection, Tracer},
    },
    scenario::{Action, PlannedFault},
    stack::Stack,
    workload::Workload,
};

/// A fault that has not landed by then won't.
const LAND_TIME_MAX: Duration = Duration::from_secs(20);
/// A component that does not serve again by then stays away.
const RECOVER_TIME_MAX: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The supervisor looks at a component once a second.
const REPORT_AGE_MAX: Duration = Duration::from_millis(1_500);
/// Logs are read this often for what shows that a fault has landed. Room on a full disk that comes from deleting is taken as soon.
const LOOK_AT_LOGS_EVERY: Duration = Duration::from_millis(200);
/// What a certificate says of its end are whole seconds.
const LAST_SECOND: Duration = Duration::from_secs(2);
/// Long enough to break every connection of a link.
const RESET_TIME: Duration = Duration::from_millis(300);
/// A service looks at its certificate every 2 s.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(15);

/// A fault that was carried out, or was tried. Times are in microseconds since the run began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// From 1.
    pub number: usize,
    /// What was done.
    pub action: Action,
    /// To what.
    pub target: String,
    /// When it was applied.
    pub begin: u64,
    /// When its cause was gone and the component served again; absent if it never did.
    pub over: Option<u64>,
    /// How it was seen to land; absent if it did not, and then it does not count.
    pub landed: Option<String>,
    /// What went wrong with it, if anything did.
    pub error: Option<String>,
    /// Where the poison is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poison: Vec<Place>,
    /// The order that the poison names, if it names one of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victim: Option<String>,
}

impl FaultRecord {
    /// One that begins now.
    #[must_use]
    pub fn begun(number: usize, fault: &PlannedFault, begin: u64) -> Self {
        Self {
            number,
            action: fault.action,
            target: fault.target.clone(),
            begin,
            over: None,
            landed: None,
            error: None,
            poison: Vec::new(),
            victim: None,
        }
    }
}

/// Carries out one fault, and returns when it is over.
pub async fn carry_out(stack: &Stack, workload: &Workload, fault: &PlannedFault, record: &mut FaultRecord) {
    match apply(stack, workload, fault, record).await {
        Ok(Applied { seen, over }) => {
            record.landed = Some(seen);
            match over.await_over(stack, workload, &fault.target).await {
                Ok(over) => record.over = Some(over),
                Err(error) => record.error = Some(format!("{error:#}")),
            }
        }
        Err(error) => {
            record.error = Some(format!("{error:#}"));
            record.over = Some(workload.now());
        }
    }
}

/// What a fault did, and when it is over.
struct Applied {
    seen: String,
    over: Over,
}

/// When a fault is over.
enum Over {
    /// It was over at this time.
    At(u64),
    /// When another process than this one serves.
    Restarted { old_pid: u32 },
    /// When it serves, whether or not it has survived.
    Serves,
}

impl Over {
    async fn await_over(self, stack: &Stack, workload: &Workload, target: &str) -> Result<u64> {
        let old_pid = match self {
            Self::At(time) => return Ok(time),
            Self::Restarted { old_pid } => Some(old_pid),
            Self::Serves => {
                // What is said of it now may be of before.
                sleep(REPORT_AGE_MAX).await;
                None
            }
        };
        let until = Instant::now() + RECOVER_TIME_MAX;
        loop {
            let component = stack.component(target)?;
            if component.pid.is_some_and(|pid| Some(pid) != old_pid) && component.state.can_serve() {
                return Ok(workload.now());
            }
            if Instant::now() > until {
                bail!("{target} does not serve {} s after the fault", RECOVER_TIME_MAX.as_secs());
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

async fn apply(
    stack: &Stack,
    workload: &Workload,
    fault: &PlannedFault,
    record: &mut FaultRecord,
) -> Result<Applied> {
    let length = Duration::from_millis(fault.length_ms);
    if let Some(condition) = fault.action.on_link() {
        return break_links(stack, workload, &fault.target, condition, length).await;
    }
    if let Some(injection) = fault.action.on_syscalls() {
        return falsify(stack, &fault.target, injection, length).await;
    }
    if let Some(flaw) = fault.action.on_identity() {
        return deceive(stack, workload, &fault.target, flaw, length).await;
    }
    match fault.action {
        Action::Kill => end_process(stack, Fault::Kill, &fault.target).await,
        Action::Terminate => end_process(stack, Fault::Terminate, &fault.target).await,
        Action::Stall => stall(stack, workload, &fault.target, length).await,
        Action::LoseTail => lose_tail(stack, &fault.target, length).await,
        Action::Hold => hold(stack, &fault.target, length).await,
        Action::DiskFull => fill_disk(stack, &fault.target, length).await,
        Action::RotateCertificates => rotate(stack, workload, &["certs", "rotate"]).await,
        Action::RotateAuthority => rotate(stack, workload, &["certs", "rotate", "--ca", "--yes"]).await,
        Action::Poison => {
            let victim = workload.youngest_order().map(|(user, order)| Victim { user, order });
            record.victim = victim.as_ref().map(|victim| victim.order.clone());
            poison::send(&stack.layout, &fault.target, victim.as_ref(), &mut record.poison).await?;
            let seen = format!("{} records were acknowledged", record.poison.len());
            Ok(Applied { seen, over: Over::At(workload.now()) })
        }
        Action::Crash => crash(stack, &fault.target).await,
        Action::Upgrade => roll(stack, &fault.target, stack.programs()?).await,
        Action::RollBack => roll(stack, &fault.target, stack.earlier()?).await,
        other => bail!("{} is not done to a component", other.name()),
    }
}

/// Gives the links that `pattern` selects a condition for a while.
async fn break_links(
    stack: &Stack,
    workload: &Workload,
    pattern: &str,
    condition: Condition,
    length: Duration,
) -> Result<Applied> {
    let links = stack.links()?;
    let before = links.counters(pattern)?;
    let broken = links.break_for_now(pattern, condition)?;
    sleep(length).await;
    drop(broken);
    let seen = condition.evidence(&links.counters(pattern)?.since(&before));
    let seen = seen.context("nothing that passed these links was touched")?;
    Ok(Applied { seen: format!("{seen} within {} ms", length.as_millis()), over: Over::At(workload.now()) })
}

/// The process of a component, which may be on its way back from an earlier fault.
async fn process_of(stack: &Stack, target: &str) -> Result<u32> {
    let until = Instant::now() + LAND_TIME_MAX;
    loop {
        if let Some(pid) = stack.component(target)?.pid {
            return Ok(pid);
        }
        ensure!(Instant::now() < until, "{target} does not run");
        sleep(LOOK_EVERY).await;
    }
}

async fn end_process(stack: &Stack, fault: Fault, target: &str) -> Result<Applied> {
    let pid = process_of(stack, target).await?;
    let begin = Instant::now();
    fault.apply(pid)?;
    while runs(pid) {
        ensure!(begin.elapsed() < LAND_TIME_MAX, "process {pid} lives after it was {}", fault.name());
        sleep(Duration::from_millis(1)).await;
    }
    let seen = format!("process {pid} was gone after {} ms", begin.elapsed().as_millis());
    Ok(Applied { seen, over: Over::Restarted { old_pid: pid } })
}

/// Orders a crash at one of the next durable steps, as `holdfast_common::planted` reads it.
async fn crash(stack: &Stack, target: &str) -> Result<Applied> {
    let folder =
        std::env::var_os("HOLDFAST_CRASH_POINTS").context("HOLDFAST_CRASH_POINTS names no folder")?;
    let folder = Path::new(&folder);
    // The service takes the order away, and may be another user.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    let pid = process_of(stack, target).await?;
    let order = folder.join(target);
    fs::write(&order, "").with_context(|| format!("cannot write {}", order.display()))?;
    let begin = Instant::now();
    while runs(pid) {
        if begin.elapsed() > LAND_TIME_MAX {
            // It may be gone: then it was carried out at the last moment.
            let _ = fs::remove_file(&order);
            bail!("{target} did not crash: only a build with planted bugs does");
        }
        sleep(Duration::from_millis(1)).await;
    }
    let crashes = fs::read_to_string(folder.join("crashes")).unwrap_or_default();
    let place = crashes.lines().last().unwrap_or(target);
    let seen = format!("process {pid} crashed at {place} after {} ms", begin.elapsed().as_millis());
    Ok(Applied { seen, over: Over::Restarted { old_pid: pid } })
}

/// Gives a service its program in `folder`. Seen by another process that runs this very file.
async fn roll(stack: &Stack, target: &str, folder: &Path) -> Result<Applied> {
    let service = service_of(target).with_context(|| format!("{target} has no program of ours"))?;
    let wanted = programs::program_in(folder, service)?;
    let old_pid = process_of(stack, target).await?;
    let old = Running::of(old_pid).with_context(|| format!("process {old_pid} has no program"))?.file;
    ensure!(old != wanted, "{target} runs {} already", wanted.display());
    let begin = Instant::now();
    control::change_program(&stack.layout, &stack.component(target)?, folder)?;
    loop {
        let pid = stack.component(target)?.pid.filter(|pid| *pid != old_pid);
        if let Some(pid) = pid
            && Running::of(pid).is_some_and(|now| now.file == wanted)
        {
            let seen = format!(
                "process {old_pid} ran {}, process {pid} runs {} after {} ms",
                old.display(),
                wanted.display(),
                begin.elapsed().as_millis()
            );
            return Ok(Applied { seen, over: Over::Restarted { old_pid } });
        }
        ensure!(begin.elapsed() < LAND_TIME_MAX, "no process of {target} runs {}", wanted.display());
        sleep(LOOK_EVERY).await;
    }
}

async fn stall(stack: &Stack, workload: &Workload, target: &str, length: Duration) -> Result<Applied> {
    let pid = process_of(stack, target).await?;
    let stopped = Stopped::tree(pid)?;
    let begin = Instant::now();
    while state(pid) != Some('T') {
        ensure!(begin.elapsed() < LAND_TIME_MAX, "process {pid} was never seen stopped");
        sleep(Duration::from_millis(1)).await;
    }
    sleep(length.saturating_sub(begin.elapsed())).await;
    let stopped_to_the_end = state(pid) == Some('T');
    if !runs(pid) {
        // The supervisor takes a service that is deaf for long for dead.
        let seen = format!("process {pid} was stopped, and ended by its supervisor");
        return Ok(Applied { seen, over: Over::Restarted { old_pid: pid } });
    }
    drop(stopped);
    ensure!(stopped_to_the_end, "process {pid} was continued by somebody else");
    let seen = format!("process {pid} was stopped for {} ms", begin.elapsed().as_millis());
    Ok(Applied { seen, over: Over::At(workload.now()) })
}

async fn hold(stack: &Stack, target: &str, length: Duration) -> Result<Applied> {
    let begin = Instant::now();
    let (mut kills, mut old_pid) = (0, 0);
    while kills == 0 || begin.elapsed() < length {
        if let Some(pid) = stack.component(target)?.pid
            && pid != old_pid
        {
            // Fails if it has ended since.
            if Fault::Kill.apply(pid).is_ok() {
                (kills, old_pid) = (kills + 1, pid);
            }
        }
        ensure!(begin.elapsed() < length + LAND_TIME_MAX, "{target} did not run");
        sleep(LOOK_EVERY).await;
    }
    let seen = format!("killed {kills} times within {} ms", begin.elapsed().as_millis());
    Ok(Applied { seen, over: Over::Restarted { old_pid } })
}

/// The broker's disk as it is now comes back later, as on a machine that loses its power without having written it.
async fn lose_tail(stack: &Stack, broker: &str, later: Duration) -> Result<Applied> {
    let logs = stack.layout.kafka_dir().join("logs");
    let disk = BrokerDisk::of(process_of(stack, broker).await?, logs).await?;
    sleep(later).await;
    let pid = process_of(stack, broker).await?;
    // It would start the broker at once.
    let unsupervised = Stopped::alone(stack.supervisor_pid()?)?;
    let lost = disk.comes_back(pid).await?;
    drop(unsupervised);
    let seen = format!("the broker has its disk of {} ms before, {lost} bytes less", later.as_millis());
    Ok(Applied { seen, over: Over::Restarted { old_pid: pid } })
}

async fn rotate(stack: &Stack, workload: &Workload, arguments: &[&str]) -> Result<Applied> {
    let serial = || {
        let path = stack.layout.pki_dir().join("order").join("tls.crt");
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let before = serial()?;
    stack.operate_surely(arguments).await?;
    ensure!(serial()? != before, "the certificates are the same");
    Ok(Applied {
        seen: "the certificates of order are other ones".to_owned(),
        over: Over::At(workload.now()),
    })
}

/// Leaves a component no space on its disk, until it was seen to need some.
async fn fill_disk(stack: &Stack, target: &str, length: Duration) -> Result<Applied> {
    let log = LogSince::now(stack.layout.log_file(target));
    let begin = Instant::now();
    let full = stack.disks()?.fill(target).await?;
    let mut complaints = 0;
    while begin.elapsed() < length || complaints == 0 {
        ensure!(begin.elapsed() < length + LAND_TIME_MAX, "{target} did not need any room");
        sleep(LOOK_AT_LOGS_EVERY).await;
        full.again().await?;
        complaints = log.count(&["No space left on device"])?;
    }
    let time = begin.elapsed();
    let free = full.heal().await?;
    let seen = format!(
        "{complaints} lines of its log say that no space is left, within {} ms; then {} MB were free",
        time.as_millis(),
        free / 1_000_000
    );
    Ok(Applied { seen, over: Over::Serves })
}

/// Falsifies what the kernel answers a component and, if it ends because of that, those that follow it.
async fn falsify(stack: &Stack, target: &str, injection: Injection, length: Duration) -> Result<Applied> {
    let begin = Instant::now();
    let (mut calls, mut processes, mut ended) = (0, 0, 0);
    while calls == 0 || begin.elapsed() < length {
        ensure!(begin.elapsed() < length + LAND_TIME_MAX, "{target} made no such call");
        let Some(pid) = stack.component(target)?.pid.filter(|pid| runs(*pid)) else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        let tracer = match Tracer::attach(pid, injection).await {
            Ok(tracer) => tracer,
            // It may have ended since.
            Err(_) if !runs(pid) => continue,
            Err(error) => return Err(error),
        };
        processes += 1;
        while runs(pid)
            && (begin.elapsed() < length || tracer.falsified()? == 0)
            && begin.elapsed() < length + LAND_TIME_MAX
        {
            sleep(LOOK_EVERY).await;
        }
        ended += usize::from(!runs(pid));
        calls += tracer.detach().await?;
    }
    let what = match injection {
        Injection::Error => "failed with EIO".to_owned(),
        Injection::Delay(delay) => format!("took {} ms longer", delay.as_millis()),
    };
    let seen = format!(
        "{calls} fsyncs of {processes} processes {what} within {} ms, and {ended} of these ended",
        begin.elapsed().as_millis()
    );
    Ok(Applied { seen, over: Over::Serves })
}

/// Gives an identity a certificate with a flaw, and breaks its connections so that its peers look at it.
async fn deceive(
    stack: &Stack,
    workload: &Workload,
    identity: &str,
    flaw: Flaw,
    length: Duration,
) -> Result<Applied> {
    let begin = Instant::now();
    let pki = stack.layout.pki_dir();
    let flawed = Flawed::install(&pki, identity, flaw)?;
    await_certificate(stack, identity).await?;
    if flaw == Flaw::Expires {
        let left = Pki::open(&pki)?.leaf_status(identity)?.not_after - time::OffsetDateTime::now_utc();
        // It has expired if that is negative. In its last second it is still valid, so a peer that connects then gets through.
        sleep(Duration::try_from(left).unwrap_or_default() + LAST_SECOND).await;
    }
    let logs = reconnect(stack, identity).await?;
    let broken = Instant::now();
    let mut refused = 0;
    while broken.elapsed() < length || refused == 0 {
        ensure!(
            broken.elapsed() < length + LAND_TIME_MAX,
            "no handshake was refused because {}",
            flaw.name()
        );
        sleep(LOOK_AT_LOGS_EVERY).await;
        refused = logs.iter().map(|log| log.count(&flaw.refusals())).sum::<std::io::Result<usize>>()?;
    }
    flawed.heal()?;
    await_certificate(stack, identity).await?;
    let time = begin.elapsed().as_millis();
    let seen = format!("{refused} handshakes were refused because {}, within {time} ms", flaw.name());
    Ok(Applied { seen, over: Over::At(workload.now()) })
}

/// Breaks the connections between the gateway and an identity: connections outlive the certificates that they were made with.
/// Returns what the servers at their ends write into their logs from then on.
async fn reconnect(stack: &Stack, identity: &str) -> Result<Vec<LogSince>> {
    let pattern =
        if identity == GATEWAY { format!("{GATEWAY}->*") } else { format!("{GATEWAY}->{identity}*") };
    let broken = stack.links()?.break_for_now(&pattern, Condition::Reset)?;
    let servers = broken.names.iter().filter_map(|link| link.split_once("->"));
    let logs = servers.map(|(_, server)| LogSince::now(stack.layout.log_file(server))).collect();
    sleep(RESET_TIME).await;
    Ok(logs)
}

/// The metric that says which certificate a process uses, and what earlier programs call it.
const CERTIFICATE_INFO: [&str; 2] = ["holdfast_certificate_info", "cert_info"];

/// Returns when every service with this identity uses the certificate in its files.
async fn await_certificate(stack: &Stack, identity: &str) -> Result<()> {
    let fingerprint = Pki::open(&stack.layout.pki_dir())?.leaf_status(identity)?.fingerprint;
    let part = format!("fingerprint=\"{fingerprint}\"");
    let rest = stack.rest()?;
    let until = Instant::now() + RELOAD_TIME_MAX;
    for component in
        stack.components()?.iter().filter(|component| service_of(&component.name) == Some(identity))
    {
        let url = stack.layout.admin_url(&component.name);
        loop {
            let uses = admin::page(&rest, &url, "/metrics").await.is_ok_and(|answer| {
                let page = String::from_utf8_lossy(&answer.body).into_owned();
                CERTIFICATE_INFO.iter().any(|name| admin::metric(&page, name, &[&part]) > 0.0)
            });
            if uses {
                break;
            }
            ensure!(Instant::now() < until, "{} does not use its new certificate", component.name);
            sleep(LOOK_EVERY * 10).await;
        }
    }
    Ok(())
}
