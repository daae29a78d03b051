//! What the role of a service may do in tables that another role owns.

use sqlx::{AssertSqlSafe, PgConnection};

use super::statement;

/// What was done by operators: it is added to, and never changed.
const AUDITS: [&str; 2] = ["dead_letter_audit", "outbox_audit"];

/// "HOLDFASG" in ASCII, one below the relay's: two replicas that grant at once would fail.
const LOCK: i64 = 0x484f_4c44_4641_5347;

/// Each table, and what the service needs of it: its rows, but of the audits only new ones, and of the migrations a look.
macro_rules! tables {
    () => {
        "(select oid, relowner, case
            when relname = '_sqlx_migrations' then 'select'
            when relname = any($2) then 'select, insert'
            else 'select, insert, update, delete' end as needed
        from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r') as tables"
    };
}

/// Makes the role of this connection the owner of what `service` owns, from when it was the only role: for which this role must be a member of
/// that one, or a superuser. Each table changes hands together with what the service needs of it, so that one that is running goes on.
pub(super) async fn take_over(connection: &mut PgConnection, service: &str) -> Result<(), sqlx::Error> {
    let taken: Vec<String> = statement::query(concat!(
        "-- database.take_over
        select format('alter table %1$s owner to current_user; grant %2$s on %1$s to %3$I', oid::regclass, needed, $1)
        from ",
        tables!(),
        " where pg_get_userbyid(relowner) = $1 and $1 <> current_user"
    ))
    .bind(service)
    .bind(AUDITS)
    .scalars(&mut *connection)
    .await?;
    for statements in taken {
        // One transaction. Names are quoted by the server.
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Grants `service` what it needs of every table. The connection is the owner's.
pub(super) async fn rows_to(connection: &mut PgConnection, service: &str) -> Result<(), sqlx::Error> {
    let grants: Option<String> = statement::query(concat!(
        "-- database.grants
        select string_agg(format('grant %s on %s to %I', needed, oid::regclass, $1), '; ')
        from ",
        tables!(),
        " where exists (select from unnest(string_to_array(needed, ', ')) as privilege
            where not has_table_privilege($1, oid, privilege))"
    ))
    .bind(service)
    .bind(AUDITS)
    .scalar(&mut *connection)
    .await?;
    if let Some(grants) = grants {
        // Names are quoted by the server.
        sqlx::raw_sql(AssertSqlSafe(grants)).execute(connection).await?;
    }
    Ok(())
}

/// Replicas that migrate at once take turns with what follows. The lock ends with the connection.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    statement::query("-- database.grants_lock\nselect pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(connection)
        .await
        .map(drop)
}
