//! Statements with names. All SQL of the services runs through [`query`], so that each statement of a sampled trace has a span, and
//! nobody writes one by hand.
//!
//! The first line of a statement is a comment with its name, which PostgreSQL's own log shows too:
//!
//! ```sql
//! -- order.insert_order
//! insert into orders …
//! ```
//!
//! A span says the name, never the text, the values, or the message of an error, which may repeat a value.

use std::sync::OnceLock;

use sqlx::{
    Decode, Encode, PgExecutor, Postgres, Row as _, Transaction, Type,
    error::DatabaseError,
    postgres::{PgArguments, PgQueryResult, PgRow},
    query::Query,
};

use crate::trace::{self, Kind, Span, SpanUntilDropped};

/// The database of this process, for its spans.
static NAMESPACE: OnceLock<String> = OnceLock::new();

/// Says which database the statements of this process are for; the first one counts.
pub(super) fn set_namespace(database: &str) {
    NAMESPACE.get_or_init(|| database.to_owned());
}

/// A statement that is not run yet.
#[must_use = "it runs when it is awaited"]
pub struct Statement {
    sql: &'static str,
    query: Query<'static, Postgres, PgArguments>,
}

/// A statement whose first line is `-- part.name`. It is prepared once on each connection.
pub fn query(sql: &'static str) -> Statement {
    Statement { sql, query: sqlx::query(sql) }
}

impl Statement {
    /// The value of the next parameter.
    pub fn bind<'t, T: Encode<'t, Postgres> + Type<Postgres>>(self, value: T) -> Self {
        Self { query: self.query.bind(value), ..self }
    }

    /// Runs it for its effect.
    pub async fn execute<'c, E: PgExecutor<'c>>(self, executor: E) -> Result<PgQueryResult, sqlx::Error> {
        traced(self.sql, self.query.execute(executor)).await
    }

    /// Its only row; that there is none is an error.
    pub async fn fetch_one<'c, E: PgExecutor<'c>>(self, executor: E) -> Result<PgRow, sqlx::Error> {
        traced(self.sql, self.query.fetch_one(executor)).await
    }

    /// Its row, if there is one.
    pub async fn fetch_optional<'c, E: PgExecutor<'c>>(
        self,
        executor: E,
    ) -> Result<Option<PgRow>, sqlx::Error> {
        traced(self.sql, self.query.fetch_optional(executor)).await
    }

    /// All its rows, so it must limit them.
    pub async fn fetch_all<'c, E: PgExecutor<'c>>(self, executor: E) -> Result<Vec<PgRow>, sqlx::Error> {
        traced(self.sql, self.query.fetch_all(executor)).await
    }

    /// The first column of [`Statement::fetch_one`].
    pub async fn scalar<'c, T, E>(self, executor: E) -> Result<T, sqlx::Error>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
        E: PgExecutor<'c>,
    {
        self.fetch_one(executor).await?.try_get(0)
    }

    /// The first column of [`Statement::fetch_optional`].
    pub async fn optional_scalar<'c, T, E>(self, executor: E) -> Result<Option<T>, sqlx::Error>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
        E: PgExecutor<'c>,
    {
        self.fetch_optional(executor).await?.map(|row| row.try_get(0)).transpose()
    }

    /// The first column of [`Statement::fetch_all`].
    pub async fn scalars<'c, T, E>(self, executor: E) -> Result<Vec<T>, sqlx::Error>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
        E: PgExecutor<'c>,
    {
        self.fetch_all(executor).await?.iter().map(|row| row.try_get(0)).collect()
    }
}

/// Commits. It has a span too, because a transaction waits for the disk here.
pub(super) async fn commit(transaction: Transaction<'_, Postgres>) -> Result<(), sqlx::Error> {
    let mut span = Span::below(trace::current(), Kind::Client, "COMMIT");
    span.set("db.operation.name", || "COMMIT");
    finished(span, transaction.commit()).await
}

async fn traced<T>(
    sql: &'static str,
    run: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut span = Span::below(trace::current(), Kind::Client, "");
    if span.is_recorded() {
        let name = name_of(sql);
        span.rename(name);
        span.set("db.query.summary", || name);
    }
    finished(span, run).await
}

/// Runs what `span` stands for, and ends it.
async fn finished<T>(
    mut span: Span,
    run: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    if !span.is_recorded() {
        return run.await;
    }
    span.set("db.system.name", || "postgresql");
    if let Some(database) = NAMESPACE.get() {
        span.set("db.namespace", || database.as_str());
    }
    let span = SpanUntilDropped::new(span);
    let answer = run.await;
    span.finish(|span| {
        if let Err(error) = &answer {
            fail(span, error);
        }
    });
    answer
}

fn name_of(sql: &'static str) -> &'static str {
    sql.strip_prefix("-- ").and_then(|rest| rest.lines().next()).unwrap_or("without a name")
}

/// By the server's code alone: its message may repeat what a user has written.
fn fail(span: &mut Span, error: &sqlx::Error) {
    match error.as_database_error().and_then(DatabaseError::code) {
        Some(code) => {
            let code = code.into_owned();
            span.set("db.response.status_code", || code.clone());
            span.fail(code);
        }
        None => span.fail(match error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => "connection",
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => "no_connection",
            sqlx::Error::RowNotFound => "no_row",
            _ => "_OTHER",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first line is the name, whatever follows.
    #[test]
    fn the_first_line_is_the_name() {
        for sql in [
            "-- order.key_use\nselect 1",
            "-- order.key_use\n        select $1 -- of a user",
            "-- order.key_use",
        ] {
            assert_eq!(name_of(sql), "order.key_use");
        }
        assert_eq!(name_of("select 'a value'"), "without a name");
    }
}
