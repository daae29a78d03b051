//! `certs`: creates, issues, renews, replaces and revokes certificates, and waits until the running services use them.

mod audit;
pub(super) mod folder;
mod init;
mod issue;
mod keep;
mod revoke;
mod rotate;
mod running;
mod status;

use anyhow::Result;
use clap::Subcommand;

use self::{
    audit::Audit, init::Init, issue::Issue, keep::Keep, revoke::Revoke, rotate::Rotate, status::Status,
};
use crate::{output::Outcome, runtime::block_on};

#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// Create an authority and a certificate for each service and the operator, where they are missing
    Init(Init),
    /// Do what `init` does again and again, so that no certificate expires
    Keep(Keep),
    /// Issue a certificate for an identity
    Issue(Issue),
    /// Renew certificates, or replace the authority, and wait until every running service uses them
    Rotate(Rotate),
    /// Renew the certificate of an identity and have the old one refused everywhere
    Revoke(Revoke),
    /// Show each certificate and who uses it; fails if one is not valid
    Status(Status),
    /// Show what was done to certificates, by whom and why, newest first
    Audit(Audit),
}

impl Certs {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let (folder, done) = match self {
            Self::Init(init) => (&init.folder, init.run()),
            Self::Keep(keep) => (&keep.folder, block_on(keep.run())),
            Self::Issue(issue) => (&issue.folder, issue.run()),
            Self::Rotate(rotate) => (&rotate.folder, block_on(rotate.run())),
            Self::Revoke(revoke) => (&revoke.folder, block_on(revoke.run())),
            Self::Status(status) => (&status.folder, block_on(status.run())),
            Self::Audit(audit) => (&audit.folder, audit.run()),
        };
        done.map_err(|error| folder.with_remedy(error))
    }
}
