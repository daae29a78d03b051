//! The console: what an operator sees and does in a browser. It asks the services, as the identity `operator`, what `holdfast` asks
//! them, and never their databases. Pages are made here and need neither JavaScript, by which some update
//! by themselves, nor a network.
//!
//! From top to bottom; a module imports only from below:
//!
//! - [`router`]: all routes, each behind the one guard;
//! - [`pages`]: one file each: what is asked, and what is shown;
//! - [`job`]: a redrive or discard that runs, and what became of it;
//! - [`live`]: what is watched, and looked at for all that watch it;
//! - [`examine`]: whether events are lost, looked at one after the other;
//! - [`browse`]: what is asked of topics: by [`topics`], a few readers, and [`scan`], which is pure and has limits;
//! - [`guard`]: who may, and from where;
//! - [`proxy`]: who a proxy says has signed in;
//! - [`settings`]: where the services are, while replicas come and go;
//! - [`saga`]: where an order is, from what the services know of it; pure;
//! - [`ask`], [`admin`]: questions to all services at once, with a deadline;
//! - [`payloads`]: how much of what users have written is shown;
//! - [`when`]: times in addresses;
//! - [`view`]: text of strangers, times and frames of pages;
//! - [`session`]: who is signed in;
//! - [`let_in`]: the command that lets a browser in, where the process runs.

mod admin;
mod ask;
mod browse;
mod config;
mod examine;
mod guard;
mod job;
mod let_in;
mod live;
mod pace;
mod pages;
mod payloads;
mod proxy;
mod router;
mod saga;
mod scan;
mod session;
mod settings;
mod state;
mod topics;
mod view;
mod when;

use std::{env, process::ExitCode};

use holdfast_common::{
    error::BoxError,
    http::{Limits, Server},
    identity::Identity,
    participant::{finished, follow_certificate},
    reload,
    service::{Context, bind, run_service},
};

use crate::state::Console;
pub use crate::{config::Config, payloads::Payloads};

/// Connections at a time: the browsers of a few operators.
const CONNECTIONS_MAX: usize = 256;

/// Runs the console to its end. Not in `main`, because what is asynchronous is compiled where it is run, and so would be compiled a
/// second time.
pub fn run() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|word| word == let_in::COMMAND) {
        return let_in::run(env::args_os().skip(2));
    }
    run_service("console", start)
}

async fn start(context: &mut Context, config: Config) -> Result<(), BoxError> {
    let identity = Identity::load(config.identity.clone())?;
    let brokers = state::brokers(config.kafka.as_ref(), &identity);
    match &brokers {
        Ok(brokers) => follow_certificate(context, brokers),
        Err(error) if config.kafka.is_some() => tracing::warn!(error, "topics cannot be shown"),
        // As somebody wants it.
        Err(_) => {}
    }
    let console = Console::new(&config, &identity, brokers)?;
    let listener = bind(config.console.listen).await?;
    let stop = context.stop.clone();
    let limits = Limits { connections_max: CONNECTIONS_MAX, ..Limits::default() };
    let server = Server { name: "console", limits, tls: None, proxies: Vec::new() };
    let (watched, live) = (console.clone(), context.health.component("live"));
    let look = move |subject| pages::live::look(watched.clone(), subject);
    let (hub, stopped) = (console.clone(), stop.clone().cancelled_owned());
    context.spawn("live", finished(async move { hub.live.run(look, &live, stopped).await }));
    if config.kafka.is_some() {
        let (read, topics) = (console.clone(), context.health.component("topics"));
        let stopped = stop.clone().cancelled_owned();
        context.spawn("topics", finished(async move { read.topics.run(&topics, stopped).await }));
    }
    if let Some(file) = context.config_file.clone() {
        let task = context.health.periodic(settings::RELOAD, reload::SUCCESS_EVERY_MAX);
        let follow = settings::reload_on_change(console.clone(), file, task, stop.clone());
        context.spawn("settings", finished(follow));
    }
    context.spawn("http", finished(server.serve(listener, router::router(console), stop.clone())));
    let reload = context.health.periodic("certificate-reload", reload::SUCCESS_EVERY_MAX);
    context.spawn("identity", finished(identity.reload_on_change(reload, stop)));
    Ok(())
}
