//! Files that are written completely or not at all.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Who may read a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    /// Anybody.
    Public,
    /// Its owner.
    Private,
}

/// Writes beside the target and renames: a reader sees the old content or the new.
pub(crate) fn write(path: &Path, content: &str, access: Access) -> io::Result<()> {
    let mode = match access {
        Access::Public => 0o644,
        Access::Private => 0o600,
    };
    let draft = path.with_extension("draft");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, path)
}
