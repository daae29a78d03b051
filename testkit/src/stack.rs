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
    sync::OnceLock,
    time::Duration,
};

use holdfast_native::{
    control::{self, NotReady},
    layout::{Layout, PARTICIPANTS, PORT_OFFSET_MAX, Scope},
    prepare::PORT_TAKEN_EXIT_CODE,
    state::StackReport,
};

/// A cold machine fetches the components first.
const START_TIME_MAX: Duration = Duration::from_secs(300);
const START_ATTEMPTS_MAX: u32 = 20;

/// A running stack.
#[derive(Debug)]
pub struct TestStack {
    /// Where it is.
    pub layout: Layout,
    /// Its standard input stays open as long as this lives.
    supervisor: Child,
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
        for _ in 0..START_ATTEMPTS_MAX {
            if let Some(stack) = Self::try_start(base, scope, replicas, environment) {
                return stack;
            }
        }
        panic!("no free ports were found for a test stack");
    }

    /// `None`: another process took one of the ports first.
    fn try_start(base: &Path, scope: Scope, replicas: &[&str], environment: &[(&str, &str)]) -> Option<Self> {
        // Below the range from which the kernel takes ports for outgoing connections, so far as the highest allows.
        let port_offset = fastrand::u16(100..PORT_OFFSET_MAX);
        let data_dir = base.join(format!("holdfast-test-{}-{port_offset}", std::process::id()));
        let mut command = Command::new(binary());
        command
            .args(["up", "--foreground", "--until-parent-ends", "--port-offset", &port_offset.to_string()])
            .arg("--data-dir")
            .arg(&data_dir)
            .args(replicas.iter().flat_map(|replicas| ["--replicas", replicas]))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if scope == Scope::Infrastructure {
            command.arg("--infrastructure-only");
        }
        let mut supervisor =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        // Keep its output for a failure message, and keep reading, or it would block eventually.
        let output = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        if let Some(stderr) = supervisor.stderr.take() {
            let output = output.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if let Ok(mut output) = output.lock() {
                        output.push_str(&line);
                        output.push('\n');
                    }
                }
            });
        }
        let all_output = || output.lock().map(|output| output.clone()).unwrap_or_default();
        let until = std::time::Instant::now() + START_TIME_MAX;
        loop {
            if let Ok(Some(status)) = supervisor.try_wait() {
                std::thread::sleep(Duration::from_millis(100));
                let port_taken = status.code() == Some(i32::from(PORT_TAKEN_EXIT_CODE));
                assert!(port_taken, "the stack ended:\n{}", all_output());
                return None;
            }
            match control::wait_ready(&data_dir, Duration::from_millis(500)) {
                Ok(_) => {
                    let layout = Layout::new(data_dir, port_offset);
                    return Some(Self { layout, supervisor });
                }
                Err(error @ NotReady::KeepsEnding { .. }) => panic!("{error:#}"),
                Err(NotReady::TimedOut { .. }) => {}
            }
            assert!(std::time::Instant::now() < until, "the stack is not ready:\n{}", all_output());
        }
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
            Ok(control::Found::Running(report)) => report,
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
        let participant = PARTICIPANTS.iter().find(|participant| participant.name == service);
        let participant = participant.unwrap_or_else(|| panic!("there is no service {service}"));
        self.layout.database_url(participant).unwrap_or_else(|error| panic!("no password: {error}"))
    }
}

/// The operator's command, built beside this test.
///
/// # Panics
///
/// If it isn't there.
#[must_use]
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let found = own.ancestors().map(|folder| folder.join("holdfast")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("holdfast is not built: run `cargo build --workspace`"))
}
