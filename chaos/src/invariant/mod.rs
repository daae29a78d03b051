//! What must hold of a stack, whatever happened to it: asked of its databases, not of its services.
//!
//! What is on its way is no violation: an order counts once it has ended.

pub(crate) mod money;
mod outbox;
mod saga;

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, Result};
use sqlx::PgConnection;

/// A connection to the database of each participant, by its name.
#[derive(Debug)]
pub struct Databases(BTreeMap<&'static str, PgConnection>);

impl FromIterator<(&'static str, PgConnection)> for Databases {
    fn from_iter<I: IntoIterator<Item = (&'static str, PgConnection)>>(connections: I) -> Self {
        Self(connections.into_iter().collect())
    }
}

impl Databases {
    /// That of one, for an invariant about its tables.
    fn of(&mut self, participant: &str) -> Result<&mut PgConnection> {
        self.0.get_mut(participant).with_context(|| format!("no connection to the database of {participant}"))
    }

    /// Those of all, for an invariant about the tables that each has.
    fn all(&mut self) -> impl Iterator<Item = (&'static str, &mut PgConnection)> {
        self.0.iter_mut().map(|(participant, connection)| (*participant, connection))
    }
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub invariant: &'static str,
    /// The order, the user or the service that it is about.
    pub subject: String,
    /// What is wrong.
    pub what: String,
}

impl Violation {
    fn new(invariant: &'static str, subject: &dyn ToString, what: impl Into<String>) -> Self {
        Self { invariant, subject: subject.to_string(), what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.invariant, self.subject, self.what)
    }
}

/// Everything that is wrong now. Call it again while events are on their way: an outbox that is not empty is one.
pub async fn violations(databases: &mut Databases) -> Result<Vec<Violation>> {
    let mut all = money::violations(databases.of("payment")?).await?;
    all.extend(saga::violations(databases).await?);
    all.extend(outbox::violations(databases).await?);
    Ok(all)
}
