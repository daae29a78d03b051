//! `completions`.

use std::io::Write as _;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use crate::{Arguments, output::Outcome};

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// For this shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<Outcome> {
        // Made in memory: what writes it would panic when its reader has seen enough.
        let mut script = Vec::new();
        generate(self.shell, &mut Arguments::command(), "holdfast", &mut script);
        match std::io::stdout().write_all(&script) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
            other => Ok(other.map(|()| Outcome::Done)?),
        }
    }
}
