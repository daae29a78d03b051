//! `up`.

#![expect(clippy::disallowed_methods, reason = "waits before there is a runtime")]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_native::{
    control::{self, Detached, Found, Stopped},
    layout::{
        CONSOLE, Extra, GATEWAY, Layout, PORT_OFFSET_MAX, Replicas, ReplicasError, Scope, Tls, service_of,
    },
    prepare::{self, PortTaken, Prepared, Temporary, Wanted, prepare},
    remembered::{self, Remembered, Setting},
    state::{ComponentReport, ComponentState, Lock, StackReport},
    supervisor::{self, Lifetime, Restart},
};

use super::{down::STOP_TIME_MAX, roll::parse_programs, token};
use crate::{
    commands::certs::folder::remedy,
    options::{At, folder_option, hint, make_hint},
    output::{Outcome, data, say},
};

/// The pause between two looks at another start.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the printed token is valid.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command line")]
pub(crate) struct Up {
    #[command(flatten)]
    at: At,
    /// Stay in the foreground; Ctrl-C stops the stack
    #[arg(long)]
    foreground: bool,
    /// Add N to each port, so that stacks can coexist; as at the last start unless it is said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=i64::from(PORT_OFFSET_MAX)))]
    port_offset: Option<u16>,
    /// Start N replicas of a service, 1 to 9; may be repeated for each. As at the last start, or as `holdfast scale` has left it, unless it
    /// is said
    #[arg(long, value_name = "SERVICE=N", value_parser = parse_replicas)]
    replicas: Vec<String>,
    /// Start this as well; `redis` has all gateways share the limits of their clients
    #[arg(long, value_name = "WHAT", value_parser = str::parse::<Extra>)]
    with: Vec<Extra>,
    /// Leave this out; without `console` there are no pages for operators
    #[arg(long, value_name = "WHAT", value_parser = str::parse::<Extra>)]
    without: Vec<Extra>,
    /// Set a setting of services, such as `kafka.dead_letters_in_a_row_max=9`; may be repeated. It is kept for later starts until it is
    /// set to nothing (`kafka.dead_letters_in_a_row_max=`)
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = str::parse::<Setting>)]
    set: Vec<Setting>,
    /// Whether connections to the databases are encrypted, and both ends show certificates
    #[arg(long, env = "HOLDFAST_DATABASE_TLS", default_value = Tls::DEFAULT.name(), value_name = "on|off", value_parser = str::parse::<Tls>)]
    database_tls: Tls,
    /// Whether connections to Kafka are encrypted, both ends show certificates, and each service may do only what it must; needs
    /// programs that scripts/kafka-tls.sh builds
    #[arg(long, env = "HOLDFAST_KAFKA_TLS", default_value = Tls::Off.name(), value_name = "on|off", value_parser = str::parse::<Tls>)]
    kafka_tls: Tls,
    /// Run the services' programs of this folder, instead of those beside this command; `holdfast roll` changes that later
    #[arg(long, value_name = "DIR", value_parser = parse_programs, conflicts_with = "infrastructure_only")]
    programs: Option<PathBuf>,
    /// Leave a component down when it dies, instead of starting it again
    #[arg(long)]
    no_restart: bool,
    /// How long to wait until everything is ready
    #[arg(long, default_value = "120s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
    /// Databases and broker only
    #[arg(long, hide = true)]
    infrastructure_only: bool,
    /// Have each client reach each server by a port of their link, so that faults of the network can be made between them. A proxy
    /// must run for each link that the stack's `state.json` lists: without them nothing becomes ready, and they are not started
    /// here
    #[arg(long, hide = true, conflicts_with = "infrastructure_only")]
    links: bool,
    /// Standard input is the stack's lock, which is held
    #[arg(long, hide = true, requires = "foreground", conflicts_with = "until_parent_ends")]
    inherit_lock: bool,
    /// End when standard input closes, and delete the data
    #[arg(long, hide = true, requires = "foreground")]
    until_parent_ends: bool,
}

/// What a start finds when it comes to its turn.
enum Turn {
    /// Nobody else starts the stack, and nobody runs it.
    Ours(Lock),
    /// It runs.
    Running(StackReport),
}

pub(super) fn parse_replicas(text: &str) -> Result<String, ReplicasError> {
    Replicas::default().set(text)?;
    Ok(text.to_owned())
}

/// A line for each component when it is ready.
struct Progress {
    begin: Instant,
    /// Nothing is said of what ran already.
    says: bool,
    said: Vec<String>,
}

impl Progress {
    fn new(says: bool) -> Self {
        Self { begin: Instant::now(), says, said: Vec::new() }
    }

    fn looked(&mut self, report: &StackReport) {
        let is_ready = |component: &&ComponentReport| component.state == ComponentState::Ready;
        for component in report.components.iter().filter(is_ready) {
            if self.says && !self.said.contains(&component.name) {
                say!("{} is ready ({:.1} s)", component.name, self.begin.elapsed().as_secs_f32());
                self.said.push(component.name.clone());
            }
        }
    }
}

impl Up {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let data_dir = self.at.data_dir()?;
        let before = remembered::recall(&Layout::new(data_dir.clone(), 0))?;
        let mut replicas = Replicas::default();
        for wanted in before.replicas.iter().chain(&self.replicas) {
            replicas.set(wanted)?;
        }
        let layout = Layout::new(data_dir.clone(), self.port_offset.unwrap_or(before.port_offset));
        let wanted = Wanted {
            scope: if self.infrastructure_only { Scope::Infrastructure } else { Scope::Everything },
            replicas,
            extras: self.extras(),
            command_options: folder_option(&data_dir),
            links: if self.links { layout.links(replicas) } else { Vec::new() },
            programs: self.programs.as_deref(),
            database_tls: self.database_tls,
            kafka_tls: self.kafka_tls,
            settings: self.settings(&before),
            temporary_ports: if self.until_parent_ends { Temporary::Fail } else { Temporary::Wait },
        };
        let lock = if self.inherit_lock {
            Lock::inherited(&layout)?
        } else {
            match self.wait_for_turn(&layout, &wanted)? {
                Turn::Ours(lock) => {
                    self.say_what_is_remembered(&before);
                    lock
                }
                Turn::Running(report) => {
                    self.check_same(&data_dir, &report, &before)?;
                    return self.greet_when_ready(&data_dir, None);
                }
            }
        };
        if control::stop_abandoned(&layout, &lock, STOP_TIME_MAX)? == Stopped::Abandoned {
            say!("stopped components that had lost their supervisor");
        }
        let prepared = match prepare(layout.clone(), &lock, wanted) {
            // Only tests start a stack that ends with its parent, and they try other ports.
            Err(error) if self.until_parent_ends && error.is::<PortTaken>() => {
                say!("holdfast: {error:#}");
                return Ok(Outcome::PortTaken);
            }
            other => other.map_err(|error| match remedy(&error) {
                Some(command) => anyhow::anyhow!("{error:#}: `{}`", hint(&data_dir, command)),
                None => error,
            })?,
        };
        if self.foreground {
            return self.supervise(prepared, lock);
        }
        let detached = control::detach(&layout, &lock, &self.supervisor_arguments(&layout, replicas))?;
        // The supervisor alone has it now, so whoever asks sees when that ends.
        drop(lock);
        self.greet_when_ready(&data_dir, Some(detached))
    }

    /// Those of before, with what is asked for.
    fn settings(&self, before: &Remembered) -> BTreeMap<String, String> {
        let mut settings = before.settings.clone();
        for Setting { key, value } in self.set.clone() {
            match value {
                Some(value) => settings.insert(key, value),
                None => settings.remove(&key),
            };
        }
        settings
    }

    /// What was not asked for, and is not the default.
    fn say_what_is_remembered(&self, before: &Remembered) {
        let is_asked = |replicas: &String| {
            let service = |text: &str| text.split('=').next().map(str::to_owned);
            self.replicas.iter().any(|asked| service(asked) == service(replicas))
        };
        let kept = Remembered {
            port_offset: if self.port_offset.is_some() { 0 } else { before.port_offset },
            replicas: before.replicas.iter().filter(|replicas| !is_asked(replicas)).cloned().collect(),
            settings: before
                .settings
                .iter()
                .filter(|(key, _)| !self.set.iter().any(|asked| asked.key == **key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        };
        if kept != Remembered::default() {
            say!("as before: {}", kept.options());
        }
    }

    /// Of several starts at once in a folder the first has its lock; the others wait for what becomes of it.
    fn wait_for_turn(&self, layout: &Layout, wanted: &Wanted<'_>) -> Result<Turn> {
        let begin = Instant::now();
        let mut has_said = false;
        loop {
            match control::find(&layout.data_dir)? {
                Found::Running(report) => return Ok(Turn::Running(report)),
                Found::Abandoned(_) | Found::Nothing => {
                    prepare::check(layout, wanted)?;
                    if let Some(lock) = prepare::claim(layout)? {
                        return Ok(Turn::Ours(lock));
                    }
                }
                Found::Starting => {
                    if !has_said {
                        say!(
                            "another command starts or deletes the stack in {}: waiting",
                            layout.data_dir.display()
                        );
                        has_said = true;
                    }
                }
            }
            if begin.elapsed() > self.wait {
                bail!("another command still starts or deletes the stack in {}", layout.data_dir.display());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Fails if the running stack is not the one that was asked for.
    fn check_same(&self, data_dir: &Path, report: &StackReport, before: &Remembered) -> Result<()> {
        say!("the stack in {} runs already", data_dir.display());
        let layout = Layout::new(data_dir.to_owned(), report.port_offset);
        let stop = hint(data_dir, "down");
        if let Some(difference) = self.difference(&layout, report) {
            bail!("it runs {difference}: stop it with `{stop}` first");
        }
        if let Some(other) = self.other_setting(before) {
            bail!("it runs without --set {other}: stop it with `{stop}` first");
        }
        if let Some((runs, wanted)) = self.other_replicas(report) {
            let scale = hint(data_dir, &format!("scale {wanted}"));
            bail!("it runs with --replicas {runs}: `{scale}` changes that");
        }
        if self.programs.is_some() {
            let roll = hint(data_dir, "roll --programs DIR");
            bail!("`{roll}` changes the programs of a stack that runs");
        }
        if self.foreground {
            bail!("stop it with `{stop}` to run it in the foreground");
        }
        Ok(())
    }

    /// How the stack that runs is other than what was asked for, if it has to be stopped for that.
    fn difference(&self, layout: &Layout, report: &StackReport) -> Option<String> {
        if self.port_offset.is_some_and(|offset| offset != report.port_offset) {
            return Some(format!("with --port-offset {}", report.port_offset));
        }
        if self.links && report.links.is_empty() {
            return Some("without --links".to_owned());
        }
        if self.no_restart && !report.leaves_down {
            return Some("without --no-restart".to_owned());
        }
        for (option, runs, wanted) in [
            ("--database-tls", layout.database_tls(), self.database_tls),
            ("--kafka-tls", layout.kafka_tls(), self.kafka_tls),
        ] {
            if runs != wanted {
                return Some(format!("with {option} {}", runs.name()));
            }
        }
        let has = |name: &str| report.components.iter().any(|component| component.name == name);
        // What was said of neither stays as it is.
        if let Some(extra) = self.with.iter().find(|extra| !has(extra.name())) {
            return Some(format!("without --with {}", extra.name()));
        }
        if let Some(extra) = self.without.iter().find(|extra| has(extra.name())) {
            return Some(format!("with --with {}", extra.name()));
        }
        if self.infrastructure_only == has(GATEWAY) {
            let word = if self.infrastructure_only { "without" } else { "with" };
            return Some(format!("{word} --infrastructure-only"));
        }
        None
    }

    /// The first setting that the stack was not started with.
    fn other_setting(&self, before: &Remembered) -> Option<&Setting> {
        self.set.iter().find(|setting| before.settings.get(&setting.key) != setting.value.as_ref())
    }

    /// `SERVICE=N` as it runs and as it is wanted, of the first service that has another number of replicas than was asked for.
    fn other_replicas(&self, report: &StackReport) -> Option<(String, String)> {
        // Of several for one service the last counts.
        let wanted: BTreeMap<&str, &str> =
            self.replicas.iter().filter_map(|text| text.split_once('=')).collect();
        wanted.into_iter().find_map(|(service, number)| {
            let of_service = |component: &&ComponentReport| service_of(&component.name) == Some(service);
            let runs = report.components.iter().filter(of_service).count().to_string();
            (runs != number).then(|| (format!("{service}={runs}"), format!("{service}={number}")))
        })
    }

    /// Those that are asked for, or that every stack has, but for those that are to be left out. Databases and broker have no console.
    fn extras(&self) -> Vec<Extra> {
        let is_wanted = |extra: &Extra| self.with.contains(extra) || Extra::DEFAULT.contains(extra);
        let is_possible = |extra: &Extra| *extra != Extra::Console || !self.infrastructure_only;
        let is_left_out = |extra: &Extra| self.without.contains(extra);
        let all = Extra::ALL.into_iter();
        all.filter(|extra| is_wanted(extra) && is_possible(extra) && !is_left_out(extra)).collect()
    }

    fn supervise(&self, prepared: Prepared, lock: Lock) -> Result<Outcome> {
        let restart = if self.no_restart { Restart::Never } else { Restart::Always };
        let lifetime =
            if self.until_parent_ends { Lifetime::UntilParentEnds } else { Lifetime::UntilStopped };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let outcome = runtime.block_on(supervisor::run(prepared, lock, restart, lifetime));
        // A probe that hangs must not delay the end of the process.
        runtime.shutdown_background();
        outcome.map(|()| Outcome::Done)
    }

    fn supervisor_arguments(&self, layout: &Layout, replicas: Replicas) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["up", "--foreground", "--inherit-lock"].map(OsString::from).into();
        arguments.extend(["--port-offset".into(), layout.port_offset.to_string().into()]);
        arguments.extend(["--data-dir".into(), layout.data_dir.clone().into()]);
        arguments.extend(replicas.arguments().flat_map(|replicas| ["--replicas".into(), replicas.into()]));
        arguments.extend(control::extra_options(&self.extras()).map(OsString::from));
        arguments.extend(["--database-tls".into(), self.database_tls.name().into()]);
        arguments.extend(["--kafka-tls".into(), self.kafka_tls.name().into()]);
        if let Some(programs) = &self.programs {
            arguments.extend(["--programs".into(), programs.into()]);
        }
        if self.infrastructure_only {
            arguments.push("--infrastructure-only".into());
        }
        if self.no_restart {
            arguments.push("--no-restart".into());
        }
        if self.links {
            arguments.push("--links".into());
        }
        arguments
    }

    /// Says what has become ready meanwhile. `None` if the operator does not want to wait any longer (Ctrl-C).
    fn wait_until_ready(&self, data_dir: &Path, detached: Option<Detached>) -> Result<Option<StackReport>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (folder, time_max) = (data_dir.to_owned(), self.wait);
        let ready = runtime.block_on(async {
            let mut progress = Progress::new(detached.is_some());
            let waited = tokio::task::spawn_blocking(move || {
                let looked = |report: &StackReport| progress.looked(report);
                control::wait_ready_while_supervised(&folder, time_max, detached, looked)
            });
            tokio::select! {
                report = waited => Ok::<_, anyhow::Error>(Some(report??)),
                interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None).map_err(Into::into),
            }
        });
        runtime.shutdown_background();
        ready
    }

    /// Prints what a new user needs next.
    fn greet_when_ready(&self, data_dir: &Path, detached: Option<Detached>) -> Result<Outcome> {
        let Some(report) = self.wait_until_ready(data_dir, detached)? else {
            let (status, stop) = (hint(data_dir, "status"), hint(data_dir, "down"));
            say!("the start goes on in the background: `{status}` shows it, `{stop}` stops it");
            return Ok(Outcome::Failed);
        };
        let layout = Layout::new(data_dir.to_owned(), report.port_offset);
        for component in report.components.iter().filter(|component| !component.detail.is_empty()) {
            say!("{} is degraded: {}", component.name, component.detail);
        }
        if !report.components.iter().any(|component| component.name == GATEWAY) {
            data!("Kafka      {}", layout.kafka_brokers())?;
            return Ok(Outcome::Done);
        }
        let url = layout.gateway_url();
        let token = token::sign(data_dir, "user-123", token::SCOPES, TOKEN_LIFE)?;
        data!("REST       {url}/api/orders")?;
        data!("health     {url}/readyz")?;
        data!("metrics    {}/metrics", layout.admin_url(GATEWAY))?;
        data!("Kafka      {}", layout.kafka_brokers())?;
        if report.components.iter().any(|component| component.name == CONSOLE) {
            let sign_in = hint(data_dir, "console");
            data!("console    http://127.0.0.1:{} (`{sign_in}` lets you in)", layout.console_port())?;
        }
        data!("token      {token}")?;
        data!("")?;
        data!("next: {}", make_hint(data_dir, "test-create-order"))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_native::layout::Kind;

    use super::*;

    fn up(arguments: &[&str]) -> Up {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            up: Up,
        }
        <Line as clap::Parser>::parse_from([&["up"], arguments].concat()).up
    }

    /// Whatever is asked for and is not so is said, in the words of the command line; what was not asked for stays as it is.
    #[test]
    fn what_runs_otherwise_is_said() {
        let component = |name: &str| ComponentReport {
            name: name.to_owned(),
            kind: Kind::Service,
            pid: None,
            port: 1,
            state: ComponentState::Ready,
            restarts: 0,
            log: String::new(),
            detail: String::new(),
        };
        let mut report = StackReport {
            supervisor_pid: 1,
            port_offset: 100,
            written_at: 0,
            leaves_down: false,
            components: ["kafka", "order", "order-2", "payment", "gateway"].map(component).into(),
            links: Vec::new(),
        };
        // A folder that is not there: neither has TLS, so what is not said is that the databases have.
        let layout = Layout::new(PathBuf::from("/nowhere"), 100);
        let offset = ["--port-offset", "100"];
        let difference = |report: &StackReport, arguments: &[&str]| {
            up(&[&offset[..], arguments].concat()).difference(&layout, report)
        };
        assert_eq!(difference(&report, &[]).as_deref(), Some("with --database-tls off"));
        let offset = ["--port-offset", "100", "--database-tls", "off"];
        let difference = |report: &StackReport, arguments: &[&str]| {
            up(&[&offset[..], arguments].concat()).difference(&layout, report)
        };
        for (arguments, runs, wanted) in [
            (&["--replicas", "order=3"][..], "order=2", "order=3"),
            (&["--replicas", "order=2", "--replicas", "gateway=2"], "gateway=1", "gateway=2"),
        ] {
            let other = up(arguments).other_replicas(&report);
            assert_eq!(other, Some((runs.to_owned(), wanted.to_owned())), "{arguments:?}");
        }
        for same in [&[][..], &["--replicas", "order=1", "--replicas", "order=2"]] {
            assert_eq!(up(same).other_replicas(&report), None, "{same:?}");
        }
        let before = Remembered {
            settings: BTreeMap::from([("kafka.x".to_owned(), "9".to_owned())]),
            ..Remembered::default()
        };
        for (arguments, other) in [
            (&[][..], None),
            (&["--set", "kafka.x=9"], None),
            (&["--set", "kafka.y="], None),
            (&["--set", "kafka.x=8"], Some("kafka.x=8")),
            (&["--set", "kafka.x="], Some("kafka.x=")),
        ] {
            let up = up(arguments);
            assert_eq!(up.other_setting(&before).map(ToString::to_string).as_deref(), other, "{arguments:?}");
        }
        let settings = up(&["--set", "kafka.x=", "--set", "kafka.y=1"]).settings(&before);
        assert_eq!(settings, BTreeMap::from([("kafka.y".to_owned(), "1".to_owned())]));
        for (arguments, expected) in [
            (&[][..], None),
            (&["--replicas", "order=3"], None),
            (&["--no-restart"], Some("without --no-restart")),
            (&["--with", "redis"], Some("without --with redis")),
            (&["--with", "console"], Some("without --with console")),
            (&["--without", "console", "--without", "redis"], None),
            (&["--kafka-tls", "on"], Some("with --kafka-tls off")),
            (&["--infrastructure-only"], Some("without --infrastructure-only")),
            (&["--links"], Some("without --links")),
        ] {
            assert_eq!(difference(&report, arguments).as_deref(), expected, "{arguments:?}");
        }
        let offset =
            |offset| up(&["--database-tls", "off", "--port-offset", offset]).difference(&layout, &report);
        assert_eq!(offset("0").as_deref(), Some("with --port-offset 100"));
        assert_eq!(up(&["--database-tls", "off"]).difference(&layout, &report), None, "nothing was said");
        report.components.push(component("console"));
        assert_eq!(difference(&report, &["--with", "console"]), None);
        let without = difference(&report, &["--without", "console"]);
        assert_eq!(without.as_deref(), Some("with --with console"));
        report.leaves_down = true;
        assert_eq!(difference(&report, &["--no-restart"]), None);
        report.components.truncate(1);
        assert_eq!(difference(&report, &[]).as_deref(), Some("with --infrastructure-only"));
    }

    /// Replicas of nothing, or of what has none, are refused.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", " ", "kafka=2"] {
            assert!(parse_replicas(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_replicas("order=2").is_ok());
        for wrong in ["", " ", "kafka"] {
            assert!(wrong.parse::<Extra>().is_err(), "{wrong:?}");
        }
        assert_eq!("redis".parse(), Ok(Extra::Redis));
    }

    /// A stack has its console unless it is left out; what is passed on to the supervisor makes the same stack.
    #[test]
    fn a_stack_has_its_console_unless_it_is_left_out() {
        for (arguments, extras) in [
            (&[][..], &[Extra::Console][..]),
            (&["--with", "redis"], &[Extra::Redis, Extra::Console]),
            (&["--with", "redis", "--with", "redis", "--with", "console"], &[Extra::Redis, Extra::Console]),
            (&["--without", "console"], &[]),
            (&["--with", "console", "--without", "console"], &[]),
            (&["--infrastructure-only"], &[]),
        ] {
            let asked = up(arguments).extras();
            assert_eq!(asked, extras, "{arguments:?}");
            let passed_on: Vec<&str> = control::extra_options(&asked).collect();
            assert_eq!(up(&passed_on).extras(), extras, "{passed_on:?}");
        }
    }
}
