//! The commands. Each verb is one file with its arguments and what it does.

mod bench;
mod certs;
mod chaos;
mod completions;
mod console;
mod databases;
mod dlq;
mod orders;
mod outbox;
mod positions;
mod reconcile;
mod secrets;
mod stack;
mod topics;

use anyhow::Result;
use clap::Subcommand;

use self::{
    bench::Bench,
    certs::Certs,
    chaos::Chaos,
    completions::Completions,
    console::Console,
    databases::Databases,
    dlq::Dlq,
    orders::Orders,
    outbox::Outbox,
    positions::Positions,
    reconcile::Reconcile,
    secrets::Secrets,
    stack::{
        doctor::Doctor, down::Down, env::Env, logs::Logs, restart::Restart, roll::Roll, scale::Scale,
        status::Status, token::Token, up::Up,
    },
    topics::Topics,
};
use crate::output::Outcome;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the native stack: databases, Kafka and services
    Up(Up),
    /// Stop the native stack
    Down(Down),
    /// Show each component; fails if one is not ready
    Status(Status),
    /// Show logs, merged by time
    Logs(Logs),
    /// Restart components: one after the other, each when the one before serves
    Restart(Restart),
    /// Change the number of replicas of services while they serve; no request fails
    Scale(Scale),
    /// Find out what is wrong with this machine or this stack, and which command helps
    Doctor(Doctor),
    /// Replace the programs of services while they serve: upgrades them, or rolls them back
    Roll(Roll),
    /// Print `export` lines with the addresses of the stack
    Env(Env),
    /// Print a signed development token
    Token(Token),
    /// Create, renew, replace and revoke certificates
    #[command(subcommand)]
    Certs(Certs),
    /// Create passwords
    #[command(subcommand)]
    Secrets(Secrets),
    /// Look at dead letters, redrive, edit, discard or restore them
    #[command(subcommand)]
    Dlq(Dlq),
    /// Look at orders over all services: what has happened to one, and which are stuck
    #[command(subcommand)]
    Orders(Orders),
    /// Look at events that can't be published, try them again or give them up
    #[command(subcommand)]
    Outbox(Outbox),
    /// Show where each service reads: the position of its database, what the broker has committed, and any gap
    Positions(Positions),
    /// Create the topics on brokers that are not the native stack's
    #[command(subcommand)]
    Topics(Topics),
    /// Create roles and databases in servers that are not the native stack's
    #[command(subcommand)]
    Databases(Databases),
    /// Open the pages for operators in a browser: orders, dead letters, components
    Console(Console),
    /// Find events that were lost between two services, and have them re-emitted
    Reconcile(Reconcile),
    /// Kill components under load, and judge what held
    #[command(subcommand)]
    Chaos(Chaos),
    /// Measure latency, throughput and cost of a running stack
    Bench(Bench),
    /// Print completions for a shell
    Completions(Completions),
}

impl Command {
    pub(crate) fn run(&self) -> Result<Outcome> {
        match self {
            Self::Up(up) => up.run(),
            Self::Down(down) => down.run(),
            Self::Status(status) => status.run(),
            Self::Logs(logs) => logs.run(),
            Self::Restart(restart) => restart.run(),
            Self::Scale(scale) => scale.run(),
            Self::Doctor(doctor) => doctor.run(),
            Self::Roll(roll) => roll.run(),
            Self::Env(env) => env.run(),
            Self::Token(token) => token.run(),
            Self::Certs(certs) => certs.run(),
            Self::Secrets(secrets) => secrets.run(),
            Self::Dlq(dlq) => dlq.run(),
            Self::Orders(orders) => orders.run(),
            Self::Outbox(outbox) => outbox.run(),
            Self::Positions(positions) => positions.run(),
            Self::Topics(topics) => topics.run(),
            Self::Databases(databases) => databases.run(),
            Self::Console(console) => console.run(),
            Self::Reconcile(reconcile) => reconcile.run(),
            Self::Chaos(chaos) => chaos.run(),
            Self::Bench(bench) => bench.run(),
            Self::Completions(completions) => completions.run(),
        }
    }
}
