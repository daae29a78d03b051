//! A chaos run from its first account to its report.
//!
//! The load goes on all the time: first without faults (the control phase), then with them, then without again. Then every
//! unknown outcome is resolved, poison is repaired, and nothing may be on its way any more. What was seen goes into a folder,
//! and [`crate::judge`] says what it is worth.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use holdfast_native::{
    layout::{PARTICIPANTS, service_names},
    port_offset::PortOffset,
    programs, say,
};
use holdfast_proto::text::on_one_line;
use serde::Deserialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    evidence::{Folder, RunInfo, collect},
    fault::{full_disk, poison::Place, syscalls},
    journal::Journal,
    load::{self, Plan as Load},
    report::Report,
    scenario::{Action, Plan, PlannedFault, Scenario},
    stack::{self, PortTaken, Setup, Stack},
    storm::{self, FaultRecord},
    watch::{Sample, Watch},
    workload::Workload,
};

/// Clients at a time: far more than the rate needs, so that nobody waits for a client that waits.
const CLIENTS_MAX: usize = 4_096;
/// Nothing has moved for this long although something waits: it is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// A stack in which nothing has changed for this long is at rest. Longer than a consumer needs to come back.
const REST: Duration = Duration::from_secs(15);
/// An order may have lost several events, one after another.
const RECONCILE_ROUNDS_MAX: usize = 5;
const START_ATTEMPTS_MAX: u32 = 20;
/// More than any run makes.
const LETTERS_MAX: &str = "100000";
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Deliveries take as long as this times three.
const DELIVERY_STEP: (&str, &str) = ("HOLDFAST__DELIVERY__STEP", "200ms");

/// What to run, and on what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario's name, or its file.
    pub name: String,
    /// The scenario.
    pub scenario: Scenario,
    /// The source of all randomness.
    pub seed: u64,
    /// The operator's command.
    pub program: PathBuf,
    /// The folder of a stack that runs already; none for one of its own.
    pub running: Option<PathBuf>,
    /// The folder of the programs of an earlier build, which a stack of its own begins with.
    pub earlier: Option<PathBuf>,
    /// Added to each port of a stack of its own; absent: one whose ports are free.
    pub port_offset: Option<u16>,
    /// Where the evidence and the report go.
    pub folder: PathBuf,
    /// The command that does it again, for the report.
    pub command: String,
    /// The commit of the working tree, for the report.
    pub commit: String,
}

/// Runs it, judges it and writes the report.
pub async fn run(mut options: Options) -> Result<Report> {
    let folder = Folder::create(&options.folder)?;
    let unavailable = leave_out(&mut options).await;
    let stack = Arc::new(open_stack(&options).await?);
    let outcome = tokio::select! {
        outcome = run_on(&stack, &options, unavailable, &folder) => outcome,
        // What it has stopped continues as its guards are dropped.
        interrupted = interrupted() => Err(interrupted.map_or_else(Into::into, |()| anyhow!("interrupted"))),
    };
    // Whatever happened: its own stack goes, somebody else's stays.
    stack.end().await?;
    outcome
}

/// Leaves out the kinds of faults that can't be done here, and says of each why.
async fn leave_out(options: &mut Options) -> Vec<String> {
    let (mut kept, mut unavailable) = (Vec::new(), Vec::new());
    for kind in std::mem::take(&mut options.scenario.faults) {
        match unavailable_here(kind.action, options.running.is_some()).await {
            Some(reason) => {
                let reason = format!("{}: not available here: {reason}", kind.action.name());
                say!("not tested: {reason}");
                unavailable.push(reason);
            }
            None => kept.push(kind),
        }
    }
    options.scenario.faults = kept;
    unavailable
}

/// Why faults of this kind can't be done here, if they can't.
async fn unavailable_here(action: Action, is_running: bool) -> Option<String> {
    if action.on_syscalls().is_some() {
        return syscalls::unavailable().await;
    }
    if is_running && (action == Action::DiskFull || action.on_identity().is_some()) {
        return Some("it takes a stack of the run's own, without --data-dir".to_owned());
    }
    if action == Action::DiskFull { full_disk::unavailable() } else { None }
}

/// Returns when somebody wants the run to end.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

async fn open_stack(options: &Options) -> Result<Stack> {
    let program = options.program.clone();
    if let Some(data_dir) = &options.running {
        ensure!(
            !options.scenario.has(Action::LoseTail),
            "{} deletes what the broker has: only on a stack of its own, without --data-dir",
            options.name
        );
        return Stack::running(program, data_dir.clone());
    }
    if let Some(earlier) = &options.earlier {
        are_other_programs(earlier, &program)?;
    }
    say!("starting a stack of its own");
    let setup = |port_offset: PortOffset| Setup {
        data_dir: stack::own_folder(&std::env::temp_dir(), port_offset.number),
        port_offset,
        replicas: &options.scenario.replicas,
        environment: &[DELIVERY_STEP],
        links: options.scenario.needs_links(),
        programs: options.earlier.as_deref(),
        disks: options.scenario.has(Action::DiskFull),
    };
    if let Some(port_offset) = options.port_offset {
        return Stack::start(program, setup(PortOffset::chosen(port_offset))).await;
    }
    for _ in 0..START_ATTEMPTS_MAX {
        let replicas = options.scenario.replicas.iter().map(String::as_str);
        let port_offset = PortOffset::draw(replicas, options.scenario.needs_links())?;
        match Stack::start(program.clone(), setup(port_offset)).await {
            Err(error) if error.is::<PortTaken>() => {}
            other => return other,
        }
    }
    Err(PortTaken.into())
}

/// An upgrade to the same programs would prove nothing.
fn are_other_programs(earlier: &Path, program: &Path) -> Result<()> {
    let own = program.parent().context("the command has no folder")?;
    for service in service_names() {
        let [old, new] = [earlier, own].map(|folder| {
            let path = programs::program_in(folder, service)?;
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        });
        ensure!(old? != new?, "holdfast-{service} in {} is the one of this build", earlier.display());
    }
    Ok(())
}

async fn run_on(
    stack: &Arc<Stack>,
    options: &Options,
    unavailable: Vec<String>,
    folder: &Folder,
) -> Result<Report> {
    let components: Vec<String> = stack.components()?.into_iter().map(|component| component.name).collect();
    let plan =
        Plan::draw(&options.name, options.scenario.clone(), options.seed, &components, &stack.link_names());
    show(&plan);
    folder.write("plan.json", &plan)?;
    let run = format!("chaos-{}-{:x}", std::process::id(), options.seed);
    let journal = Journal::create(&folder.file("journal.jsonl"), std::time::Instant::now())?;
    let began_at = time::OffsetDateTime::now_utc();
    let workload = Workload::open(&stack.rest()?, journal, &run, options.seed).await?;
    let watch = Watch::start(stack.clone(), stack.rest()?, workload.clone())?;
    let mut info = RunInfo {
        users: workload.user_names().map(str::to_owned).collect(),
        run,
        began_at: began_at.format(&time::format_description::well_known::Rfc3339)?,
        command: options.command.clone(),
        commit: options.commit.clone(),
        machine: machine(),
        components,
        plan,
        unavailable,
        load_began: workload.now(),
        storm: [0, 0],
        load_ended: 0,
        settled: None,
        stuck: None,
        resolved: 0,
        discarded: 0,
        before_repair: Vec::new(),
        re_emitted: 0,
        counters: std::collections::BTreeMap::new(),
        open_before: parked(stack).await?.iter().map(|letter| letter.id.clone()).collect(),
    };
    let faults = under_load(stack, &workload, &watch, &mut info).await?;
    folder.write_lines("faults.jsonl", &faults)?;
    // What fails now is a finding about the stack, so the evidence is gathered all the same.
    if info.stuck.is_none()
        && let Err(error) = settle(stack, &workload, &watch, &faults, &mut info).await
    {
        info.stuck = Some(format!("{error:#}"));
    }
    if let Some(stuck) = &info.stuck {
        say!("stuck: {}", on_one_line(stuck));
        dump(stack, folder).await;
    }
    gather(stack, &workload, watch, &mut info, folder).await?;

    let evidence = folder.load()?;
    let report = Report::of(&evidence, folder);
    report.write(&evidence, folder)?;
    Ok(report)
}

fn show(plan: &Plan) {
    say!("{}: {}", plan.name, plan.scenario.about);
    say!(
        "seed {}, {} orders/s for {} s, {} faults:",
        plan.seed,
        plan.scenario.orders_per_second,
        plan.load_seconds(),
        plan.faults.len()
    );
    for fault in &plan.faults {
        let length = if fault.length_ms > 0 { format!(" for {} ms", fault.length_ms) } else { String::new() };
        say!(
            "  {:>7.1} s  {} {}{length}",
            Duration::from_millis(fault.at_ms).as_secs_f64(),
            fault.action.name(),
            fault.target
        );
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    // Linux says it in KiB; elsewhere it is not known.
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    format!("{cores} cores, {} GB of memory", memory.unwrap_or(0) / 1_000_000)
}

/// The load, and the faults in the middle of it.
async fn under_load(
    stack: &Arc<Stack>,
    workload: &Arc<Workload>,
    watch: &Watch,
    info: &mut RunInfo,
) -> Result<Vec<FaultRecord>> {
    let scenario = info.plan.scenario.clone();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a positive count of orders"
    )]
    let requests = (scenario.orders_per_second * info.plan.load_seconds() as f64).ceil() as u64;
    let load = Load { rate: scenario.orders_per_second, requests, clients: CLIENTS_MAX };
    let clients = tokio::spawn({
        let workload = workload.clone();
        load::open_loop(load, move |number, _| workload.clone().client(number))
    });
    let begin = Instant::now();
    let control = begin + Duration::from_secs(scenario.control_seconds);
    sleep_until(control).await;
    info.storm[0] = workload.now();
    let mut faults = Vec::new();
    tokio::select! {
        () = storm(stack, workload, watch, control, &info.plan.faults, &mut faults) => {}
        stuck = stuck(watch, STUCK_AFTER * 3) => info.stuck = Some(stuck),
    }
    info.storm[1] = workload.now();
    if info.stuck.is_some() {
        clients.abort();
    } else {
        for client in clients.await.context("the load panicked")? {
            client.context("a client could not write what it saw")?;
        }
    }
    info.load_ended = workload.now();
    Ok(faults)
}

async fn storm(
    stack: &Arc<Stack>,
    workload: &Arc<Workload>,
    watch: &Watch,
    begin: Instant,
    faults: &[PlannedFault],
    records: &mut Vec<FaultRecord>,
) {
    for (index, fault) in faults.iter().enumerate() {
        sleep_until(begin + Duration::from_millis(fault.at_ms)).await;
        // One that is cut short is put down too: it excuses what came after it.
        records.push(FaultRecord::begun(index + 1, fault, workload.now()));
        let Some(record) = records.last_mut() else { return };
        storm::carry_out(stack, workload, fault, record).await;
        let what = record.landed.as_deref().or(record.error.as_deref()).unwrap_or_default();
        say!(
            "{:>3}/{} {} {}: {what}{}; {}",
            record.number,
            faults.len(),
            record.action.name(),
            record.target,
            record.over.map_or(String::new(), |over| format!(
                ", over after {:.1} s",
                Duration::from_micros(over.saturating_sub(record.begin)).as_secs_f64()
            )),
            progress(workload, watch)
        );
    }
}

/// One line: how far it is, and whether anything is wrong so far.
fn progress(workload: &Workload, watch: &Watch) -> String {
    let unfinished =
        watch.latest().and_then(|sample| sample.orders).map_or("?".to_owned(), |(open, _)| open.to_string());
    format!(
        "{} orders accepted, {unfinished} on their way, {} looks at the money",
        workload.accepted(),
        watch.looks()
    )
}

/// Returns when something waits and nothing has moved for this long, with everything that is known then.
async fn stuck(watch: &Watch, after: Duration) -> String {
    let mut last = (0, 0);
    let mut since = Instant::now();
    loop {
        sleep(Duration::from_secs(1)).await;
        let Some(sample) = watch.latest() else { continue };
        let now = progress_of(&sample);
        if now != last || !waits(&sample) {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > after {
            return format!("nothing has moved for {} s: {sample:?}", after.as_secs());
        }
    }
}

/// What grows while anything moves.
fn progress_of(sample: &Sample) -> (i64, i64) {
    let tally = sample.services.values().map(|service| service.tally).sum();
    (tally, sample.orders.map_or(0, |(_, ended)| ended))
}

fn waits(sample: &Sample) -> bool {
    let on_the_way = sample.orders.is_none_or(|(unfinished, _)| unfinished > 0);
    on_the_way
        || sample.services.len() < PARTICIPANTS.len()
        || sample.services.values().any(|service| service.lag != Some(0) || service.outbox > 0)
}

/// Resolves what is unknown, repairs what is poison, and waits until nothing is on its way.
async fn settle(
    stack: &Stack,
    workload: &Arc<Workload>,
    watch: &Watch,
    faults: &[FaultRecord],
    info: &mut RunInfo,
) -> Result<()> {
    say!("the load has ended: {}", progress(workload, watch));
    info.resolved = workload.resolve().await?;
    if faults.iter().any(|fault| fault.action == Action::Poison) {
        info.before_repair = collect::ends(stack).await?;
        everything_is_read(watch, workload.now()).await;
        info.discarded = repair(stack, faults).await?;
    }
    if faults.iter().any(|fault| fault.action == Action::LoseTail) {
        info.re_emitted = reconcile(stack, watch).await?;
    }
    let settled = async {
        let mut said = Instant::now();
        loop {
            let looks = watch.looks();
            sleep(Duration::from_secs(1)).await;
            if watch.looks() > looks && watch.latest().is_some_and(|sample| !waits(&sample)) {
                return;
            }
            if said.elapsed() > SAY_EVERY {
                say!("settling: {}", progress(workload, watch));
                said = Instant::now();
            }
        }
    };
    tokio::select! {
        () = settled => info.settled = Some(workload.now()),
        stuck = stuck(watch, STUCK_AFTER) => info.stuck = Some(stuck),
    }
    workload.read_everything().await
}

/// Writes down how a stack that is stuck looks, before it is taken down: what the operator's commands say, and what each
/// service says of itself. What can't be had is left out; the logs are gathered in any case.
async fn dump(stack: &Stack, folder: &Folder) {
    let looks: [(&str, &[&str]); 5] = [
        // Its exit code says that something is not ready, which is no reason to lose what it prints.
        ("status", &["status", "-o", "json"]),
        ("positions", &["positions", "-o", "json"]),
        ("dead-letters", &["dlq", "list", "--state", "all", "-o", "json"]),
        ("outbox", &["outbox", "list", "-o", "json"]),
        ("certificates", &["certs", "status", "-o", "json"]),
    ];
    for (name, command) in looks {
        let written = match stack.operate(command).await {
            Ok(output) if output.stdout.is_empty() => {
                std::fs::write(folder.file(&format!("stuck-{name}.txt")), output.stderr)
            }
            Ok(output) => std::fs::write(folder.file(&format!("stuck-{name}.json")), output.stdout),
            Err(error) => std::fs::write(folder.file(&format!("stuck-{name}.txt")), format!("{error:#}")),
        };
        if let Err(error) = written {
            say!("cannot write down the {name}: {error}");
        }
    }
    for (component, page, said) in stack.admin_pages().await {
        if let Err(error) = std::fs::write(folder.file(&format!("stuck-{component}-{page}.txt")), said) {
            say!("cannot write down the {page} of {component}: {error}");
        }
    }
}

/// Returns when all that the topics had at `time` has been read: the last of the poison too is a letter then, and what came behind one is
/// parked. What is not read for so long is stuck, which is found after the repair.
async fn everything_is_read(watch: &Watch, time: u64) {
    let is_read = |sample: &Sample| {
        sample.time > time
            && sample.services.len() == PARTICIPANTS.len()
            && sample.services.values().all(|service| service.lag == Some(0))
    };
    let until = Instant::now() + STUCK_AFTER;
    while Instant::now() < until && !watch.latest().is_some_and(|sample| is_read(&sample)) {
        sleep(Duration::from_millis(100)).await;
    }
}

/// A dead letter, as `holdfast dlq list` prints it.
#[derive(Debug, Deserialize)]
struct Letter {
    id: String,
    key: Option<String>,
    #[serde(flatten)]
    place: Place,
}

/// The letters that are open.
async fn parked(stack: &Stack) -> Result<Vec<Letter>> {
    let mut document =
        stack.operate_json(&["dlq", "list", "--state", "parked", "--limit", LETTERS_MAX]).await?;
    Ok(serde_json::from_value(document["dead_letters"].take())?)
}

/// Gives up every letter of the run's poison, then redrives what waited behind it. Letters of others stay. Returns how many were
/// given up.
async fn repair(stack: &Stack, faults: &[FaultRecord]) -> Result<usize> {
    let places: HashSet<&Place> = faults.iter().flat_map(|fault| &fault.poison).collect();
    let letters = parked(stack).await?;
    let poison: Vec<&str> = letters
        .iter()
        .filter(|letter| places.contains(&letter.place))
        .map(|letter| letter.id.as_str())
        .collect();
    for some in poison.chunks(100) {
        let arguments = [&["dlq", "discard"], some, &["--reason", "poison of a chaos run", "--yes"]].concat();
        stack.operate_surely(&arguments).await?;
    }
    let victims: BTreeSet<&str> = faults.iter().filter_map(|fault| fault.victim.as_deref()).collect();
    let waiting = |victim: &&&str| letters.iter().any(|letter| letter.key.as_deref() == Some(**victim));
    for victim in victims.iter().filter(waiting) {
        let output = stack.operate(&["dlq", "redrive", "--order", victim, "--execute"]).await?;
        // 3: nothing waited behind the poison.
        ensure!(
            output.status.success() || output.status.code() == Some(3),
            "the letters of order {victim} could not be redriven: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    say!("{} letters of poison were discarded, and what waited behind them redriven", poison.len());
    Ok(poison.len())
}

/// Once nothing moves any more, what the broker has lost is re-emitted, until nothing is lost. Returns how many events that were.
async fn reconcile(stack: &Stack, watch: &Watch) -> Result<usize> {
    let arguments = ["reconcile", "--older-than", "0s", "--execute", "--reason", "a chaos run"];
    let mut re_emitted = 0;
    for _ in 0..RECONCILE_ROUNDS_MAX {
        at_rest(watch).await;
        let document = stack.operate_json(&arguments).await?;
        let events = document["events"].as_array().context("reconcile prints no events")?;
        if events.is_empty() {
            say!("{re_emitted} events that the broker had lost were re-emitted");
            return Ok(re_emitted);
        }
        re_emitted += events.iter().filter(|event| event["state"] == "re-emitted").count();
    }
    bail!(
        "events are still missing after {RECONCILE_ROUNDS_MAX} rounds of reconcile, {re_emitted} were re-emitted"
    )
}

/// Returns when nothing has moved for a while: what still waits then waits for somebody.
async fn at_rest(watch: &Watch) {
    let (mut last, mut since) = (None, Instant::now());
    while since.elapsed() < REST {
        sleep(Duration::from_secs(1)).await;
        let now = watch.latest().map(|sample| (progress_of(&sample), sample.services));
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// Writes down everything that the run has left.
async fn gather(
    stack: &Stack,
    workload: &Workload,
    watch: Watch,
    info: &mut RunInfo,
    folder: &Folder,
) -> Result<()> {
    say!("reading databases, topics and logs");
    let state = collect::state(stack, &info.users).await?;
    let records = collect::records(stack, state.partitions.clone()).await?;
    let tokens: Vec<&str> = workload.tokens().collect();
    let logs = collect::logs(stack, &tokens, &folder.file("logs"))?;
    let (samples, counters) = watch.finish();
    info.counters = counters;
    folder.write("state.json", &state)?;
    folder.write_lines("records.jsonl", &records)?;
    folder.write_lines("samples.jsonl", &samples)?;
    folder.write("logs.json", &logs)?;
    folder.write("run.json", info)
}
