//! What must hold of a stack, whatever happened to it: asked of its databases, not of its services.
//!
//! What is on its way is no violation: an order counts once it has ended.

pub(crate) mod money;
mod outbox;
mod saga;

use std::fmt;

use anyhow::Result;
use sqlx::PgConnection;

/// The databases of the three participants.
#[derive(Debug)]
pub struct Databases {
    /// Orders.
    pub order: PgConnection,
    /// Accounts and payments.
    pub payment: PgConnection,
    /// Deliveries.
    pub delivery: PgConnection,
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
    let mut all = money::violations(&mut databases.payment).await?;
    all.extend(saga::violations(databases).await?);
    all.extend(outbox::violations(databases).await?);
    Ok(all)
}
