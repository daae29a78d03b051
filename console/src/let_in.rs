//! `holdfast-console ticket`: lets one browser into the console that runs beside this process, with the same settings. For a container, into
//! which `holdfast console` does not reach: who may run a program there has the console's key anyway.

use std::{env, ffi::OsString, io, path::PathBuf, process::ExitCode};

use holdfast_common::{
    admin, config,
    error::{BoxError, chain},
    service::Configuration as _,
};
use holdfast_operator::ticket::{self, Author, May};
use time::OffsetDateTime;

use crate::config::Config;

/// The first word of its command line.
pub(crate) const COMMAND: &str = "ticket";

const USAGE: &str = "usage: holdfast-console ticket [--author NAME] [--allow-write] [--config FILE]\n\n\
    Prints an address that lets one browser into the console that runs here, once, within five minutes.\n\n\
    --author NAME   who that is, for the audit; the variable USER unless it is said\n\
    --allow-write   to change things too, not only to look\n\
    --config FILE   the settings of the console, unless they are in variables";

const EXIT_USAGE: u8 = 2;

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    author: Option<String>,
    may: May,
    config: Option<PathBuf>,
}

/// Runs the command with the words that follow [`COMMAND`]: 0 done, 1 failed, 2 usage.
pub(crate) fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        return said(io::stdout(), USAGE, ExitCode::SUCCESS);
    }
    let Some(wanted) = wanted(words, env::var("USER").ok()) else {
        return said(io::stderr(), USAGE, ExitCode::from(EXIT_USAGE));
    };
    match let_in(&wanted) {
        Ok(address) => {
            said(io::stderr(), &ticket::announcement(wanted.may), ExitCode::SUCCESS);
            said(io::stdout(), &address, ExitCode::SUCCESS)
        }
        Err(error) => {
            said(io::stderr(), &format!("holdfast-console: {}", chain(error.as_ref())), ExitCode::FAILURE)
        }
    }
}

/// `None`: that is no command line of it.
fn wanted(words: Vec<OsString>, user: Option<String>) -> Option<Wanted> {
    let mut wanted = Wanted::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.to_str()? {
            "--allow-write" => wanted.may = May::Change,
            "--author" => wanted.author = Some(words.next()?.into_string().ok()?),
            "--config" => wanted.config = Some(words.next()?.into()),
            _ => return None,
        }
    }
    wanted.author = wanted.author.or(user);
    Some(wanted)
}

/// The address, once the console would answer there.
fn let_in(wanted: &Wanted) -> Result<String, BoxError> {
    let author = wanted.author.as_deref().filter(|author| !author.trim().is_empty());
    let author = Author {
        name: author.ok_or("say who that is, for the audit: --author NAME")?.to_owned(),
        may: wanted.may,
    };
    let config: Config = config::load(wanted.config.as_deref())?;
    let published = config.console.published()?;
    admin::ask_ready(config.service().admin_listen)
        .map_err(|error| format!("the console does not serve: {error}"))?;
    let ticket = ticket::issue(&config.console.tickets, &author, OffsetDateTime::now_utc())?;
    Ok(ticket::address(published, &ticket))
}

/// Writes a line; one that can't be written is a failure.
fn said(mut to: impl io::Write, line: &str, code: ExitCode) -> ExitCode {
    match writeln!(to, "{line}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it is told it does, and nothing else; who that is must be said, or be known of whoever runs it.
    #[test]
    fn words_are_understood_or_refused() {
        let read = |line: &str, user: Option<&str>| {
            wanted(line.split_whitespace().map(OsString::from).collect(), user.map(str::to_owned))
        };
        let looks = Wanted { author: Some("alice".to_owned()), ..Wanted::default() };
        assert_eq!(read("", Some("alice")), Some(looks));
        let changes = Wanted {
            author: Some("bob".to_owned()),
            may: May::Change,
            config: Some(PathBuf::from("x.toml")),
        };
        assert_eq!(read("--allow-write --config x.toml --author bob", Some("alice")), Some(changes));
        for wrong in ["--author", "--config", "--allow", "alice", "--allow-write=yes"] {
            assert_eq!(read(wrong, Some("alice")), None, "{wrong}");
        }
        for nobody in [None, Some(""), Some(" ")] {
            let refused = let_in(&read("", nobody).expect("understood")).expect_err("nobody");
            assert!(refused.to_string().contains("--author NAME"), "{refused}");
        }
    }
}
