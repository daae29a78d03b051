//! Files that are written completely or not at all.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
};

use nix::unistd::geteuid;

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
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content.as_bytes())?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    belongs_to_its_folder(&file, path)?;
    file.sync_all()?;
    fs::rename(draft, path)
}

/// What root writes into the folder of somebody's identity is for them.
pub(crate) fn belongs_to_its_folder(file: &File, path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|_| geteuid().is_root()) else { return Ok(()) };
    // A file in the working folder.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let owner = fs::metadata(folder)?;
    let ours = file.metadata()?;
    if (owner.uid(), owner.gid()) == (ours.uid(), ours.gid()) {
        return Ok(());
    }
    match fchown(file, Some(owner.uid()), Some(owner.gid())) {
        // A root without that right, as in a container.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key is its owner's alone and a certificate everybody's, also where the umask (as of a supervisor) would say otherwise; as
    /// root, both are of the owner of their folder.
    #[test]
    fn a_file_has_the_mode_and_the_owner_that_it_should() {
        let folder = tempfile::tempdir().expect("a folder");
        let nobody = nix::unistd::User::from_name("nobody").ok().flatten();
        if let Some(user) = nobody.filter(|_| geteuid().is_root()) {
            std::os::unix::fs::chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .expect("given");
        }
        let owner = fs::metadata(folder.path()).expect("there").uid();
        for (access, expected) in [(Access::Public, 0o644), (Access::Private, 0o600)] {
            let path = folder.path().join("file");
            write(&path, "x", access).expect("written");
            let file = fs::metadata(&path).expect("there");
            assert_eq!((file.mode() & 0o777, file.uid()), (expected, owner));
        }
    }
}
