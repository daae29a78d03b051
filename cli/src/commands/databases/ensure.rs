//! `databases ensure`.

use std::{fs, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context as _, Error, Result, anyhow};
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_native::{
    layout::{PARTICIPANTS, Participant},
    roles::{self, Login, Passwords, ensure_on},
};

use crate::{
    output::{Outcome, say},
    target::parse_address,
};

#[derive(Debug, Args)]
pub(crate) struct Ensure {
    /// Folder of the certificate that the servers take for their superuser's: `tls.crt`, `tls.key`, and `ca.crt`, the servers' authority
    #[arg(long, env = "HOLDFAST_IDENTITY_DIR", value_name = "DIR", required_unless_present = "without_tls")]
    identity_dir: Option<PathBuf>,
    /// The servers have no TLS: their superuser shows the password SECRETS/SERVICE-db/password instead of a certificate
    #[arg(long, conflicts_with = "identity_dir")]
    without_tls: bool,
    /// Name of the superuser
    #[arg(long, default_value = "holdfast", value_name = "NAME")]
    superuser: String,
    /// Folder of the passwords: SECRETS/SERVICE/password of the service, SECRETS/SERVICE-owner/password of who owns its tables
    #[arg(long, value_name = "SECRETS")]
    secrets_dir: PathBuf,
    /// How long to wait for the servers: 30s, 2m
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
    /// Which services, and where the server of each is
    #[arg(required = true, value_name = "SERVICE=HOST:PORT")]
    servers: Vec<Server>,
}

/// A service's server.
#[derive(Debug, Clone)]
struct Server {
    participant: &'static Participant,
    host: String,
    port: u16,
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (service, address) = text.split_once('=').context("must be SERVICE=HOST:PORT")?;
        let participant = PARTICIPANTS.iter().find(|participant| participant.name == service);
        let participant =
            participant.ok_or_else(|| anyhow!("there is no service {service:?} with a database"))?;
        let address = parse_address(address)?;
        let (host, port) = address.rsplit_once(':').context("must be SERVICE=HOST:PORT")?;
        Ok(Self { participant, host: host.to_owned(), port: port.parse()? })
    }
}

impl Ensure {
    pub(super) async fn run(&self) -> Result<Outcome> {
        for server in &self.servers {
            let name = server.participant.name;
            let (service, owner) = (self.password(name)?, self.password(&format!("{name}-owner"))?);
            let superuser;
            let login = if let Some(folder) = &self.identity_dir {
                Login::Certificate(folder)
            } else {
                superuser = self.password(&format!("{name}-db"))?;
                Login::Password(&superuser)
            };
            let there =
                roles::Server { host: &server.host, port: server.port, superuser: &self.superuser, login };
            let passwords = Passwords { service: &service, owner: &owner };
            ensure_on(&there, server.participant, passwords, self.wait).await?;
        }
        say!("roles and databases are there");
        Ok(Outcome::Done)
    }

    /// What is in the file of `name`.
    fn password(&self, name: &str) -> Result<String> {
        let file = self.secrets_dir.join(name).join("password");
        let password =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(password.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What names no service, or no server, is refused before anything is asked.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", "order", "order=", "order=db", "gateway=db:5432", "=db:5432", "order=db:0"] {
            assert!(wrong.parse::<Server>().is_err(), "{wrong:?}");
        }
        let server: Server = "order=order-db:5432".parse().expect("right");
        assert_eq!(
            (server.host.as_str(), server.port, server.participant.database),
            ("order-db", 5432, "orders")
        );
    }
}
