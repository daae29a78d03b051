//! `down`.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use holdfast_native::{
    control::{self, Stopped},
    layout::Layout,
};

use crate::{
    options::At,
    output::{Outcome, confirmed},
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
    /// Don't ask
    #[arg(long, requires = "delete_data")]
    yes: bool,
}

impl Down {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let data_dir = self.at.data_dir()?;
        match control::stop(&data_dir, STOP_TIME_MAX)? {
            Stopped::Running => eprintln!("stopped"),
            Stopped::Abandoned => eprintln!("stopped components that had lost their supervisor"),
            Stopped::Nothing => eprintln!("nothing runs in {}", data_dir.display()),
        }
        if self.delete_data {
            return self.delete(&data_dir);
        }
        Ok(Outcome::Done)
    }

    /// Deletes only in a stack's folder, and only what a stack writes: a mistake must not delete anything else.
    fn delete(&self, data_dir: &Path) -> Result<Outcome> {
        let layout = Layout::new(data_dir.to_owned(), 0);
        if !data_dir.exists() {
            eprintln!("there is no {}", data_dir.display());
            return Ok(Outcome::Done);
        }
        if !layout.marker_file().exists() {
            bail!("{} is not the folder of a stack, so it is left alone", data_dir.display());
        }
        eprintln!("the databases, events, certificates and logs in {} are deleted", data_dir.display());
        if !self.yes && !confirmed("delete them?")? {
            return Ok(Outcome::Failed);
        }
        let left = control::delete(&layout)?;
        if left.is_empty() {
            eprintln!("deleted {}", data_dir.display());
        } else {
            eprintln!(
                "deleted what the stack wrote in {}; the rest is somebody else's and stays:",
                data_dir.display()
            );
            for path in &left {
                eprintln!("  {}", path.display());
            }
        }
        Ok(Outcome::Done)
    }
}
