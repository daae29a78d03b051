//! The migrations that are built into a program. sqlx has a macro for it, which would have a second copy of sqlx built for the
//! compiler.

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

/// A file of the folder `migrations`, and its SQL.
#[derive(Debug, Clone, Copy)]
pub struct MigrationFile {
    /// Such as 1002.
    pub version: i64,
    /// Such as `1002_key_age.sql`.
    pub name: &'static str,
    /// What it says.
    pub sql: &'static str,
}

/// The migrations of a crate, by the names of their files: `migrations!["1001_orders.sql", "1002_key_age.sql"]`. A file that is not there, and
/// a name without a version, are errors of the compiler; a file that is not named is found by a test (`e2e/tests/documents.rs`).
#[macro_export]
macro_rules! migrations {
    ($($name:literal),+ $(,)?) => {
        ::std::sync::LazyLock::new(|| {
            $crate::database::migrations::migrator(&[$(
                $crate::database::migrations::MigrationFile {
                    version: const { $crate::database::migrations::version($name) },
                    name: $name,
                    sql: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $name)),
                }
            ),+])
        })
    };
}

/// The digits that a name begins with, before its `_`.
///
/// # Panics
///
/// If there are none, when the program is compiled.
#[must_use]
pub const fn version(name: &str) -> i64 {
    let bytes = name.as_bytes();
    let (mut version, mut index) = (0, 0);
    while bytes[index].is_ascii_digit() {
        let digit = (bytes[index] - b'0') as i64;
        version = version * 10 + digit;
        index += 1;
    }
    assert!(index > 0 && bytes[index] == b'_', "a migration is called <version>_<what it does>.sql");
    version
}

/// How a migration begins whose one statement commits by itself, part by part. It can be run again: nothing is undone when it fails.
const WITHOUT_TRANSACTION: &str = "-- no-transaction";

/// What `sqlx::migrate!` would make of them: databases know the description and the checksum of what they have.
#[must_use]
pub fn migrator(files: &[MigrationFile]) -> Migrator {
    let migrations = files.iter().map(|file| {
        let description = file.name.split_once('_').map_or(file.name, |(_, rest)| rest);
        let description = description.trim_end_matches(".sql").replace('_', " ");
        Migration::new(
            file.version,
            description.into(),
            MigrationType::Simple,
            file.sql.into_sql_str(),
            file.sql.starts_with(WITHOUT_TRANSACTION),
        )
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sqlx::migrate::MigrationSource as _;

    use super::*;

    /// Databases that were made by `sqlx::migrate!` go on: version, description, text and checksum are those that sqlx itself finds
    /// in the folder.
    #[tokio::test]
    async fn migrations_are_those_that_sqlx_finds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let found = folder.as_path().resolve().await.expect("read");
        let built_in: Vec<_> = super::super::COMMON_MIGRATIONS.iter().cloned().collect();
        assert_eq!(built_in.len(), found.len());
        for (ours, theirs) in built_in.iter().zip(&found) {
            assert_eq!(ours.version, theirs.version);
            assert_eq!(ours.description, theirs.description);
            assert_eq!(ours.sql.as_str(), theirs.sql.as_str());
            assert_eq!(ours.checksum, theirs.checksum);
            assert_eq!(ours.migration_type, theirs.migration_type);
            assert_eq!(ours.no_tx, theirs.no_tx);
        }
    }

    /// What commits by itself can't run in a transaction, and only that says so.
    #[test]
    fn a_migration_may_do_without_a_transaction() {
        let files = ["-- no-transaction\ndo $$ begin commit; end $$;", "create table orders ()"];
        let files = files.map(|sql| MigrationFile { version: 1, name: "1_orders.sql", sql });
        assert_eq!(migrator(&files).iter().map(|one| one.no_tx).collect::<Vec<_>>(), [true, false]);
    }

    /// A version is what stands before the first `_`.
    #[test]
    fn versions_are_read_from_names() {
        assert_eq!(version("0010_outbox_held.sql"), 10);
        assert_eq!(version("1002_key_age.sql"), 1002);
    }
}
