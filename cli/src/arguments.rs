//! The command line.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};
use holdfast_certs::{PkiError, check_name};
use holdfast_common::config::parse_duration;
use holdfast_native::layout::{
    PORT_OFFSET_MAX, Replicas, ReplicasError, every_component_name, participant_names, resolve,
};

use crate::{
    dlq::{DlqAction, parse_reason},
    outbox::OutboxAction,
};

/// Runs and operates Holdfast.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the native stack: three PostgreSQL, Kafka, four services
    Up(Up),
    /// Stop the native stack
    Down(Down),
    /// Show each component; fails if one is not ready
    Status(Status),
    /// Show logs, of all components or of one
    Logs(Logs),
    /// Print `export` lines with the addresses of the stack
    Env(At),
    /// Print a signed development token
    Token(Token),
    /// Make, renew, replace and revoke certificates
    #[command(subcommand)]
    Certs(CertsAction),
    /// Look at dead letters, redrive, edit or discard them
    #[command(subcommand)]
    Dlq(DlqAction),
    /// Look at events that can't be published, have them tried again or give them up
    #[command(subcommand)]
    Outbox(OutboxAction),
    /// Show where each service reads: the position of its database, what the broker has committed, and any gap
    Positions(PositionsArguments),
    /// Measure latency, throughput and cost of a running stack
    Bench(Bench),
}

/// Which stack.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Folder of the stack's data
    #[arg(long, env = "HOLDFAST_DATA_DIR", default_value = ".holdfast", value_name = "DIR")]
    data_dir: PathBuf,
}

impl At {
    /// The folder by its one name: children run elsewhere, and what is kept for it elsewhere goes by the name.
    pub(crate) fn data_dir(&self) -> Result<PathBuf> {
        resolve(&self.data_dir).with_context(|| format!("cannot find {}", self.data_dir.display()))
    }
}

// An empty or unknown value is refused here, before anything is looked at: `--user "$UNSET"` is a slip of the hand, and
// never means everybody.

fn parse_replicas(text: &str) -> Result<String, ReplicasError> {
    Replicas::default().set(text)?;
    Ok(text.to_owned())
}

fn parse_component(text: &str) -> Result<String> {
    let known = every_component_name();
    anyhow::ensure!(
        known.iter().any(|name| name == text),
        "there is no such component; there are {}",
        known.join(", ")
    );
    Ok(text.to_owned())
}

/// The services that can be asked for dead letters, outbox rows and positions.
pub(crate) fn service_names() -> PossibleValuesParser {
    PossibleValuesParser::new(participant_names())
}

fn parse_user(text: &str) -> Result<String> {
    anyhow::ensure!(!text.trim().is_empty(), "must name a user");
    Ok(text.to_owned())
}

fn parse_identity(text: &str) -> Result<String, PkiError> {
    check_name(text)?;
    Ok(text.to_owned())
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command line")]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) at: At,
    /// Stay in the foreground; Ctrl-C stops the stack
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Add N to each port, so that stacks can coexist
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=i64::from(PORT_OFFSET_MAX)))]
    pub(crate) port_offset: u16,
    /// Start N replicas of order, payment or delivery; may be given for each
    #[arg(long, value_name = "SERVICE=N", value_parser = parse_replicas)]
    pub(crate) replicas: Vec<String>,
    /// Leave a component down when it dies, instead of starting it again
    #[arg(long)]
    pub(crate) no_restart: bool,
    /// Seconds to wait until everything is ready
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) wait: u64,
    /// Databases and broker only
    #[arg(long, hide = true)]
    pub(crate) infrastructure_only: bool,
    /// End when standard input closes, and delete the data
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) until_parent_ends: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) at: At,
    /// Delete the stack's data too
    #[arg(long)]
    pub(crate) delete_data: bool,
    /// Don't ask
    #[arg(long, requires = "delete_data")]
    pub(crate) yes: bool,
}

/// What `positions` shows.
#[derive(Debug, Args)]
pub(crate) struct PositionsArguments {
    #[command(flatten)]
    pub(crate) at: At,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    pub(crate) service: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs; stable.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) at: At,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) at: At,
    /// A component's name, as `holdfast status` shows it
    #[arg(value_parser = parse_component)]
    pub(crate) name: Option<String>,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(flatten)]
    pub(crate) at: At,
    /// Whom the token speaks for
    #[arg(long, value_name = "USER", value_parser = parse_user)]
    pub(crate) user: String,
    /// Scopes, separated by spaces
    #[arg(long, default_value = "orders:read orders:write accounts:read")]
    pub(crate) scope: String,
    /// How long it is valid: 30s, 15m, 1h
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertsAction {
    /// Make an authority and a certificate for each service and for the operator, as far as they aren't there
    Init(CertsAt),
    /// Issue a certificate for an identity
    Issue(CertsIssue),
    /// Renew certificates, or replace the authority, and wait until every running service uses them
    Rotate(CertsRotate),
    /// Renew the certificate of an identity and have the old one refused everywhere
    Revoke(CertsRevoke),
    /// Show each certificate and who uses it; fails if one is not valid
    Status(CertsStatus),
}

/// Which certificates.
#[derive(Debug, Args)]
pub(crate) struct CertsAt {
    #[command(flatten)]
    pub(crate) at: At,
    /// Folder of the certificates, if it is not the stack's own
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CertsIssue {
    #[command(flatten)]
    pub(crate) at: CertsAt,
    /// The name of the identity, such as `reporting`
    #[arg(value_parser = parse_identity)]
    pub(crate) name: String,
    /// How long it is valid, at most 24h
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CertsRotate {
    #[command(flatten)]
    pub(crate) at: CertsAt,
    /// Replace the authority too: trust both, renew every certificate, trust the new one only
    #[arg(long, conflicts_with = "names")]
    pub(crate) ca: bool,
    /// Only these identities
    #[arg(value_parser = parse_identity)]
    pub(crate) names: Vec<String>,
    /// Time for the running services to take each step
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CertsRevoke {
    #[command(flatten)]
    pub(crate) at: CertsAt,
    /// The identity
    #[arg(value_parser = parse_identity)]
    pub(crate) name: String,
    /// Why; stands in the deny list
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(crate) reason: String,
    /// Time for the running services to take the list
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CertsStatus {
    #[command(flatten)]
    pub(crate) at: CertsAt,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) at: At,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Users that the load is spread over
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) users: u32,
    /// Length of each latency phase
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) phase: Duration,
    /// Orders per second of the phase with 32 clients
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Orders of the throughput phase
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) orders: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The command line is consistent in itself.
    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// Whatever selects something refuses what is empty or unknown.
    #[test]
    fn an_empty_value_selects_nothing() {
        for empty in ["", " "] {
            assert!(parse_replicas(empty).is_err(), "{empty:?}");
            assert!(parse_component(empty).is_err(), "{empty:?}");
            assert!(parse_user(empty).is_err(), "{empty:?}");
            assert!(parse_identity(empty).is_err(), "{empty:?}");
        }
        assert!(parse_replicas("gateway=2").is_err() && parse_replicas("order=2").is_ok());
        assert!(parse_component("nobody").is_err() && parse_component("order-9").is_ok());
        assert!(parse_identity("../order").is_err() && parse_identity("order").is_ok());
    }
}
