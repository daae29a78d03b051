//! What is done to a stack on purpose.
//!
//! A fault is applied, and healed where that is not somebody else's business: the supervisor starts again what has ended.

pub mod certificate;
pub mod disk;
pub mod full_disk;
pub mod links;
pub mod log;
pub mod network;
pub mod poison;
pub mod process;
pub mod syscalls;

use anyhow::Result;

use self::process::{Signal, send, send_to_tree};

/// What happens to a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Killed with -9. A database's own children notice within moments that their parent is gone.
    Kill,
    /// Stopped, children included: connections hang instead of being refused.
    Stall,
    /// Asked to end.
    Terminate,
}

impl Fault {
    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Stall => "stalled",
            Self::Terminate => "terminated",
        }
    }

    /// Does it to the component whose process is `pid`.
    pub fn apply(self, pid: u32) -> Result<()> {
        match self {
            Self::Kill => send(pid, Signal::Kill),
            Self::Stall => send_to_tree(pid, Signal::Stop),
            Self::Terminate => send(pid, Signal::Terminate),
        }
    }

    /// Undoes what does not end by itself.
    pub fn heal(self, pid: u32) -> Result<()> {
        match self {
            Self::Kill | Self::Terminate => Ok(()),
            Self::Stall => send_to_tree(pid, Signal::Continue),
        }
    }
}
