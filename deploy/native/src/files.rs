//! Files and folders of a stack: complete or not there, and open to nobody who need not see them.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, lchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::environment::{console_user, unprivileged};

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The supervisor's, and that of whoever operates the stack.
    Supervisor,
    /// That of the user that components run as.
    Components,
    /// That of the user that the console runs as.
    Console,
}

impl Owner {
    /// User and group that it is given to; `None` if it stays this process's.
    fn user(self) -> Result<Option<(u32, u32)>> {
        match self {
            Self::Supervisor => Ok(None),
            Self::Components => unprivileged(),
            Self::Console => console_user(),
        }
    }
}

/// Who gets through a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// Its owner.
    Closed,
    /// Components too, to what is theirs; they can't list it.
    Components,
}

/// Appended to the name of a file while it is written.
pub(crate) const DRAFT: &str = ".draft";

/// Writes a file that only its owner can read: completely or not at all.
pub(crate) fn write(path: &Path, content: &[u8], owner: Owner) -> Result<()> {
    let write = || {
        let mut draft = path.as_os_str().to_owned();
        draft.push(DRAFT);
        let draft = PathBuf::from(draft);
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        if let Some((uid, gid)) = owner.user()? {
            chown(&draft, Some(uid), Some(gid))?;
        }
        fs::rename(draft, path)?;
        Ok::<_, anyhow::Error>(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Creates a folder of the supervisor if it is not there, and closes it to others.
pub(crate) fn folder(path: &Path, passage: Passage) -> Result<()> {
    let passable = passage == Passage::Components && unprivileged()?.is_some();
    create_with_mode(path, if passable { 0o711 } else { 0o700 })
        .with_context(|| format!("cannot prepare the folder {}", path.display()))
}

/// The same of a folder of somebody else's, with all that is in it.
pub(crate) fn folder_of(owner: Owner, path: &Path) -> Result<()> {
    create_with_mode(path, 0o700)
        .map_err(Into::into)
        .and_then(|()| hand_over(path, owner.user()?))
        .with_context(|| format!("cannot prepare the folder {}", path.display()))
}

fn create_with_mode(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Gives a folder, with everything in it, to a user; links are left as they are.
fn hand_over(path: &Path, user: Option<(u32, u32)>) -> Result<()> {
    let Some((uid, gid)) = user else { return Ok(()) };
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    if (found.uid(), found.gid()) != (uid, gid) {
        lchown(path, Some(uid), Some(gid))?;
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            hand_over(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// Creates a folder that another user can get through, whatever the umask is; `from` is the first above it that is ours.
pub(crate) fn create_passable(folder: &Path, from: &Path) -> io::Result<()> {
    for folder in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o711))?,
            // Another start may have created it meanwhile, or an earlier one closed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if folder.starts_with(from) {
                    let mode = fs::metadata(folder)?.permissions().mode();
                    fs::set_permissions(folder, Permissions::from_mode(mode | 0o011))?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has everybody read a folder and everything in it, and run its programs.
pub(crate) fn publish(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    let mode = found.permissions().mode();
    let run = if found.is_dir() || mode & 0o100 != 0 { 0o111 } else { 0 };
    if mode & (0o444 | run) != 0o444 | run {
        fs::set_permissions(path, Permissions::from_mode(mode | 0o444 | run))?;
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            publish(&entry?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::unistd::geteuid;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    /// Files and folders of a stack are closed to others, also those that were open; what all must read is open to all.
    #[test]
    fn modes_are_ours_whatever_was_there() {
        let base = std::env::temp_dir().join(format!("holdfast-files-{}", std::process::id()));
        fs::create_dir_all(base.join("inner")).expect("created");
        fs::set_permissions(&base, Permissions::from_mode(0o777)).expect("allowed");
        let file = base.join("file");
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("allowed");
        write(&file, b"new", Owner::Supervisor).expect("written");
        assert_eq!((mode(&file), fs::read(&file).expect("there")), (0o600, b"new".to_vec()));
        for owner in [Owner::Console, Owner::Components] {
            folder_of(owner, &base).expect("prepared");
            assert_eq!(mode(&base), 0o700);
            let owned_by = owner.user().expect("known").map_or(geteuid().as_raw(), |(uid, _)| uid);
            let owners = [&base, &file].map(|path| fs::metadata(path).expect("there").uid());
            assert_eq!(owners, [owned_by; 2], "{owner:?}");
        }
        let passable = if unprivileged().expect("known").is_some() { 0o711 } else { 0o700 };
        for (passage, expected) in [(Passage::Components, passable), (Passage::Closed, 0o700)] {
            folder(&base, passage).expect("prepared");
            assert_eq!(mode(&base), expected, "{passage:?}");
        }

        let program = base.join("inner/program");
        fs::write(&program, "").expect("written");
        fs::set_permissions(&program, Permissions::from_mode(0o700)).expect("allowed");
        fs::set_permissions(base.join("inner"), Permissions::from_mode(0o750)).expect("allowed");
        publish(&base).expect("published");
        assert_eq!((mode(&base) & 0o555, mode(&base.join("inner"))), (0o555, 0o755));
        assert_eq!((mode(&program), mode(&file)), (0o755, 0o644));

        let closed = base.join("closed");
        fs::create_dir(&closed).expect("created");
        fs::set_permissions(&closed, Permissions::from_mode(0o750)).expect("allowed");
        create_passable(&closed.join("deep"), &closed).expect("created");
        assert_eq!((mode(&closed) & 0o011, mode(&closed.join("deep"))), (0o011, 0o711));
        fs::remove_dir_all(base).expect("gone");
    }
}
