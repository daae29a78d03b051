//! What a component has written into its log since a moment.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

/// A log from a moment on.
#[derive(Debug)]
pub struct LogSince {
    path: PathBuf,
    begin: u64,
}

impl LogSince {
    /// From now on.
    #[must_use]
    pub fn now(path: PathBuf) -> Self {
        let begin = fs::metadata(&path).map_or(0, |found| found.len());
        Self { path, begin }
    }

    /// How many of its new lines have one of these texts.
    pub fn count(&self, texts: &[&str]) -> io::Result<usize> {
        let mut file = File::open(&self.path)?;
        // A shorter one is another file, which was begun since.
        let begin = if file.metadata()?.len() < self.begin { 0 } else { self.begin };
        file.seek(SeekFrom::Start(begin))?;
        let mut new = Vec::new();
        file.read_to_end(&mut new)?;
        let new = String::from_utf8_lossy(&new);
        Ok(new.lines().filter(|line| texts.iter().any(|text| line.contains(text))).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only new lines count, also those of a log that was begun anew.
    #[test]
    fn only_new_lines_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.log");
        fs::write(&path, "full\nfull\n").expect("written");
        let log = LogSince::now(path.clone());
        assert_eq!(log.count(&["full"]).expect("read"), 0);
        fs::write(&path, "full\nfull\nfull again\nother\n").expect("written");
        assert_eq!(log.count(&["full", "other"]).expect("read"), 2);
        fs::write(&path, "full\n").expect("written");
        assert_eq!(log.count(&["full"]).expect("read"), 1);
        fs::remove_file(&path).expect("gone");
        assert!(log.count(&["full"]).is_err());
    }
}
