//! `logs`.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use holdfast_native::layout::{Layout, every_component_name};

use crate::{options::At, output::Outcome};

const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    at: At,
    /// A component's name, as `holdfast status` shows it
    #[arg(value_parser = parse_component)]
    name: Option<String>,
    /// Keep printing what is written from now on
    #[arg(short, long)]
    follow: bool,
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

/// A log that is being read.
struct Tail {
    /// Printed before each line where several logs are shown.
    prefix: String,
    path: PathBuf,
    reader: Option<BufReader<File>>,
    /// The part of an incomplete line that was read so far.
    partial: String,
}

impl Tail {
    /// Prints what is new. Returns whether there was anything.
    fn print(&mut self, out: &mut impl io::Write) -> io::Result<bool> {
        if self.reader.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.reader = Some(BufReader::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let Some(reader) = &mut self.reader else { return Ok(false) };
        let mut any = false;
        loop {
            let mut bytes = Vec::new();
            if reader.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(any);
            }
            // A component may log bytes that are not text.
            self.partial.push_str(&String::from_utf8_lossy(&bytes));
            if self.partial.ends_with('\n') {
                write!(out, "{}{}", self.prefix, self.partial)?;
                self.partial.clear();
                any = true;
            }
        }
    }
}

impl Logs {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let layout = Layout::new(self.at.data_dir()?, 0);
        let known = layout.component_names();
        let wanted: Vec<&str> = known
            .iter()
            .map(String::as_str)
            .filter(|name| self.name.as_deref().is_none_or(|wanted| wanted == *name))
            .collect();
        if wanted.is_empty() {
            eprintln!("it has not run in {}; there are {}", layout.data_dir.display(), known.join(", "));
            return Ok(Outcome::NothingMatched);
        }
        let width = wanted.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut tails: Vec<Tail> = wanted
            .iter()
            .map(|name| Tail {
                prefix: if wanted.len() > 1 { format!("{name:width$} | ") } else { String::new() },
                path: layout.log_file(name),
                reader: None,
                partial: String::new(),
            })
            .collect();
        if !self.follow && tails.iter().all(|tail| !tail.path.exists()) {
            eprintln!("there are no logs in {}", layout.data_dir.display());
            return Ok(Outcome::NothingMatched);
        }
        let mut out = io::stdout().lock();
        loop {
            let mut any = false;
            for tail in &mut tails {
                match tail.print(&mut out) {
                    Ok(more) => any |= more,
                    // The reader of our output has seen enough.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Outcome::Done),
                    Err(error) => return Err(error.into()),
                }
            }
            out.flush()?;
            if !self.follow {
                return Ok(Outcome::Done);
            }
            if !any {
                #[expect(clippy::disallowed_methods, reason = "this command has no runtime")]
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that is no component's name is refused.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", " ", "nobody"] {
            assert!(parse_component(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_component("order-9").is_ok());
    }
}
