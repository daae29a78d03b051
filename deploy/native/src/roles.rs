//! What a service has in the server of its database: a role that is no superuser, a database, and a role that owns it.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::Instant;

use crate::layout::Participant;

const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A server that is not the native stack's, and how its superuser gets in.
#[derive(Debug, Clone)]
pub struct Server<'a> {
    /// As in its certificate.
    pub host: &'a str,
    /// Where it answers.
    pub port: u16,
    /// The name of its superuser.
    pub superuser: &'a str,
    /// What it shows.
    pub login: Login<'a>,
}

/// How a superuser gets in.
#[derive(Debug, Clone, Copy)]
pub enum Login<'a> {
    /// By TLS, with the certificate and key in this folder (`tls.crt`, `tls.key`); `ca.crt` is the server's authority.
    Certificate(&'a Path),
    /// Without TLS.
    Password(&'a str),
}

/// Passwords of the roles, letters and digits only.
#[derive(Debug, Clone, Copy)]
pub struct Passwords<'a> {
    /// Of the service's role.
    pub service: &'a str,
    /// Of the role that owns the tables.
    pub owner: &'a str,
}

/// Creates what is missing, with these passwords, and gives the owner what a superuser, or the service, owns. Waits for the server if
/// that does not answer yet.
pub async fn ensure_on(
    server: &Server<'_>,
    participant: &Participant,
    passwords: Passwords<'_>,
    wait: Duration,
) -> Result<()> {
    let administrator =
        PgConnectOptions::new_without_pgpass().host(server.host).port(server.port).username(server.superuser);
    let administrator = match server.login {
        Login::Certificate(folder) => administrator
            .ssl_mode(PgSslMode::VerifyFull)
            .ssl_root_cert(folder.join("ca.crt"))
            .ssl_client_cert(folder.join("tls.crt"))
            .ssl_client_key(folder.join("tls.key")),
        Login::Password(password) => administrator.ssl_mode(PgSslMode::Disable).password(password),
    };
    let until = Instant::now() + wait;
    loop {
        match tokio::time::timeout_at(until, ensure(&administrator, participant, passwords)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if Instant::now() + TRY_AGAIN_AFTER >= until => {
                return Err(error)
                    .with_context(|| format!("the server of {} is not set up", participant.name));
            }
            Ok(Err(_)) => tokio::time::sleep(TRY_AGAIN_AFTER).await,
            Err(_) => bail!("the server of {} does not answer", participant.name),
        }
    }
}

/// [`ensure_on`] for a server that answers; `administrator` is a login of its superuser. The owner of the database is changed last: it says that all is done.
pub(crate) async fn ensure(
    administrator: &PgConnectOptions,
    participant: &Participant,
    passwords: Passwords<'_>,
) -> Result<()> {
    let (database, owned_by) = (participant.database, participant.owner_role());
    let roles = [(participant.role(), passwords.service), (owned_by.as_str(), passwords.owner)];
    for (role, password) in roles {
        if password.is_empty() || !password.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            bail!("what is to be the password of {role} is none: letters and digits only");
        }
    }
    let mut maintenance = PgConnection::connect_with(&administrator.clone().database("postgres")).await?;
    // A statement with a password must not be in the log if it fails.
    run_sql(&mut maintenance, "set log_min_error_statement = panic".to_owned()).await?;
    for (role, password) in roles {
        let has_role =
            sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)").bind(role);
        let change = if has_role.fetch_one(&mut maintenance).await? { "alter" } else { "create" };
        run_sql(&mut maintenance, format!("{change} role \"{role}\" login password '{password}'")).await?;
        // For the age of the oldest transaction, whoever has it.
        run_sql(&mut maintenance, format!("grant pg_read_all_stats to \"{role}\"")).await?;
    }
    let has_database =
        sqlx::query_scalar::<_, bool>("select exists (select from pg_database where datname = $1)")
            .bind(database);
    if has_database.fetch_one(&mut maintenance).await? {
        let mut connection = PgConnection::connect_with(&administrator.clone().database(database)).await?;
        run_sql(&mut connection, give_tables(&owned_by)).await?;
        if owner(&mut connection).await? != owned_by {
            run_sql(&mut maintenance, format!("alter database \"{database}\" owner to \"{owned_by}\""))
                .await?;
        }
        connection.close().await?;
    } else {
        run_sql(&mut maintenance, format!("create database \"{database}\" owner \"{owned_by}\"")).await?;
    }
    Ok(maintenance.close().await?)
}

/// The role that owns the database.
pub(crate) async fn owner(connection: &mut PgConnection) -> Result<String> {
    let owner = sqlx::query_scalar(
        "select pg_get_userbyid(datdba)::text from pg_database where datname = current_database()",
    );
    Ok(owner.fetch_one(connection).await?)
}

/// Those that are its own already are not locked. Sequences of columns follow their tables.
fn give_tables(role: &str) -> String {
    format!(
        "do $$ declare relation regclass; begin
            for relation in select oid from pg_class
                where relnamespace = 'public'::regnamespace and relkind = 'r' and pg_get_userbyid(relowner) <> '{role}'
            loop execute format('alter table %s owner to %I', relation, '{role}'); end loop;
        end $$"
    )
}

/// Names and passwords in `statement` are our own, not input.
async fn run_sql(connection: &mut PgConnection, statement: String) -> Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}
