//! A stack of its own for a test process: real Kafka, real PostgreSQL, and the services where they are asked for.
//!
//! It is started once per process, on free ports, and ends with the process, however that ends: the supervisor reads
//! its standard input, which then closes.
#![expect(
    clippy::disallowed_methods,
    reason = "starting a stack blocks its test, which waits for nothing else"
)]
#![expect(clippy::panic, reason = "a test that has no stack can only fail")]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use holdfast_native::{
    control::{self, Found, NotReady},
    layout::{Extra, Layout, PARTICIPANTS, Participant, Scope},
    link::Link,
    port_offset::PortOffset,
    prepare::PORT_TAKEN_EXIT_CODE,
    state::{ComponentReport, ComponentState, StackReport},
};

/// A cold machine fetches the components first.
const START_TIME_MAX: Duration = Duration::from_secs(300);
const START_ATTEMPTS_MAX: u32 = 20;
/// Of each component that is not ready, when a test fails for that.
const LOG_LINES_MAX: usize = 30;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running stack.
#[derive(Debug)]
pub struct TestStack {
    /// Where it is.
    pub layout: Layout,
    /// Its standard input stays open as long as this lives.
    supervisor: Child,
    /// What the supervisor has said.
    said: Arc<Mutex<String>>,
    /// Nobody else takes its ports meanwhile.
    _port_offset: PortOffset,
}

/// What is started.
#[derive(Debug)]
struct Setup<'a> {
    base: &'a Path,
    scope: Scope,
    replicas: &'a [&'a str],
    environment: &'a [(&'a str, &'a str)],
    /// What it has beside its services: nothing that its test does not ask for.
    extras: &'a [Extra],
    /// More of its command line.
    flags: &'a [&'a str],
}

/// Databases and broker, shared by all tests of this process.
pub fn infrastructure() -> &'static TestStack {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    STACK.get_or_init(|| TestStack::start(Scope::Infrastructure, &[], &[]))
}

/// The whole stack, shared by all tests of this process. Deliveries take 50 ms a step.
pub fn everything() -> &'static TestStack {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    STACK.get_or_init(|| TestStack::start(Scope::Everything, &[], &[("HOLDFAST__DELIVERY__STEP", "50ms")]))
}

impl TestStack {
    /// Starts a stack with these `replicas` (`order=2`); its services get `environment`.
    ///
    /// # Panics
    ///
    /// If it can't be started, with the supervisor's output.
    #[must_use]
    pub fn start(scope: Scope, replicas: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_in(&std::env::temp_dir(), scope, replicas, environment)
    }

    /// The same, with its data in a folder of its own in `base`.
    ///
    /// # Panics
    ///
    /// If it can't be started, with the supervisor's output.
    #[must_use]
    pub fn start_in(base: &Path, scope: Scope, replicas: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::ready(&Setup { base, scope, replicas, environment, extras: &[], flags: &[] })
    }

    /// Starts a whole stack with Redis, whose gateways share their limits.
    ///
    /// # Panics
    ///
    /// If it can't be started, with the supervisor's output.
    #[must_use]
    pub fn start_with_redis(replicas: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::everything_with(&[Extra::Redis], replicas, environment)
    }

    /// Starts a whole stack with its console.
    ///
    /// # Panics
    ///
    /// If it can't be started, with the supervisor's output.
    #[must_use]
    pub fn start_with_console(environment: &[(&str, &str)]) -> Self {
        Self::everything_with(&[Extra::Console], &[], environment)
    }

    fn everything_with(extras: &[Extra], replicas: &[&str], environment: &[(&str, &str)]) -> Self {
        let base = std::env::temp_dir();
        let scope = Scope::Everything;
        Self::ready(&Setup { base: &base, scope, replicas, environment, extras, flags: &[] })
    }

    fn ready(setup: &Setup<'_>) -> Self {
        let stack = Self::launch(setup);
        stack.wait_until_ready();
        stack
    }

    /// Starts a whole stack with the services' programs of `folder`, and returns at once: do what they need, and then wait
    /// ([`TestStack::wait_until_ready`]).
    ///
    /// # Panics
    ///
    /// If it can't be started, with the supervisor's own words.
    #[must_use]
    pub fn start_with_programs(folder: &Path, environment: &[(&str, &str)]) -> Self {
        let base = std::env::temp_dir();
        let scope = Scope::Everything;
        let flags = ["--programs", folder.to_str().unwrap_or_default()];
        Self::launch(&Setup { base: &base, scope, replicas: &[], environment, extras: &[], flags: &flags })
    }

    /// Starts a whole stack with links and returns at once: run a proxy for each of [`TestStack::links`], and then wait
    /// ([`TestStack::wait_until_ready`]).
    ///
    /// # Panics
    ///
    /// If it can't be started, with the supervisor's own words.
    #[must_use]
    pub fn start_with_links(replicas: &[&str], environment: &[(&str, &str)]) -> Self {
        let base = std::env::temp_dir();
        let scope = Scope::Everything;
        Self::launch(&Setup { base: &base, scope, replicas, environment, extras: &[], flags: &["--links"] })
    }

    /// The links that need a proxy.
    ///
    /// # Panics
    ///
    /// If the stack does not run.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        self.report().links
    }

    /// Waits until every component is ready.
    ///
    /// # Panics
    ///
    /// If one does not become ready, with the supervisor's own words.
    pub fn wait_until_ready(&self) {
        let until = Instant::now() + START_TIME_MAX;
        while let Err(error) = control::wait_ready(&self.layout.data_dir, Duration::from_millis(500)) {
            assert!(!matches!(error, NotReady::KeepsEnding { .. }), "{error:#}\n{}", self.unready_logs());
            assert!(self.runs(), "the stack ended:\n{}", self.words());
            let why = || format!("{}\n{}", self.words(), self.unready_logs());
            assert!(Instant::now() < until, "the stack is not ready:\n{}", why());
        }
    }

    fn runs(&self) -> bool {
        matches!(control::find(&self.layout.data_dir), Ok(Found::Running(_)))
    }

    /// The ends of the logs of what is not ready: they are deleted with the stack.
    fn unready_logs(&self) -> String {
        self.log_ends(|component| component.state != ComponentState::Ready)
    }

    /// The ends of the logs of some components, for a test that fails: they are deleted with the stack.
    #[must_use]
    pub fn log_ends(&self, is_wanted: impl Fn(&ComponentReport) -> bool) -> String {
        let Ok(Found::Running(report)) = control::find(&self.layout.data_dir) else { return String::new() };
        let end_of = |component: &ComponentReport| {
            let log = std::fs::read(&component.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let end = lines.get(lines.len().saturating_sub(LOG_LINES_MAX)..).unwrap_or_default().join("\n");
            format!("{} is {:?}: {}\n{end}\n", component.name, component.state, component.detail)
        };
        report.components.iter().filter(|component| is_wanted(component)).map(end_of).collect()
    }

    fn words(&self) -> String {
        self.said.lock().map(|said| said.clone()).unwrap_or_default()
    }

    /// Starts the supervisor of a stack, and returns when its ports are its own and its components are started.
    fn launch(setup: &Setup<'_>) -> Self {
        for _ in 0..START_ATTEMPTS_MAX {
            if let Some(stack) = Self::try_launch(setup) {
                return stack;
            }
        }
        panic!("no free ports were found for a test stack");
    }

    /// `None`: another process took one of the ports first.
    fn try_launch(setup: &Setup<'_>) -> Option<Self> {
        let port_offset = PortOffset::draw(setup.replicas.iter().copied(), setup.flags.contains(&"--links"));
        let port_offset = port_offset.unwrap_or_else(|error| panic!("no port offset: {error:#}"));
        let data_dir =
            setup.base.join(format!("holdfast-test-{}-{}", std::process::id(), port_offset.number));
        let layout = Layout::new(data_dir, port_offset.number);
        let mut command = setup.command(&layout);
        let mut supervisor =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let said = listen(&mut supervisor);
        let mut stack = Self { layout, supervisor, said, _port_offset: port_offset };
        let until = Instant::now() + START_TIME_MAX;
        while !stack.runs() {
            if let Ok(Some(status)) = stack.supervisor.try_wait() {
                std::thread::sleep(Duration::from_millis(100));
                let port_taken = status.code() == Some(i32::from(PORT_TAKEN_EXIT_CODE));
                assert!(port_taken, "the stack ended:\n{}", stack.words());
                return None;
            }
            assert!(Instant::now() < until, "the stack does not start:\n{}", stack.words());
            std::thread::sleep(LOOK_EVERY);
        }
        Some(stack)
    }

    /// Ends it, deletes its data, and waits until that is done.
    pub fn end(mut self) {
        drop(self.supervisor.stdin.take());
        // Fails only if it was waited for already.
        let _ = self.supervisor.wait();
    }

    /// The process of its supervisor.
    #[must_use]
    pub fn supervisor_pid(&self) -> u32 {
        self.supervisor.id()
    }

    /// The report of its supervisor.
    ///
    /// # Panics
    ///
    /// If there is no supervisor any more.
    #[must_use]
    pub fn report(&self) -> StackReport {
        match control::find(&self.layout.data_dir) {
            Ok(Found::Running(report)) => report,
            other => panic!("the stack does not run: {other:?}"),
        }
    }

    /// The process of a component, or none while it is down.
    #[must_use]
    pub fn pid(&self, component: &str) -> Option<u32> {
        self.report().components.iter().find(|report| report.name == component)?.pid
    }

    /// Connection URL of the database of a service.
    ///
    /// # Panics
    ///
    /// If there is no such service.
    #[must_use]
    pub fn database_url(&self, service: &str) -> String {
        let participant = participant(service);
        self.layout.database_url(participant).unwrap_or_else(|error| panic!("no password: {error}"))
    }

    /// The same for another database of its server.
    ///
    /// # Panics
    ///
    /// If there is no such service.
    #[must_use]
    pub fn database_url_of(&self, service: &str, database: &str) -> String {
        let url = self.layout.database_url_of(participant(service), database);
        url.unwrap_or_else(|error| panic!("no password: {error}"))
    }
}

fn participant(service: &str) -> &'static Participant {
    let participant = PARTICIPANTS.iter().find(|participant| participant.name == service);
    participant.unwrap_or_else(|| panic!("there is no service {service}"))
}

impl Setup<'_> {
    fn command(&self, layout: &Layout) -> Command {
        let mut command = control::bound_stack(&binary(), layout, self.replicas.iter().copied(), self.extras);
        // The load of most tests comes from a few users; a test of the limits turns them on again.
        command.env("HOLDFAST__LIMITS__ENABLED", "false");
        command.args(self.flags).envs(self.environment.iter().copied()).stderr(Stdio::piped());
        if self.scope == Scope::Infrastructure {
            command.arg("--infrastructure-only");
        }
        command
    }
}

/// Keeps a supervisor's words for a failure. If nobody read them, it would block one day.
fn listen(supervisor: &mut Child) -> Arc<Mutex<String>> {
    let said = Arc::<Mutex<String>>::default();
    if let Some(stderr) = supervisor.stderr.take() {
        let said = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(mut said) = said.lock() {
                    said.push_str(&line);
                    said.push('\n');
                }
            }
        });
    }
    said
}

/// The operator's command, built beside this test.
///
/// # Panics
///
/// If it isn't there.
#[must_use]
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let (folder, how) = if cfg!(feature = "kafka-tls") {
        ("kafka-tls/holdfast", "scripts/kafka-tls.sh")
    } else {
        ("holdfast", "cargo build --workspace")
    };
    let found = own.ancestors().map(|ancestor| ancestor.join(folder)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("holdfast is not built: run `{how}`"))
}
