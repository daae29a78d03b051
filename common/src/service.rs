//! The one way to run every process: configuration, telemetry, health, work, drain, exit code.
//!
//! Exit codes: 0 stopped when asked, 1 failed (a supervisor restarts it), 2 wrong command line or configuration (a
//! restart won't help).

use std::{
    env,
    error::Error as StdError,
    ffi::OsString,
    fmt::Debug,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use futures_util::future::{FutureExt as _, LocalBoxFuture};
use holdfast_proto::text::on_one_line;
use serde::de::DeserializeOwned;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    admin, config,
    config::ServiceConfig,
    database::Tables,
    error::{BoxError, chain},
    health::{Component, Health},
    http::descriptors,
    panic, telemetry,
    trace::export,
};

/// What the runner needs from a service's configuration.
pub trait Configuration: DeserializeOwned + Debug {
    /// The common section.
    fn service(&self) -> &ServiceConfig;

    /// The tables of a service that has some: for `--migrate`.
    fn tables(&self) -> Option<Tables<'_>> {
        None
    }
}

/// What a service builds itself from. Long-lived work is given to [`Context::spawn`].
#[derive(Debug)]
pub struct Context {
    /// The name of the service.
    pub name: &'static str,
    /// Its health, shown on the admin port.
    pub health: Health,
    /// The file of its settings, if it has one, for those that are followed while it runs.
    pub config_file: Option<PathBuf>,
    /// Cancelled when the process is asked to stop: accept nothing new, finish what is in progress, return.
    pub stop: CancellationToken,
    tasks: JoinSet<(&'static str, Result<(), BoxError>)>,
}

impl Context {
    /// Runs `task` until the process stops. It returns after [`Context::stop`] is cancelled; if it ends before that, or
    /// panics, the process fails, because a process that lost a part must not look alive.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.tasks.spawn(async move { (name, task.await) });
    }
}

/// Connections that the kernel queues until they are accepted; when the queue is full it drops new ones, and their
/// clients try again.
const BACKLOG: u32 = 1024;
/// Time for the last spans, after the drain. A supervisor kills 2 s after it.
const LAST_SPANS_TIME_MAX: Duration = Duration::from_secs(1);
const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// Starts a service; its types are known to its own crate only.
type Start = Box<dyn for<'c> FnOnce(&'c mut Context) -> LocalBoxFuture<'c, Result<(), BoxError>>>;

/// Runs a service to its end. `start` binds its ports, hands its work to the context and returns.
pub fn run_service<C, F>(name: &'static str, start: F) -> ExitCode
where
    C: Configuration + 'static,
    F: AsyncFnOnce(&mut Context, C) -> Result<(), BoxError> + 'static,
{
    let (config, config_file): (C, _) = match command_line(name) {
        Ok(Command::Run(file)) => match config::load(file.as_deref()) {
            Ok(config) => (config, file),
            Err(error) => return end_with_a_log(name, &error, EXIT_USAGE),
        },
        Ok(Command::Ready(file)) => return ready::<C>(name, file.as_deref()),
        Ok(Command::Migrate(file)) => {
            return match config::load::<C>(file.as_deref()) {
                Ok(config) => migrate(name, config.service(), config.tables()),
                Err(error) => end_with_a_log(name, &error, EXIT_USAGE),
            };
        }
        Ok(Command::Help) => {
            say(&usage(name));
            return ExitCode::SUCCESS;
        }
        Err(error) => return complain(name, error.as_ref(), EXIT_USAGE),
    };
    let service = config.service().clone();
    run(name, &service, config_file, Box::new(move |context| start(context, config).boxed_local()))
}

/// [`run_service`] without its types, so that it is compiled once and not with each service.
fn run(name: &'static str, service: &ServiceConfig, config_file: Option<PathBuf>, start: Start) -> ExitCode {
    let metrics = match telemetry::install(name, &service.log) {
        Ok(metrics) => metrics,
        Err(error) => return end_with_a_log(name, &error, EXIT_USAGE),
    };
    panic::end_the_process();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(name, &error, EXIT_FAILED),
    };
    let drain = service.drain;
    let health = Health::default();
    let installed = {
        let _entered = runtime.enter();
        export::install(&service.traces, name, &health)
    };
    let exporter = match installed {
        Ok(exporter) => exporter,
        Err(error) => return end(name, &error, EXIT_USAGE),
    };
    let outcome = runtime.block_on(async move {
        let stop = CancellationToken::new();
        let mut context = Context { name, health, config_file, stop, tasks: JoinSet::new() };
        descriptors::raise_limit();
        tracing::info!(service = name, version = env!("CARGO_PKG_VERSION"), "starting");
        let admin_listener = bind(service.admin_listen).await?;
        context.spawn("admin", {
            // The admin port stays up while the rest drains, so it has a token of its own: the end of the runtime.
            let (health, metrics) = (context.health.clone(), metrics.clone());
            async move {
                admin::serve(admin_listener, health, metrics, CancellationToken::new()).await;
                Ok(())
            }
        });
        tokio::spawn(telemetry::upkeep(metrics));
        tokio::spawn(telemetry::lag::measure());
        let exported = CancellationToken::new();
        let exporting = exporter.map(|exporter| tokio::spawn(exporter.run(exported.clone())));
        let process = started(&mut context, start).await?;
        let outcome = supervise(context, process, drain).await;
        exported.cancel();
        if let Some(exporting) = exporting {
            // What can't be delivered by then is lost, as it would be if the process had been killed.
            let _ = tokio::time::timeout(LAST_SPANS_TIME_MAX, exporting).await;
        }
        outcome
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(name, error.as_ref(), EXIT_FAILED),
    }
}

/// Migrates the tables and ends: for who has the login of their owner, which the process that serves need not have.
fn migrate(name: &'static str, service: &ServiceConfig, tables: Option<Tables<'_>>) -> ExitCode {
    if let Err(error) = telemetry::install(name, &service.log) {
        return end_with_a_log(name, &error, EXIT_USAGE);
    }
    let Some(tables) = tables else {
        return end(name, BoxError::from("it has no database to migrate").as_ref(), EXIT_USAGE);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(name, &error, EXIT_FAILED),
    };
    match runtime.block_on(tables.migrate()) {
        Ok(()) => {
            tracing::info!(service = name, "migrated");
            ExitCode::SUCCESS
        }
        Err(error) => end(name, error.as_ref(), EXIT_FAILED),
    }
}

/// Starts the service. Until all its parts are there the process is not ready, whatever those that came first say: the one that
/// would refuse may come last. Returns what stands for the process as a whole in the readiness body.
async fn started(context: &mut Context, start: Start) -> Result<Component, BoxError> {
    let process = context.health.required("process");
    start(context).await?;
    process.ready();
    Ok(process)
}

/// The one form of an error that ends the process: a line of the log.
fn end(name: &str, error: &(dyn StdError + 'static), code: u8) -> ExitCode {
    tracing::error!(service = name, error = chain(error), "stopped by a failure");
    ExitCode::from(code)
}

/// The same before the log is set up as it is configured: whoever collects logs reads JSON lines only.
fn end_with_a_log(name: &'static str, error: &(dyn StdError + 'static), code: u8) -> ExitCode {
    telemetry::install_log(name, EnvFilter::new("error"));
    end(name, error, code)
}

/// Waits for a signal or the end of a task, then drains within `drain`.
async fn supervise(mut context: Context, process: Component, drain: Duration) -> Result<(), BoxError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = context.tasks.join_next() => Err(describe_end(ended)),
    };
    tracing::info!(service = context.name, "draining");
    process.waiting("draining");
    context.stop.cancel();
    let finish = async {
        // The admin task never ends by itself; it is the last one left.
        while context.tasks.len() > 1 {
            if let Some(Ok((task, Err(error)))) = context.tasks.join_next().await {
                tracing::warn!(task, error = chain(error.as_ref()), "task failed while draining");
            }
        }
    };
    if tokio::time::timeout(drain, finish).await.is_err() {
        tracing::warn!(service = context.name, left = context.tasks.len() - 1, "drain time has run out");
    }
    telemetry::report_left_out();
    tracing::info!(service = context.name, "stopped");
    outcome
}

fn describe_end(ended: Result<(&'static str, Result<(), BoxError>), tokio::task::JoinError>) -> BoxError {
    match ended {
        Ok((task, Ok(()))) => format!("task {task} ended although nobody asked it to").into(),
        Ok((task, Err(error))) => format!("task {task} failed: {}", chain(error.as_ref())).into(),
        Err(panic) => format!("a task panicked: {panic}").into(),
    }
}

/// Listens on `address`; the error names it.
pub async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, BoxError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for connections of the previous process.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error: std::io::Error| format!("cannot listen on {address}: {error}").into())
}

/// Asks the running process on its admin port whether it is ready: a health check for where there is no other program.
fn ready<C: Configuration>(name: &str, file: Option<&Path>) -> ExitCode {
    let asked = config::load::<C>(file)
        .map_err(BoxError::from)
        .and_then(|config| admin::ask_ready(config.service().admin_listen));
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(name, error.as_ref(), EXIT_FAILED),
    }
}

enum Command {
    Run(Option<PathBuf>),
    Ready(Option<PathBuf>),
    Migrate(Option<PathBuf>),
    Help,
}

fn command_line(name: &'static str) -> Result<Command, BoxError> {
    // A path need not be text.
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    // An option by its name, and any other word as it is.
    let words = arguments.iter().map(|argument| (argument.to_str().unwrap_or_default(), argument));
    match words.collect::<Vec<_>>().as_slice() {
        [] => Ok(Command::Run(None)),
        [("--config", _), (_, path)] => Ok(Command::Run(Some(PathBuf::from(path)))),
        [("--ready", _)] => Ok(Command::Ready(None)),
        [("--ready", _), ("--config", _), (_, path)] | [("--config", _), (_, path), ("--ready", _)] => {
            Ok(Command::Ready(Some(PathBuf::from(path))))
        }
        [("--migrate", _)] => Ok(Command::Migrate(None)),
        [("--migrate", _), ("--config", _), (_, path)] | [("--config", _), (_, path), ("--migrate", _)] => {
            Ok(Command::Migrate(Some(PathBuf::from(path))))
        }
        [("--help" | "-h", _)] => Ok(Command::Help),
        _ => Err(usage(name).into()),
    }
}

fn usage(name: &str) -> String {
    format!(
        "usage: holdfast-{name} [--config FILE] [--ready | --migrate]\n\n\
         --ready asks the running process whether it is ready: 0 if so, 1 if not\n\
         --migrate creates or upgrades the tables of the service, and ends\n\n\
         Settings are in FILE or in variables, secrets in variables only, such as HOLDFAST__DATABASE__OWNER_URL"
    )
}

#[expect(clippy::print_stdout, reason = "help is data, asked for on the command line")]
fn say(text: &str) {
    println!("{text}");
}

/// For whoever has typed a command, and for a health check: not part of the log.
fn complain(name: &str, error: &(dyn StdError + 'static), code: u8) -> ExitCode {
    // `eprintln!` would panic on a full disk.
    let _ = writeln!(std::io::stderr(), "holdfast-{name}: {}", on_one_line(&chain(error)));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller that believes the readiness of a process whose port is not bound yet is refused.
    #[tokio::test]
    async fn a_process_is_not_ready_before_its_last_part_is_there() {
        let mut context = Context {
            name: "test",
            health: Health::default(),
            config_file: None,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        let start: Start = Box::new(|context| {
            async move {
                context.health.component("accounts").ready();
                assert!(!context.health.is_ready(), "ready before what callers need was even named");
                context.health.required("database").ready();
                assert!(!context.health.is_ready(), "ready before its ports are bound");
                Ok(())
            }
            .boxed_local()
        });
        let process = started(&mut context, start).await.expect("started");
        assert!(context.health.is_ready());
        process.waiting("draining");
        assert!(!context.health.is_ready());
    }
}
