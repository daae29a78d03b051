//! The disk of a broker that comes back as it was a while before: what a machine that loses its power may come back with.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{
    Fault,
    process::{Stopped, runs},
};

const END_TIME_MAX: Duration = Duration::from_secs(20);

/// A broker's disk at one moment.
#[derive(Debug)]
pub struct BrokerDisk {
    /// The folder of its logs.
    logs: PathBuf,
    copy: TempDir,
}

impl BrokerDisk {
    /// The disk as it is now. The broker, the process `pid` with its logs in `logs`, is stopped meanwhile and does not notice.
    pub async fn of(pid: u32, logs: PathBuf) -> Result<Self> {
        let copy = TempDir::new()?;
        let stopped = Stopped::tree(pid)?;
        let copied = copy_folder(&logs, copy.path()).await;
        drop(stopped);
        copied?;
        Ok(Self { logs, copy })
    }

    /// Kills the broker, the process `pid`, and gives it this disk. Returns how many bytes of its logs are lost. Whoever would
    /// start it at once must be stopped.
    pub async fn comes_back(&self, pid: u32) -> Result<u64> {
        Fault::Kill.apply(pid)?;
        let begin = Instant::now();
        while runs(pid) {
            ensure!(begin.elapsed() < END_TIME_MAX, "process {pid} lives after it was killed");
            sleep(Duration::from_millis(10)).await;
        }
        let lost = size_of(&self.logs)?.saturating_sub(size_of(self.copy.path())?);
        fs::remove_dir_all(&self.logs)?;
        fs::create_dir(&self.logs)?;
        copy_folder(self.copy.path(), &self.logs).await?;
        Ok(lost)
    }
}

/// What is in `from` is put into `to`, which is there.
async fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let output = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).output().await?;
    ensure!(output.status.success(), "cp: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Bytes of the segments in a broker's folder.
fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes += size_of(&entry.path())?;
        } else if entry.path().extension().is_some_and(|extension| extension == "log") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}
