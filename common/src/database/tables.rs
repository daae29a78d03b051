//! Migrating and nothing else: for who has the login of the tables' owner.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use tokio::time::Instant;

use super::Database;
use crate::{
    backoff::Backoff,
    config::{DatabaseConfig, IdentityConfig},
    error::{BoxError, chain},
    identity::Identity,
};

/// How long a database is waited for.
const MIGRATE_TIME_MAX: Duration = Duration::from_secs(120);

/// What it takes to migrate the tables of a service.
#[derive(Debug)]
pub struct Tables<'a> {
    /// Where they are, and who owns them.
    pub database: &'a DatabaseConfig,
    /// Who is shown to a database that asks.
    pub identity: &'a IdentityConfig,
    /// The service's own.
    pub migrations: &'static Migrator,
}

impl Tables<'_> {
    /// Migrates, as soon as the database answers.
    pub(crate) async fn migrate(&self) -> Result<(), BoxError> {
        let database = Database::new(self.database)?;
        database.identify(&self.database.tls, &Identity::load(self.identity.clone())?);
        let (until, mut backoff) = (Instant::now() + MIGRATE_TIME_MAX, Backoff::for_infrastructure());
        loop {
            let pause = match database.migrate(self.migrations).await {
                // It may be away, or the owner not be there yet. What does not fit won't by itself.
                Err(error @ MigrateError::Execute(_)) => {
                    let pause = backoff.next_pause();
                    if Instant::now() + pause >= until {
                        return Err(error.into());
                    }
                    tracing::warn!(error = chain(&error), "not migrated yet");
                    pause
                }
                outcome => return Ok(outcome?),
            };
            tokio::time::sleep(pause).await;
        }
    }
}
