//! Consent to what cannot be taken back. Each command that deletes, gives up or replaces something for good says what it touches, and
//! then asks here: there is one way to be asked, and one option that answers beforehand.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Result;
use clap::Args;
use holdfast_proto::text::on_its_lines;

use crate::output::{UsageError, say};

/// `--yes`.
#[derive(Debug, Args)]
pub(crate) struct Consent {
    /// Don't ask
    #[arg(long)]
    yes: bool,
}

impl Consent {
    /// Says what is touched, and returns whether that is wanted. Without a terminal it is a usage error: nothing is destroyed because
    /// nobody was there to say no.
    pub(crate) fn to(&self, touched: &str, question: &str) -> Result<bool> {
        say!("{touched}");
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            return Err(UsageError("not a terminal: pass --yes".to_owned()).into());
        }
        let is_given = asked(question)?;
        if !is_given {
            say!("nothing was done");
        }
        Ok(is_given)
    }
}

/// Asks on the terminal; anything but a yes is a no.
pub(crate) fn asked(question: &str) -> Result<bool> {
    let mut terminal = io::stderr();
    write!(terminal, "{} [y/N] ", on_its_lines(question))?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
