//! What the role of a service may do in tables that another role owns.

use sqlx::{AssertSqlSafe, PgConnection};

use super::statement;

/// What was done by operators: it is added to, and never changed.
const AUDITS: [&str; 2] = ["dead_letter_audit", "outbox_audit"];

/// "HOLDFASG" in ASCII, one below the relay's: two replicas that grant at once would fail.
const LOCK: i64 = 0x484f_4c44_4641_5347;

/// Grants `role` the rows of every table, but of the audits only new ones. The connection is the owner's, and ends soon: it keeps a lock.
pub(super) async fn rows_to(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    statement::query("-- database.grants_lock\nselect pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut *connection)
        .await?;
    let grants: Option<String> = statement::query(
        "-- database.grants
        select string_agg(format('grant select, insert%s on %s to %I',
            case when relname = any($2) then '' else ', update, delete' end, oid::regclass, $1), '; ')
        from pg_class
        where relnamespace = 'public'::regnamespace and relkind = 'r' and relname <> '_sqlx_migrations'
            and not (has_table_privilege($1, oid, 'insert') and has_table_privilege($1, oid, 'select')
                and (relname = any($2) or has_table_privilege($1, oid, 'update') and has_table_privilege($1, oid, 'delete')))",
    )
    .bind(role)
    .bind(AUDITS)
    .scalar(&mut *connection)
    .await?;
    if let Some(grants) = grants {
        // Names are quoted by the server.
        sqlx::raw_sql(AssertSqlSafe(grants)).execute(connection).await?;
    }
    Ok(())
}
