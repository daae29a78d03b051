//! A log that is being read, as entries. It is followed through rotations: a log that became shorter, or another file, is read from its
//! beginning.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use super::entry::Entry;

/// A longer line is shown as several.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// See the module.
pub(super) struct Tail {
    path: PathBuf,
    reader: Option<BufReader<File>>,
    /// The part of an incomplete line that was read so far.
    partial: Vec<u8>,
}

impl Tail {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, reader: None, partial: Vec::new() }
    }

    /// What is new.
    pub(super) fn entries(&mut self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.read_rest(&mut entries)?;
        // Only a file that was read to its end is left for another one.
        if self.is_begun_anew()? {
            (self.reader, self.partial) = (None, Vec::new());
            self.read_rest(&mut entries)?;
        }
        Ok(entries)
    }

    fn read_rest(&mut self, entries: &mut Vec<Entry>) -> io::Result<()> {
        if self.reader.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.reader = Some(BufReader::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        loop {
            let room = (LINE_BYTES_MAX - self.partial.len()) as u64;
            if reader.take(room).read_until(b'\n', &mut self.partial)? == 0 {
                return Ok(());
            }
            let is_whole = self.partial.ends_with(b"\n");
            if is_whole || self.partial.len() >= LINE_BYTES_MAX {
                add(entries, self.partial.strip_suffix(b"\n").unwrap_or(&self.partial));
                self.partial.clear();
            }
        }
    }

    /// Adds the last line, if its component has not finished it: it may have died over it.
    pub(super) fn add_unfinished(&mut self, entries: &mut Vec<Entry>) {
        if !self.partial.is_empty() {
            add(entries, &std::mem::take(&mut self.partial));
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

/// Adds a line. A component may log bytes that are not text.
fn add(entries: &mut Vec<Entry>, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    match (Entry::beginning(&line), entries.last_mut()) {
        (Some(entry), _) => entries.push(entry),
        (None, Some(last)) => last.continue_with(&line),
        (None, None) => entries.push(Entry::without_time(&line)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A log is followed through rotations of both kinds, and what strangers have written in it acts on no terminal.
    #[test]
    fn a_log_is_followed_through_rotations() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("order.log");
        let mut tail = Tail::new(path.clone());
        let mut shown = || {
            let entries = tail.entries().expect("read");
            entries.iter().flat_map(|entry| entry.raw().collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(shown(), [""; 0]);
        fs::write(&path, "first\nsec").expect("written");
        assert_eq!(shown(), ["first"]);
        let append = |text: &str| {
            let mut log = File::options().append(true).open(&path).expect("there");
            log.write_all(text.as_bytes()).expect("written");
        };
        append("ond \u{1b}]0;owned\u{7}\u{9b}2J\r\n");
        assert_eq!(shown(), ["second \\u001b]0;owned\\u0007\\u009b2J\\r"]);
        // It is copied and cut while its component writes.
        File::options().write(true).open(&path).expect("there").set_len(0).expect("cut");
        append("third\n");
        assert_eq!(shown(), ["third"]);
        // It is renamed while its component is down.
        append("fourth\n");
        fs::rename(&path, folder.path().join("order.log.old")).expect("renamed");
        fs::write(&path, "fifth\n").expect("written");
        assert_eq!(shown(), ["fourth", "fifth"]);
    }

    /// The line over which a component has died is shown once nobody waits for the rest of it.
    #[test]
    fn an_unfinished_line_is_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("order.log");
        fs::write(&path, "first\nsec").expect("written");
        let mut tail = Tail::new(path);
        let mut entries = tail.entries().expect("read");
        tail.add_unfinished(&mut entries);
        tail.add_unfinished(&mut entries);
        let shown: Vec<String> = entries.iter().flat_map(Entry::raw).collect();
        assert_eq!(shown, ["first", "sec"]);
    }
}
