//! Logs of components: files that are opened at a start, and kept short while they are written.
//!
//! A component writes its file itself, so that it goes on without its supervisor. So the file can't be replaced under it: it is
//! copied and cut. What is written in the instant between the two is lost.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// A longer log is set aside. There are two files of each component, so a stack's logs take at most about twice as much for each.
pub(crate) const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The log before this one.
#[must_use]
pub fn before(log: &Path) -> PathBuf {
    log.with_extension("log.old")
}

/// Opens a log for a component that starts, for its standard output and error. They append, so that cutting leaves no hole.
pub(crate) fn open(path: &Path) -> io::Result<(File, File)> {
    if length(path)? > LOG_BYTES_MAX {
        fs::rename(path, before(path))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    Ok((log.try_clone()?, log))
}

/// Sets aside what a log has if that is more than `bytes_max`, and has it begin anew, whoever writes it. On a full disk it is cut
/// without a copy: a log is not worth the room that the data needs.
pub(crate) fn keep_short(path: &Path, bytes_max: u64) -> io::Result<()> {
    if length(path)? <= bytes_max {
        return Ok(());
    }
    let mut log = File::open(path)?;
    let copied = File::create(before(path)).and_then(|mut old| io::copy(&mut log, &mut old));
    let is_full =
        |error: &io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    if copied.as_ref().is_err_and(|error| !is_full(error)) {
        return copied.map(drop);
    }
    OpenOptions::new().write(true).open(path)?.set_len(0)?;
    copied.map(drop)
}

/// 0 if there is none.
fn length(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(log) => Ok(log.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A log that is written all the time stays short, what it had is set aside, and its writer notices nothing.
    #[test]
    fn a_log_is_kept_short_while_it_is_written() {
        let folder = std::env::temp_dir().join(format!("holdfast-log-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("created");
        let path = folder.join("kafka.log");
        assert!(keep_short(&path, 10).is_ok(), "there is none yet");
        let (mut out, mut err) = open(&path).expect("opened");
        for round in 0..3 {
            writeln!(out, "line {round} of its output").expect("written");
            writeln!(err, "line {round} of its errors").expect("written");
            keep_short(&path, 40).expect("cut");
            let expected = format!("line {round} of its output\nline {round} of its errors\n");
            assert_eq!(fs::read_to_string(before(&path)).expect("set aside"), expected);
            assert_eq!(fs::read(&path).expect("there"), b"");
        }
        writeln!(out, "short").expect("written");
        keep_short(&path, 40).expect("left alone");
        // Without a hole where the lines before were.
        assert_eq!(fs::read_to_string(&path).expect("there"), "short\n");
        fs::remove_dir_all(folder).expect("gone");
    }
}
