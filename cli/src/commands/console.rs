//! `console`: lets one browser into the pages for operators.
//!
//! The console is a component of the stack. What is handed over is a ticket: a file in a folder that only whoever runs the stack can write
//! into (`holdfast_operator::ticket`). The ticket itself is printed, and nowhere else.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};
use clap::Args;
use holdfast_native::{
    control,
    layout::{CONSOLE, Layout},
    state::StackReport,
};
use holdfast_operator::ticket::{self, Author, May, TICKET_TIME};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    options::{At, By, Output, hint},
    output::{NothingMatched, Outcome, data, say},
    runtime::block_on,
};

#[derive(Debug, Args)]
pub(crate) struct Console {
    #[command(flatten)]
    at: At,
    /// Let whoever opens the address change things, each with a reason: redrive, edit and discard dead letters, resume consumers
    #[arg(long)]
    allow_write: bool,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    output: Output,
}

/// What is printed.
#[derive(Serialize)]
struct Document {
    /// Works once.
    url: String,
    author: String,
    allow_write: bool,
    expires_at: String,
}

impl Console {
    pub(crate) fn run(&self) -> Result<Outcome> {
        block_on(self.let_in())
    }

    async fn let_in(&self) -> Result<Outcome> {
        let (layout, report) = self.at.running()?;
        check(&layout, &report).await?;
        let may = if self.allow_write { May::Change } else { May::Look };
        let (author, now) = (Author { name: self.by.name(), may }, OffsetDateTime::now_utc());
        let ticket = ticket::issue(&layout.console_tickets_dir(), &author, now)?;
        let expires_at = now + time::Duration::try_from(TICKET_TIME)?;
        let published = SocketAddr::from((Ipv4Addr::LOCALHOST, layout.console_port()));
        let document = Document {
            url: ticket::address(published, &ticket),
            author: author.name,
            allow_write: self.allow_write,
            expires_at: expires_at.replace_nanosecond(0)?.format(&Rfc3339)?,
        };
        say!("{}", ticket::announcement(may));
        self.output.print(&document, || data!("{}", document.url))?;
        Ok(Outcome::Done)
    }
}

/// An error that says what to do if nobody would answer at the address.
async fn check(layout: &Layout, report: &StackReport) -> Result<()> {
    let of_stack = |command: &str| hint(&layout.data_dir, command);
    if !report.components.iter().any(|component| component.name == CONSOLE) {
        return Err(NothingMatched(format!(
            "the stack in {} runs without its console: `{}`, then `{}` starts it with one, its data is kept",
            layout.data_dir.display(),
            of_stack("down"),
            of_stack("up")
        ))
        .into());
    }
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, layout.console_admin_port()));
    let (state, detail) = control::ask(admin).await;
    if !state.can_serve() {
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        bail!(
            "the console is {}{detail}: `{}` says why, `{}` starts it again",
            state.name(),
            of_stack("logs console --tail 20"),
            of_stack("restart console")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{output::json, snapshot};

    /// The shape of its JSON.
    #[test]
    fn an_address_is_shown() {
        let document = Document {
            url: "http://127.0.0.1:9090/open?ticket=7cb83d5b14241aa9".to_owned(),
            author: "alice".to_owned(),
            allow_write: false,
            expires_at: "2026-01-31T12:05:00Z".to_owned(),
        };
        snapshot::check("json/console.json", &json(&document));
    }

    /// Whoever has no console is told how to get one, with the exit code of what is not there.
    #[tokio::test]
    async fn a_stack_without_its_console_says_so() {
        let layout = Layout::new(PathBuf::from("/x"), 0);
        let report = StackReport {
            supervisor_pid: 1,
            port_offset: 0,
            written_at: 0,
            leaves_down: false,
            components: Vec::new(),
            links: Vec::new(),
        };
        let error = check(&layout, &report).await.expect_err("there is none");
        assert!(error.is::<NothingMatched>());
        let text = error.to_string();
        assert!(text.contains("`holdfast down --data-dir /x`, then `holdfast up --data-dir /x`"), "{text}");
    }
}
