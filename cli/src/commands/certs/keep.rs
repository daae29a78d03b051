//! `certs keep`: for an installation without an authority of its own, such as `compose.yml`. A cluster has cert-manager.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use holdfast_common::duration::parse_duration;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    folder::{Folder, author, parse_identity},
    init::create_missing,
};
use crate::output::Outcome;

/// In the audit: nobody has asked for what it does.
const NAME: &str = "certs keep";

#[derive(Debug, Args)]
pub(crate) struct Keep {
    #[command(flatten)]
    pub(super) folder: Folder,
    /// How often to look; a certificate is renewed when less than half of its life, which is a day, is left
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_duration)]
    every: Duration,
    /// For these too, such as the servers of databases: the names by which they are reached
    #[arg(value_parser = parse_identity, value_name = "NAME")]
    names: Vec<String>,
}

impl Keep {
    /// Until it is asked to end. As the first process of a container nothing ends it unless it listens.
    pub(super) async fn run(&self) -> Result<Outcome> {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        loop {
            create_missing(&self.folder, &self.names, author(NAME.to_owned(), None))?;
            tokio::select! {
                () = tokio::time::sleep(self.every.max(Duration::from_secs(1))) => {}
                _ = terminate.recv() => return Ok(Outcome::Done),
                _ = interrupt.recv() => return Ok(Outcome::Done),
            }
        }
    }
}
