//! `secrets init`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_certs::check_name;
use uuid::Uuid;

use crate::output::{Outcome, say};

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Folder of the secrets
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Let every user read them: for a container's volume, which is mounted by those who may and whose programs have users of
    /// their own
    #[arg(long)]
    shared: bool,
    /// Whose; each gets the file DIR/NAME/password
    #[arg(required = true, value_name = "NAME", value_parser = parse_name)]
    names: Vec<String>,
}

fn parse_name(text: &str) -> Result<String> {
    check_name(text)?;
    Ok(text.to_owned())
}

impl Init {
    pub(super) fn run(&self) -> Result<Outcome> {
        for name in &self.names {
            let folder = self.dir.join(name);
            create(&folder, self.shared).with_context(|| format!("cannot write to {}", folder.display()))?;
        }
        say!("passwords are in {}", self.dir.display());
        Ok(Outcome::Done)
    }
}

/// One that is there stays, since whatever it protects has it.
fn create(folder: &Path, shared: bool) -> io::Result<()> {
    let (file, draft) = (folder.join("password"), folder.join("password.draft"));
    if file.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let _ = fs::remove_file(&draft);
    // 244 random bits, in characters that need no escape anywhere.
    let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let mut written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if shared { 0o644 } else { 0o600 })
        .open(&draft)?;
    written.write_all(password.as_bytes())?;
    written.sync_all()?;
    fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A password is made once, for its owner only; a name can't lead elsewhere.
    #[test]
    fn a_password_is_made_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("order/password");
        create(&dir.path().join("order"), false).expect("created");
        let first = fs::read_to_string(&file).expect("there");
        assert_eq!(first.len(), 64);
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        create(&dir.path().join("order"), false).expect("nothing to do");
        assert_eq!(fs::read_to_string(&file).expect("there"), first);
        for wrong in ["", "..", "a/b"] {
            assert!(parse_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
