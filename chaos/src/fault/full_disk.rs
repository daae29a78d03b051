//! Disks of their own for the data of databases and broker, which can be full for a while.
//!
//! Each is a tmpfs in a mount namespace that only the stack's supervisor and what it starts are in: nobody else sees it, and it is
//! gone when the last of them ends, however that happens. It becomes full by being made as small as what is in it, so nothing has
//! to be written, and it has room again by being made as large as before.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_native::layout::Layout;
use nix::sys::statvfs::statvfs;

/// Far more than a run writes; pages of it that are not used cost no memory.
const SIZE: u64 = 768 << 20;
/// What is in it may grow while it is made smaller.
const ATTEMPTS_MAX: usize = 50;
/// Mounts a disk on each folder up to `--`, then becomes the program behind it.
const SCRIPT: &str = r#"while [ "$1" != -- ]; do
    mount -t tmpfs -o "size=$SIZE,mode=755" holdfast-chaos "$1" || exit 1
    shift
done
shift
exec "$@""#;

/// The disks of a stack.
#[derive(Debug)]
pub struct Disks {
    /// The component and the folder of its data.
    folders: Vec<(String, PathBuf)>,
    /// A process that sees them.
    insider: u32,
}

impl Disks {
    /// Wraps the command that starts a stack, so that its databases and broker have disks of their own. The folder of the stack is
    /// created.
    pub fn wrap(layout: &Layout, command: &Command) -> Result<(Command, Vec<(String, PathBuf)>)> {
        fs::create_dir_all(&layout.data_dir)?;
        let mut folders = Vec::new();
        for (component, folder) in layout.data_folders() {
            ensure!(
                folder.starts_with(&layout.data_dir),
                "{} is closed to the user of the databases",
                layout.data_dir.display()
            );
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            folders.push((component, folder));
        }
        // Without it, a start takes what is there for somebody else's.
        fs::write(layout.marker_file(), "The data of a chaos run's stack.\n")?;
        let mut wrapped = inside(&["--mount", "--propagation", "private"]);
        wrapped.args(["sh", "-c", SCRIPT, "sh"]).args(folders.iter().map(|(_, folder)| folder)).arg("--");
        wrapped.arg(command.get_program()).args(command.get_args()).env("SIZE", SIZE.to_string());
        Ok((wrapped, folders))
    }

    /// The disks that a process sees which was started by a [wrapped](Self::wrap) command.
    #[must_use]
    pub const fn seen_by(insider: u32, folders: Vec<(String, PathBuf)>) -> Self {
        Self { folders, insider }
    }

    /// Leaves a component no space until what is returned is dropped.
    pub async fn fill(&self, component: &str) -> Result<Full<'_>> {
        let folder = self.folders.iter().find(|(name, _)| name == component).map(|(_, folder)| folder);
        let folder = folder.with_context(|| format!("{component} has no disk of its own"))?;
        let full = Full { insider: self.insider, folder };
        full.again().await?;
        Ok(full)
    }

    /// Deletes the folders that the disks were on, once nobody sees the disks any more. Of the folders above those that are empty.
    pub fn remove(&self, data_dir: &Path) {
        for (_, folder) in &self.folders {
            for empty in folder.ancestors().take_while(|folder| folder.starts_with(data_dir)) {
                if fs::remove_dir(empty).is_err() {
                    break;
                }
            }
        }
    }
}

/// A disk that is full, and has room again when this is dropped, whatever ends its owner.
#[derive(Debug)]
pub struct Full<'a> {
    insider: u32,
    folder: &'a Path,
}

impl Full<'_> {
    /// Takes the room that was made by deleting.
    pub async fn again(&self) -> Result<()> {
        let mut refused = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let Room { used, free } = self.room()?;
            if free == 0 {
                return Ok(());
            }
            let output = tokio::process::Command::from(self.resize(used)).output().await?;
            // The kernel refuses a size below what is in it.
            String::from_utf8_lossy(&output.stderr).trim().clone_into(&mut refused);
        }
        bail!("the disk could not be filled: {refused}")
    }

    /// Gives the room back, and returns how many bytes are free.
    pub async fn heal(&self) -> Result<u64> {
        let output = tokio::process::Command::from(self.resize(SIZE)).output().await?;
        let Room { free, .. } = self.room()?;
        ensure!(free > 0, "the disk has no room again: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(free)
    }

    fn resize(&self, bytes: u64) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.insider.to_string(), "mount", "-o"]);
        command.arg(format!("remount,size={bytes}")).arg(self.folder);
        command
    }

    /// As a process inside sees it.
    fn room(&self) -> Result<Room> {
        let outside = self.folder.strip_prefix("/").unwrap_or(self.folder);
        let path = Path::new("/proc").join(self.insider.to_string()).join("root").join(outside);
        let stat = statvfs(&path).with_context(|| format!("cannot look at {}", path.display()))?;
        // The widths of these differ between platforms.
        #[allow(clippy::useless_conversion, reason = "needed where they are 32 bits wide")]
        let bytes = |blocks| u64::from(blocks) * u64::from(stat.fragment_size());
        Ok(Room { used: bytes(stat.blocks() - stat.blocks_free()), free: bytes(stat.blocks_free()) })
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        // Fails if the stack has ended, and its disks with it.
        let _ = self.resize(SIZE).output();
    }
}

/// Bytes.
struct Room {
    used: u64,
    free: u64,
}

/// A command for a namespace of its own.
fn inside(namespaces: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(namespaces).arg("--");
    command
}

/// Why there can be no such disks here, if there can't.
#[must_use]
pub fn unavailable() -> Option<String> {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return Some(format!("there is no folder for temporary files: {error}")),
    };
    let mount = ["mount", "-t", "tmpfs", "holdfast-chaos"].map(OsStr::new);
    let tried = inside(&["--mount", "--propagation", "private"]).args(mount).arg(folder.path()).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "a tmpfs cannot be mounted, which takes root: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("unshare (of util-linux) cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use holdfast_testkit::skipped;

    use super::*;

    /// A disk is full as long as it is to be, and nobody outside of it sees it. Where that can't be, the reason is said.
    #[tokio::test]
    async fn a_disk_is_full_and_has_room_again() {
        if let Some(reason) = unavailable() {
            assert!(!reason.is_empty());
            skipped(&reason);
            return;
        }
        let base = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(base.path().join("stack"), 0);
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let Ok((mut wrapped, folders)) = Disks::wrap(&layout, &sleep) else {
            skipped(&format!("{} is closed to others", base.path().display()));
            return;
        };
        let mut child = wrapped.stdin(Stdio::null()).spawn().expect("started");
        let kafka = folders.iter().find(|(name, _)| name == "kafka").expect("there").1.clone();
        let disks = Disks::seen_by(child.id(), folders);
        let inside = PathBuf::from(format!("/proc/{}/root{}", child.id(), kafka.display()));
        let mounted =
            || fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|name| name == "sleep\n");
        while !mounted() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        fs::write(inside.join("before"), vec![7; 100_000]).expect("there is room");
        let full = disks.fill("kafka").await.expect("filled");
        let refused = fs::write(inside.join("more"), vec![7; 100_000]).expect_err("full");
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
        assert!(!kafka.join("before").exists(), "nobody outside sees it");
        assert!(full.heal().await.expect("healed") > 0);
        fs::write(inside.join("more"), vec![7; 100_000]).expect("there is room again");
        full.again().await.expect("filled again");
        drop(full);
        fs::write(inside.join("most"), vec![7; 100_000]).expect("there is room however it ended");
        assert!(disks.fill("order").await.is_err(), "services have no disk of their own");
        child.kill().and_then(|()| child.wait()).expect("ended");
        fs::remove_file(layout.marker_file()).expect("there");
        disks.remove(&layout.data_dir);
        assert!(!layout.data_dir.exists());
    }
}
