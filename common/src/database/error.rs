//! What a failed statement or transaction means for what comes next.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::AlertDescription;
use sqlx::postgres::PgDatabaseError;

use crate::error::chain;

/// A failed statement or transaction; the variant says what comes next.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database is away, full, read-only or too busy: try again later. Nothing was done.
    #[error("database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// The database and this service do not trust each other: a certificate has expired, is revoked, or is of another
    /// authority or for another host, or the server has no TLS. Once it is put right, new connections work. Nothing was
    /// done.
    #[error("database and service do not trust each other")]
    Untrusted(#[source] sqlx::Error),
    /// Lost against another transaction: run the whole transaction again. Nothing was done.
    #[error("transaction lost against another one")]
    Conflict(#[source] sqlx::Error),
    /// The connection broke while committing: done or not, look it up by key (pitfalls P11).
    #[error("outcome of the commit is unknown")]
    CommitUnknown(#[source] sqlx::Error),
    /// The data can't be stored as it is (a constraint, a range): trying again won't help.
    #[error("data was refused by the database")]
    Data(#[source] sqlx::Error),
    /// The database isn't as this program needs it: a table or a permission is missing, a migration ran half. No data
    /// can be blamed for it, and trying again helps once somebody has put it right. Nothing was done.
    #[error("database does not fit this program")]
    Schema(#[source] sqlx::Error),
    /// A statement failed for a reason that nobody foresaw: a defect of ours.
    #[error("statement failed")]
    Defect(#[source] sqlx::Error),
    /// Stored data that our own code can't read: a defect of ours.
    #[error("stored data is not valid: {0}")]
    Corrupt(Cow<'static, str>),
}

impl From<sqlx::Error> for DatabaseError {
    /// Classifies by SQLSTATE (PostgreSQL documentation, appendix A).
    fn from(error: sqlx::Error) -> Self {
        if is_untrusted(&error) {
            return Self::untrusted(error);
        }
        let code = match &error {
            sqlx::Error::Database(database) => database.code(),
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed => return Self::Unavailable(error),
            _ => return Self::Defect(error),
        };
        if is_stale_plan(&error) {
            metrics::counter!(crate::metric::DATABASE_STALE_PLANS_TOTAL).increment(1);
            *STALE_SINCE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            return Self::Conflict(error);
        }
        match code.as_deref() {
            Some("40001" | "40P01") => Self::Conflict(error),
            // Connection exceptions, resources (disk full, too many connections), operator intervention (shutdown,
            // statement timeout), lock timeout, read-only transaction, system errors.
            Some("55P03" | "25006" | "25P03") => Self::Unavailable(error),
            Some(code) if ["08", "53", "57", "58"].contains(&&code[..2]) => Self::Unavailable(error),
            // Unsupported as it is, login, database and schema names, syntax and access.
            Some(code) if ["0A", "28", "3D", "3F", "42"].contains(&&code[..2]) => Self::Schema(error),
            Some(code) if ["22", "23"].contains(&&code[..2]) => Self::Data(error),
            _ => Self::Defect(error),
        }
    }
}

impl DatabaseError {
    /// Of a new connection: whatever a server answers to one is about the server, not about the statement.
    pub(super) fn of_connecting(error: sqlx::Error) -> Self {
        if is_untrusted(&error) { Self::untrusted(error) } else { Self::Unavailable(error) }
    }

    /// Of a statement that commits by itself: unless the server has said what is wrong, it may have been committed.
    pub(super) fn of_single_statement(error: Self) -> Self {
        match error {
            Self::Unavailable(cause) | Self::Untrusted(cause) | Self::Defect(cause) => commit_error(cause),
            other => other,
        }
    }

    /// Which variant it is, in one word.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Untrusted(_) => "untrusted",
            Self::Conflict(_) => "conflict",
            Self::CommitUnknown(_) => "commit_unknown",
            Self::Data(_) => "data",
            Self::Schema(_) => "schema",
            Self::Defect(_) => "defect",
            Self::Corrupt(_) => "corrupt",
        }
    }

    fn untrusted(error: sqlx::Error) -> Self {
        metrics::counter!(crate::metric::DATABASE_UNTRUSTED_TOTAL).increment(1);
        Self::Untrusted(error)
    }
}

/// A failure of TLS: what is wrong with the server's certificate, or what the server says of ours.
fn is_untrusted(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // The library says so in the error of the socket. What breaks or falsifies a connection has other errors.
        sqlx::Error::Io(error) => match error.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(_)) => true,
            Some(rustls::Error::AlertReceived(alert)) => matches!(
                alert,
                AlertDescription::BadCertificate
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::CertificateRequired
                    | AlertDescription::UnknownCA
                    | AlertDescription::AccessDenied
            ),
            _ => false,
        },
        _ => false,
    }
}

/// When a connection was last seen with a plan that can never run again.
static STALE_SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// A statement whose prepared form can no longer run on this connection: a column that it returns has changed its type,
/// or the server has forgotten it. The same statement succeeds on a new connection. The routine says which `0A000` it
/// is; the text depends on the server's language.
fn is_stale_plan(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    let Some(error) = database.try_downcast_ref::<PgDatabaseError>() else { return false };
    match error.code() {
        "0A000" => error.routine() == Some("RevalidateCachedQuery"),
        "26000" => true,
        _ => false,
    }
}

/// Whether a connection of this age existed when a plan was last found stale: then it may have such plans too, and is
/// closed rather than reused.
pub(super) fn may_have_stale_plans(age: Duration) -> bool {
    let since = *STALE_SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    since.is_some_and(|since| since.elapsed() <= age)
}

/// An error of a transaction, which says whether it should be run again.
pub trait Conflicting {
    /// What the database has said, if it is that.
    fn database_error(&self) -> Option<&DatabaseError>;

    /// Lost against another transaction: it should be run again.
    fn is_conflict(&self) -> bool {
        matches!(self.database_error(), Some(DatabaseError::Conflict(_)))
    }

    /// Done or not: nobody knows.
    fn is_unknown(&self) -> bool {
        matches!(self.database_error(), Some(DatabaseError::CommitUnknown(_)))
    }
}

impl Conflicting for DatabaseError {
    fn database_error(&self) -> Option<&DatabaseError> {
        Some(self)
    }
}

/// The error of a COMMIT, or of a statement that commits by itself: a refusal by the server means that nothing was done; after a broken
/// connection nobody knows.
pub(super) fn commit_error(error: sqlx::Error) -> DatabaseError {
    if matches!(error, sqlx::Error::Database(_)) {
        DatabaseError::from(error)
    } else {
        DatabaseError::CommitUnknown(error)
    }
}

impl From<DatabaseError> for tonic::Status {
    /// Unknown outcomes are `UNAVAILABLE`: every write carries a key, so the caller may send it again to find out.
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unavailable(_)
            | DatabaseError::Untrusted(_)
            | DatabaseError::Conflict(_)
            | DatabaseError::CommitUnknown(_) => {
                tracing::warn!(error = chain(&error), "database call failed");
                Self::unavailable("database is not available")
            }
            DatabaseError::Schema(_)
            | DatabaseError::Data(_)
            | DatabaseError::Defect(_)
            | DatabaseError::Corrupt(_) => {
                tracing::error!(error = chain(&error), "database call failed");
                Self::internal("internal error")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A connection that breaks during COMMIT leaves the outcome unknown: the transaction is not run again, and the caller
    /// may ask by its key (pitfalls P11). The same failure before COMMIT means that nothing was done.
    #[test]
    fn a_broken_commit_is_unknown_and_not_run_again() {
        let broken = || sqlx::Error::Io(io::ErrorKind::ConnectionReset.into());
        let error = commit_error(broken());
        assert!(matches!(error, DatabaseError::CommitUnknown(_)), "{error:?}");
        assert!(!error.is_conflict());
        assert_eq!(tonic::Status::from(error).code(), tonic::Code::Unavailable);
        assert!(matches!(DatabaseError::from(broken()), DatabaseError::Unavailable(_)));
        // A statement that commits by itself has no before.
        let error = DatabaseError::of_single_statement(broken().into());
        assert!(error.is_unknown(), "{error:?}");
        let error = DatabaseError::of_single_statement(DatabaseError::Conflict(broken()));
        assert!(error.is_conflict(), "{error:?}");
    }

    /// A certificate that one side refuses has an error of its own, which callers may try again after; a network that falsifies
    /// what is sent is something else.
    #[test]
    fn a_refused_certificate_has_its_own_error() {
        let tls = |cause: rustls::Error| {
            DatabaseError::of_connecting(sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidData, cause)))
        };
        for refusal in [
            rustls::Error::InvalidCertificate(rustls::CertificateError::Expired),
            rustls::Error::AlertReceived(AlertDescription::UnknownCA),
        ] {
            let error = tls(refusal);
            assert!(matches!(error, DatabaseError::Untrusted(_)), "{error:?}");
            assert_eq!(tonic::Status::from(error).code(), tonic::Code::Unavailable);
        }
        for fault in
            [rustls::Error::DecryptError, rustls::Error::AlertReceived(AlertDescription::BadRecordMac)]
        {
            assert!(matches!(tls(fault), DatabaseError::Unavailable(_)));
        }
        let without = sqlx::Error::Tls("server does not support TLS".into());
        assert!(matches!(DatabaseError::from(without), DatabaseError::Untrusted(_)));
    }
}
