//! Whether the schema is one that this program can work with.

use std::collections::HashMap;

use sqlx::{
    PgConnection, Row as _,
    migrate::{MigrateError, Migrator},
};

use super::{DatabaseError, query};

/// First version of a service's own migrations.
const OWN_VERSION_MIN: i64 = 1001;

/// The schema is not as this program needs it, and it is not this process that changes it.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database does not answer, or does not let this role look.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// What was migrated does not fit.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// A migration has not run yet.
    #[error(
        "waiting for migration {0}: `--migrate` of this program runs it, with the login of the tables' owner"
    )]
    Behind(i64),
    /// It has run, and what was granted after it was not.
    #[error(
        "waiting for rights on {0}: `--migrate` of this program grants them, with the login of the tables' owner"
    )]
    Rights(String),
}

async fn has_migrations(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    query("-- database.has_migrations\nselect to_regclass('_sqlx_migrations') is not null")
        .scalar(connection)
        .await
}

/// A newer program may have migrated this database: what it added does no harm, because schemas are changed by
/// expanding them first (`docs/runbook.md`). An unknown version that is older than the newest one that this program
/// knows of the same part (library or service) is an error; one that was changed is found by the migrator's
/// checksums.
pub(super) async fn refuse_missing(
    connection: &mut PgConnection,
    known: &Migrator,
) -> Result<(), MigrateError> {
    if !has_migrations(connection).await? {
        return Ok(());
    }
    let applied: Vec<i64> =
        query("-- database.migrations\nselect version from _sqlx_migrations order by version")
            .scalars(connection)
            .await?;
    for version in applied {
        let part = version >= OWN_VERSION_MIN;
        let newest =
            known.iter().map(|one| one.version).filter(|one| (*one >= OWN_VERSION_MIN) == part).max();
        if known.version_exists(version) {
            continue;
        }
        if newest.is_none_or(|newest| version < newest) {
            return Err(MigrateError::VersionMissing(version));
        }
        tracing::warn!(version, "the schema is newer than this program, which continues with it");
    }
    Ok(())
}

/// Whether all of `known` has run, as it is here, and the role of this connection has the rows of every table.
pub(super) async fn check(connection: &mut PgConnection, known: &Migrator) -> Result<(), SchemaError> {
    let applied = applied(connection, known).await?;
    for wanted in known.iter() {
        match applied.get(&wanted.version) {
            None => return Err(SchemaError::Behind(wanted.version)),
            Some(checksum) if *checksum != *wanted.checksum => {
                return Err(MigrateError::VersionMismatch(wanted.version).into());
            }
            Some(_) => {}
        }
    }
    let closed: Result<Option<String>, sqlx::Error> = query(
        "-- database.closed_tables
        select min(relname::text) from pg_class
        where relnamespace = 'public'::regnamespace and relkind = 'r' and relname <> '_sqlx_migrations'
            and not (has_table_privilege(oid, 'select') and has_table_privilege(oid, 'insert'))",
    )
    .scalar(connection)
    .await;
    closed.map_err(DatabaseError::from)?.map_or(Ok(()), |table| Err(SchemaError::Rights(table)))
}

/// Checksums of what has run, by version.
async fn applied(
    connection: &mut PgConnection,
    known: &Migrator,
) -> Result<HashMap<i64, Vec<u8>>, MigrateError> {
    if !has_migrations(connection).await? {
        return Ok(HashMap::new());
    }
    refuse_missing(connection, known).await?;
    let rows =
        query("-- database.applied_migrations\nselect version, checksum from _sqlx_migrations where success")
            .fetch_all(connection)
            .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
