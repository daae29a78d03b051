//! What operators see, kept in files: a change of it is a change of a file, which somebody reads.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p holdfast` writes what differs.

use std::{collections::BTreeSet, env, fs, path::PathBuf};

fn path_of(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "snapshots", name].iter().collect()
}

/// Compares a text with its file below `tests/snapshots`.
///
/// # Panics
///
/// If they differ.
pub(crate) fn check(name: &str, text: &str) {
    let (path, text) = (path_of(name), format!("{}\n", text.trim_end()));
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(&path, text).expect("written");
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let first = kept.lines().zip(text.lines()).position(|(kept, now)| kept != now);
    let line = first.unwrap_or_else(|| kept.lines().count().min(text.lines().count())) + 1;
    assert!(
        kept == text,
        "{name} differs from line {line} on; UPDATE_SNAPSHOTS=1 takes what is there now:\n{text}"
    );
}

/// Compares the names of the files in a folder below `tests/snapshots` with those that there should be.
///
/// # Panics
///
/// If a file is of something that is gone.
#[allow(dead_code, reason = "for the tests of one target")]
pub(crate) fn check_names(folder: &str, names: &BTreeSet<String>) {
    let files = fs::read_dir(path_of(folder)).expect("there").map(|file| file.expect("read").file_name());
    for file in files.map(|name| name.into_string().expect("text")).filter(|name| !names.contains(name)) {
        if env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::remove_file(path_of(folder).join(&file)).expect("deleted");
        } else {
            panic!("{folder}/{file} is of a command that is gone; UPDATE_SNAPSHOTS=1 deletes it");
        }
    }
}
