//! `token`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Args;
use holdfast_certs::{Claims, TokenIssuer};
use holdfast_common::duration::parse_duration;
use holdfast_native::layout::Layout;
use holdfast_proto::scope;

use crate::{
    options::{At, hint, no_stack, quoted},
    output::{Outcome, data},
};

/// What a user needs to order and to look at the result.
pub(super) const SCOPES: &str = "orders:read orders:write accounts:read";

#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(flatten)]
    at: At,
    /// Folder of the keys, if it is not the stack's own
    #[arg(long, env = "HOLDFAST_PKI_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The user that the token is for
    #[arg(long, value_name = "USER", value_parser = parse_user)]
    user: String,
    /// Scopes, separated by spaces
    #[arg(long, default_value = SCOPES, value_parser = parse_scopes)]
    scope: String,
    /// How long it is valid: 30s, 15m, 1h
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_duration)]
    ttl: Duration,
}

fn parse_user(text: &str) -> Result<String> {
    anyhow::ensure!(!text.trim().is_empty(), "must name a user");
    Ok(text.to_owned())
}

/// Scopes that mean something to the gateway: any other one would be a token that is refused, and nothing would say why.
fn parse_scopes(text: &str) -> Result<String> {
    let scopes: Vec<&str> = text.split_whitespace().collect();
    let unknown = scopes.iter().find(|wanted| !scope::ALL.contains(wanted));
    anyhow::ensure!(
        !scopes.is_empty() && unknown.is_none(),
        "must be some of these, separated by spaces: {}",
        scope::ALL.join(" ")
    );
    Ok(scopes.join(" "))
}

impl Token {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let token = match &self.dir {
            Some(dir) => {
                let hint = || format!("holdfast certs init --dir {}", quoted(&dir.to_string_lossy()));
                sign_with(dir, &self.user, &self.scope, self.ttl, hint)?
            }
            None => sign(&self.at.data_dir()?, &self.user, &self.scope, self.ttl)?,
        };
        data!("{token}")?;
        Ok(Outcome::Done)
    }
}

pub(super) fn sign(data_dir: &Path, user: &str, scope: &str, life: Duration) -> Result<String> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    if !layout.pki_dir().exists() {
        return Err(no_stack(data_dir).into());
    }
    sign_with(&layout.pki_dir(), user, scope, life, || hint(data_dir, "certs init"))
}

/// With the key of a folder, which must be there: a new one would sign tokens that nobody takes. `hint` is the command that creates one.
fn sign_with(
    folder: &Path,
    user: &str,
    scope: &str,
    life: Duration,
    hint: impl FnOnce() -> String,
) -> Result<String> {
    if !folder.join("token.key").exists() {
        bail!("there is no key for tokens in {}: see `{}`", folder.display(), hint());
    }
    let issuer = TokenIssuer::load_or_create(folder)?;
    Ok(issuer.sign(&Claims::new(user, scope, life)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token without a user is refused.
    #[test]
    fn an_empty_value_selects_nothing() {
        assert!(parse_user("").is_err() && parse_user(" ").is_err());
        assert!(parse_user("alice").is_ok());
        for wrong in ["", " ", "orders:read,orders:write", "orders:all", "orders:read orders"] {
            assert!(parse_scopes(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse_scopes(" orders:read  orders:write ").expect("known"), "orders:read orders:write");
    }
}
