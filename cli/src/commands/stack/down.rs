//! `down`.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use holdfast_native::{
    control::{self, Stopped},
    layout::Layout,
};

use crate::{
    consent::Consent,
    options::At,
    output::{Outcome, say},
};

/// Time to stop everything: each component gets 10 s, first the services, then the infrastructure.
pub(super) const STOP_TIME_MAX: Duration = Duration::from_secs(45);

#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    at: At,
    /// Delete the stack's data too
    #[arg(long)]
    delete_data: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Down {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let data_dir = self.at.data_dir()?;
        // Before anything is stopped: whoever says no has everything as it was.
        if self.delete_data && !self.may_delete(&data_dir)? {
            return Ok(Outcome::Failed);
        }
        match control::stop(&data_dir, STOP_TIME_MAX)? {
            Stopped::Running => say!("stopped"),
            Stopped::Abandoned => say!("stopped components that had lost their supervisor"),
            Stopped::Nothing => say!("nothing runs in {}", data_dir.display()),
        }
        if self.delete_data {
            return delete(&data_dir);
        }
        Ok(Outcome::Done)
    }

    /// Says what is deleted, and where, and asks.
    fn may_delete(&self, data_dir: &Path) -> Result<bool> {
        let layout = Layout::new(data_dir.to_owned(), 0);
        if !data_dir.exists() {
            return Ok(true);
        }
        if !layout.marker_file().exists() {
            bail!("{} is not the folder of a stack, so it is left alone", data_dir.display());
        }
        let mut touched =
            format!("the databases, events, certificates and logs in {} are deleted", data_dir.display());
        for (component, folder) in layout.data_folders() {
            if !folder.starts_with(data_dir) && folder.exists() {
                // Writing to a String can't fail.
                let _ = write!(touched, "\n  {component} is in {}", folder.display());
            }
        }
        self.consent.to(&touched, "stop the stack and delete them?")
    }
}

/// Deletes only in a stack's folder, and only what a stack writes: a mistake must not delete anything else.
fn delete(data_dir: &Path) -> Result<Outcome> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    if !data_dir.exists() {
        say!("there is no {}", data_dir.display());
        return Ok(Outcome::Done);
    }
    let left = control::delete(&layout)?;
    if left.is_empty() {
        say!("deleted {}", data_dir.display());
    } else {
        say!(
            "deleted what the stack wrote in {}; the rest is somebody else's and stays:",
            data_dir.display()
        );
        for path in &left {
            say!("  {}", path.display());
        }
    }
    Ok(Outcome::Done)
}
