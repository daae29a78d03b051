//! `logs`.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use holdfast_native::layout::{Layout, every_component_name};
use holdfast_proto::text::on_one_line;

use crate::{
    options::At,
    output::{Outcome, say},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A longer line is shown as several.
const LINE_BYTES_MAX: usize = 1024 * 1024;

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

/// A log that is being read. It is followed through rotations: a log that became shorter, or another file, is read from its
/// beginning.
struct Tail {
    /// Printed before each line where several logs are shown.
    prefix: String,
    path: PathBuf,
    reader: Option<BufReader<File>>,
    /// The part of an incomplete line that was read so far.
    partial: Vec<u8>,
}

impl Tail {
    fn new(prefix: String, path: PathBuf) -> Self {
        Self { prefix, path, reader: None, partial: Vec::new() }
    }

    /// Prints what is new. Returns whether there was anything.
    fn print(&mut self, out: &mut impl io::Write) -> io::Result<bool> {
        let any = self.print_rest(out)?;
        // Only a file that was read to its end is left for another one.
        if self.is_begun_anew()? {
            (self.reader, self.partial) = (None, Vec::new());
            return Ok(self.print_rest(out)? || any);
        }
        Ok(any)
    }

    fn print_rest(&mut self, out: &mut impl io::Write) -> io::Result<bool> {
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
            let room = (LINE_BYTES_MAX - self.partial.len()) as u64;
            if reader.take(room).read_until(b'\n', &mut self.partial)? == 0 {
                return Ok(any);
            }
            let is_whole = self.partial.ends_with(b"\n");
            if is_whole || self.partial.len() >= LINE_BYTES_MAX {
                // A component may log bytes that are not text, and text of strangers.
                let line = String::from_utf8_lossy(self.partial.strip_suffix(b"\n").unwrap_or(&self.partial));
                writeln!(out, "{}{}", self.prefix, on_one_line(&line))?;
                self.partial.clear();
                any = true;
            }
        }
    }

    /// Whether the file of this name is another one by now, or was cut.
    fn is_begun_anew(&mut self) -> io::Result<bool> {
        let Some(reader) = &mut self.reader else { return Ok(false) };
        let now = match fs::metadata(&self.path) {
            Ok(now) => now,
            // It is between two names.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let read = reader.get_ref().metadata()?;
        Ok((now.dev(), now.ino()) != (read.dev(), read.ino()) || now.len() < reader.stream_position()?)
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
            say!("it has not run in {}; there are {}", layout.data_dir.display(), known.join(", "));
            return Ok(Outcome::NothingMatched);
        }
        let width = wanted.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut tails: Vec<Tail> = wanted
            .iter()
            .map(|name| {
                let prefix = if wanted.len() > 1 { format!("{name:width$} | ") } else { String::new() };
                Tail::new(prefix, layout.log_file(name))
            })
            .collect();
        if !self.follow && tails.iter().all(|tail| !tail.path.exists()) {
            say!("there are no logs in {}", layout.data_dir.display());
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

    /// A log is followed through rotations of both kinds, and what strangers have written in it acts on no terminal.
    #[test]
    fn a_log_is_followed_through_rotations() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("order.log");
        let mut tail = Tail::new("order | ".to_owned(), path.clone());
        let mut shown = || {
            let mut out = Vec::new();
            tail.print(&mut out).expect("read");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(shown(), "");
        fs::write(&path, "first\nsec").expect("written");
        assert_eq!(shown(), "order | first\n");
        let append = |text: &str| {
            let mut log = File::options().append(true).open(&path).expect("there");
            log.write_all(text.as_bytes()).expect("written");
        };
        append("ond \u{1b}]0;owned\u{7}\u{9b}2J\r\n");
        assert_eq!(shown(), "order | second \\u001b]0;owned\\u0007\\u009b2J\\r\n");
        // It is copied and cut while its component writes.
        File::options().write(true).open(&path).expect("there").set_len(0).expect("cut");
        append("third\n");
        assert_eq!(shown(), "order | third\n");
        // It is renamed while its component is down.
        append("fourth\n");
        fs::rename(&path, folder.path().join("order.log.old")).expect("renamed");
        fs::write(&path, "fifth\n").expect("written");
        assert_eq!(shown(), "order | fourth\norder | fifth\n");
    }
}
