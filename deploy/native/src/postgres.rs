//! PostgreSQL: initialised once per participant, started as a child process, never as root (it refuses).

use std::{
    ffi::{OsStr, OsString},
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Component, Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{User, geteuid};
use sqlx::{Connection as _, PgConnection};

use crate::{
    artifacts::{Artifacts, run},
    certificates,
    layout::{DATABASE_ADMINISTRATOR, Layout, OPERATOR, PARTICIPANTS, Participant, Tls, closed_to_others},
    prepare::write_password,
    removal,
};

/// The folder for databases of stacks whose own folder can't be accessed by the user that the servers run as.
const REACHABLE: &str = "/var/lib/holdfast";

/// User and group that a server runs as when the supervisor is root; Redis too.
pub(crate) fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("nobody")?
        .context("PostgreSQL refuses to run as root, and there is no user `nobody` to run it as")?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

/// Returns the folder of a server's files. A server that runs as another user must be able to access it.
pub(crate) fn cluster_dir(layout: &Layout, participant: &Participant) -> PathBuf {
    let base = layout.data_dir.join("postgres");
    if geteuid().is_root() && closed_to_others(&layout.data_dir).is_some() {
        return reachable_dir(&layout.data_dir).join(participant.server);
    }
    base.join(participant.server)
}

/// Returns where the databases of a stack are kept if its own folder is closed to others. It is the same path below
/// another root, so no two stacks share it; a folder on the way that has our name gets an extra dot, so that none is
/// inside another's either.
fn reachable_dir(data_dir: &Path) -> PathBuf {
    let names = data_dir.components().filter_map(|component| match component {
        Component::Normal(name) => Some(apart(name)),
        _ => None,
    });
    Path::new(REACHABLE).join(names.collect::<PathBuf>()).join(DATABASES)
}

const DATABASES: &str = ".databases";

fn apart(name: &OsStr) -> OsString {
    let dots = name.as_bytes().iter().take_while(|byte| **byte == b'.').count();
    let is_like_ours = dots > 0 && name.as_bytes()[dots..] == *b"databases";
    let mut apart = OsString::from(if is_like_ours { "." } else { "" });
    apart.push(name);
    apart
}

/// The file in a folder below [`REACHABLE`] that names the stack whose databases are there.
const OWNER: &str = "owner";

/// Returns the stack whose databases are in `folder`; `None` if no start has claimed it.
fn owner(folder: &Path) -> io::Result<Option<PathBuf>> {
    match fs::read(folder.join(OWNER)) {
        Ok(bytes) => {
            let name = bytes.strip_suffix(b"\n").unwrap_or(&bytes).to_vec();
            Ok(Some(PathBuf::from(OsString::from_vec(name))).filter(|path| path.is_absolute()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Claims the folder for the stack, before anything is written into it; fails if it belongs to another stack.
fn claim(folder: &Path, data_dir: &Path) -> Result<()> {
    create_passable(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    match owner(folder).with_context(|| format!("cannot read the owner of {}", folder.display()))? {
        Some(owner) if owner == data_dir => Ok(()),
        Some(owner) => {
            bail!("the databases in {} belong to the stack in {}", folder.display(), owner.display())
        }
        None => {
            let draft = folder.join("owner.draft");
            let name = [data_dir.as_os_str().as_bytes(), b"\n"].concat();
            fs::write(&draft, name)
                .and_then(|()| fs::rename(draft, folder.join(OWNER)))
                .with_context(|| format!("cannot write the owner of {}", folder.display()))
        }
    }
}

/// Creates a folder that another user can get through, whatever the umask is.
fn create_passable(folder: &Path) -> io::Result<()> {
    for folder in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?,
            // Another start may have created it meanwhile.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Runs `initdb` for those servers that have no files yet, and writes who may log in.
pub(crate) fn prepare(layout: &Layout, artifacts: &Artifacts) -> Result<()> {
    let unprivileged = unprivileged()?;
    let reachable = reachable_dir(&layout.data_dir);
    if PARTICIPANTS.iter().any(|participant| cluster_dir(layout, participant).starts_with(&reachable)) {
        claim(&reachable, &layout.data_dir)?;
    }
    // In parallel: initdb mostly waits for the disk.
    std::thread::scope(|scope| {
        let set_up = move |participant| {
            write_passwords(layout, participant)?;
            init(layout, artifacts, participant, unprivileged)?;
            write_access(layout, participant)
        };
        let started: Vec<_> =
            PARTICIPANTS.iter().map(|participant| scope.spawn(move || set_up(participant))).collect();
        started.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Of the server's superuser and of the service's role. Servers of older stacks keep the one password that they all have.
fn write_passwords(layout: &Layout, participant: &Participant) -> Result<()> {
    let (own, common) = (layout.administrator_password_file(participant), layout.common_password_file());
    if !own.exists() && common.exists() && cluster_dir(layout, participant).join("PG_VERSION").exists() {
        // Private, as the other one is.
        fs::copy(&common, &own).with_context(|| format!("cannot write {}", own.display()))?;
    }
    write_password(&own)?;
    write_password(&layout.role_password_file(participant))
}

/// Who may log in, and how: the service to its own database, the operator's tools to all. With TLS a certificate must go with it:
/// that of the service beside its password, that of the operator instead of one. Everybody else, and whoever comes without TLS then,
/// finds no line.
fn access(participant: &Participant, tls: Tls) -> String {
    let (database, role) = (participant.database, participant.role());
    match tls {
        Tls::Off => format!(
            "host {database} {role} 127.0.0.1/32 scram-sha-256\n\
             host all {DATABASE_ADMINISTRATOR} 127.0.0.1/32 scram-sha-256\n"
        ),
        Tls::On => format!(
            "hostssl {database} {role} 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n\
             hostssl all {DATABASE_ADMINISTRATOR} 127.0.0.1/32 cert map=operator\n"
        ),
    }
}

fn write_access(layout: &Layout, participant: &Participant) -> Result<()> {
    let cluster = cluster_dir(layout, participant);
    let written = "# Written at each start of the native stack.\n";
    let access = format!("{written}{}", access(participant, layout.database_tls()));
    let names = format!("{written}operator {OPERATOR} {DATABASE_ADMINISTRATOR}\n");
    // Settings are on the command line. Those that initdb has written contradict them, and each reload would complain of that.
    let settings = format!("{written}lc_messages = 'C'\n");
    write_for_server(&cluster.join("postgresql.conf"), settings.as_bytes())?;
    write_for_server(&cluster.join("pg_hba.conf"), access.as_bytes())?;
    write_for_server(&cluster.join("pg_ident.conf"), names.as_bytes())
}

/// Writes a file that only the server can read: completely or not at all.
pub(crate) fn write_for_server(path: &Path, content: &[u8]) -> Result<()> {
    write_privately(path, content, unprivileged()?)
}

/// Writes a file that only its owner can read, or the supervisor's user if there is no other: completely or not at all.
pub(crate) fn write_privately(path: &Path, content: &[u8], owner: Option<(u32, u32)>) -> Result<()> {
    let write = || {
        let mut draft = path.as_os_str().to_owned();
        draft.push(".draft");
        let draft = PathBuf::from(draft);
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        if let Some((uid, gid)) = owner {
            chown(&draft, Some(uid), Some(gid))?;
        }
        fs::rename(draft, path)?;
        Ok::<_, anyhow::Error>(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn init(
    layout: &Layout,
    artifacts: &Artifacts,
    participant: &Participant,
    unprivileged: Option<(u32, u32)>,
) -> Result<()> {
    let cluster = cluster_dir(layout, participant);
    if cluster.join("PG_VERSION").exists() && !cluster.join("initialising").exists() {
        return Ok(());
    }
    // Left behind by an interrupted start.
    let _ = fs::remove_dir_all(&cluster);
    fs::create_dir_all(&cluster).with_context(|| format!("cannot create {}", cluster.display()))?;
    fs::set_permissions(&cluster, fs::Permissions::from_mode(0o700))?;
    // initdb needs an empty folder, so the password file is beside it, readable only by the server's user.
    let password_file = cluster.with_extension("password");
    fs::copy(layout.administrator_password_file(participant), &password_file)?;
    fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600))?;
    if let Some((uid, gid)) = unprivileged {
        chown(&cluster, Some(uid), Some(gid))?;
        chown(&password_file, Some(uid), Some(gid))?;
    }
    let mut command = Command::new(artifacts.postgres_bin.join("initdb"));
    command
        .args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"])
        .arg(format!("--username={DATABASE_ADMINISTRATOR}"))
        .arg(format!("--pwfile={}", password_file.display()))
        .arg(format!("--pgdata={}", cluster.display()))
        .current_dir("/");
    if let Some((uid, gid)) = unprivileged {
        command.uid(uid).gid(gid);
    }
    let done = run(&mut command).with_context(|| format!("cannot initialise {}", participant.server));
    let _ = fs::remove_file(&password_file);
    if done.is_err() {
        let _ = fs::remove_dir_all(&cluster);
    }
    done
}

/// The command that starts a server in the foreground.
pub(crate) fn command(layout: &Layout, artifacts: &Artifacts, participant: &Participant) -> Result<Command> {
    let mut command = Command::new(artifacts.postgres_bin.join("postgres"));
    command.arg("-D").arg(cluster_dir(layout, participant)).current_dir("/");
    if layout.database_tls() == Tls::On {
        // It ends at once if its files don't fit together, and reads them all at its start.
        certificates::copy(layout, participant)?;
        for setting in
            ["ssl=on", "ssl_ca_file=root.crt", "ssl_crl_file=root.crl", "ssl_min_protocol_version=TLSv1.3"]
        {
            command.arg("-c").arg(setting);
        }
    }
    for setting in [
        format!("port={}", layout.database_port(participant)),
        "listen_addresses=127.0.0.1".to_owned(),
        // No socket file: its folder would have to be writable for the server's user.
        "unix_socket_directories=".to_owned(),
        "max_connections=50".to_owned(),
        // Small on purpose: three servers share a developer's machine.
        "shared_buffers=24MB".to_owned(),
        "max_wal_size=256MB".to_owned(),
        "wal_recycle=off".to_owned(),
        "jit=off".to_owned(),
        "max_parallel_workers=0".to_owned(),
        "autovacuum_naptime=5s".to_owned(),
        "log_min_messages=warning".to_owned(),
        "log_line_prefix=%m [%p] ".to_owned(),
        // Durable as in production: the measurements and the tests rely on it.
        "fsync=on".to_owned(),
        "synchronous_commit=on".to_owned(),
    ] {
        command.arg("-c").arg(setting);
    }
    if let Some((uid, gid)) = unprivileged()? {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

const PROBE_TIME_MAX: Duration = Duration::from_secs(2);

/// Logs in to the server; an error says what is wrong. Changes nothing.
pub(crate) async fn answers(layout: &Layout, participant: &Participant) -> Result<()> {
    in_time(async {
        let connection = PgConnection::connect(&layout.database_url(participant)?).await?;
        Ok(connection.close().await?)
    })
    .await
}

/// Like [`answers`], but creates what the service needs if it doesn't exist: its role, and its database, which the role owns; and
/// ends connections of revoked certificates.
pub(crate) async fn ensure_ready(layout: &Layout, participant: &Participant) -> Result<()> {
    if in_time(is_set_up(layout, participant)).await.unwrap_or(false) {
        return Ok(());
    }
    in_time(set_up(layout, participant)).await
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let bound = tokio::time::timeout(PROBE_TIME_MAX, work).await;
    bound.map_err(|_| anyhow::anyhow!("does not answer within {} s", PROBE_TIME_MAX.as_secs()))?
}

async fn is_set_up(layout: &Layout, participant: &Participant) -> Result<bool> {
    let mut connection = PgConnection::connect(&layout.database_url(participant)?).await?;
    let owner: String = sqlx::query_scalar(
        "select pg_get_userbyid(datdba)::text from pg_database where datname = current_database()",
    )
    .fetch_one(&mut connection)
    .await?;
    if layout.database_tls() == Tls::On {
        certificates::end_revoked(&mut connection, layout, participant).await?;
    }
    connection.close().await?;
    Ok(owner == participant.role())
}

/// The service's role is no superuser, unlike that of older stacks, whose tables it is given. The database itself is last: it says
/// that all is done.
async fn set_up(layout: &Layout, participant: &Participant) -> Result<()> {
    let (role, database) = (participant.role(), participant.database);
    let password = fs::read_to_string(layout.role_password_file(participant))?;
    let password = password.trim();
    if !password.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        bail!("{} does not hold a password", layout.role_password_file(participant).display());
    }
    let mut maintenance = PgConnection::connect(&layout.database_url_of(participant, "postgres")?).await?;
    // A statement with a password must not be in the log if it fails.
    run_sql(&mut maintenance, "set log_min_error_statement = panic".to_owned()).await?;
    let exists = |what: &'static str, name: &'static str| sqlx::query_scalar::<_, bool>(what).bind(name);
    let has_role = exists("select exists (select from pg_roles where rolname = $1)", role);
    let change = if has_role.fetch_one(&mut maintenance).await? { "alter" } else { "create" };
    run_sql(&mut maintenance, format!("{change} role \"{role}\" login password '{password}'")).await?;
    // For the age of the oldest transaction, whoever has it.
    run_sql(&mut maintenance, format!("grant pg_read_all_stats to \"{role}\"")).await?;
    let has_database = exists("select exists (select from pg_database where datname = $1)", database);
    if has_database.fetch_one(&mut maintenance).await? {
        let mut connection = PgConnection::connect(&layout.database_url(participant)?).await?;
        run_sql(&mut connection, give_tables(role)).await?;
        connection.close().await?;
        run_sql(&mut maintenance, format!("alter database \"{database}\" owner to \"{role}\"")).await?;
    } else {
        run_sql(&mut maintenance, format!("create database \"{database}\" owner \"{role}\"")).await?;
    }
    Ok(maintenance.close().await?)
}

/// Sequences of columns follow their tables.
fn give_tables(role: &str) -> String {
    format!(
        "do $$ declare relation regclass; begin
            for relation in select oid from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
            loop execute format('alter table %s owner to %I', relation, '{role}'); end loop;
        end $$"
    )
}

/// Names and passwords in `statement` are our own, not input.
async fn run_sql(connection: &mut PgConnection, statement: String) -> Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

/// Checks that the stack may delete the databases that are kept for it elsewhere, before anything is deleted.
pub(crate) fn check_owner(layout: &Layout) -> Result<()> {
    let folder = reachable_dir(&layout.data_dir);
    if owner(&folder)?.is_none()
        && cluster_dir(layout, &PARTICIPANTS[0]).starts_with(&folder)
        && folder.exists()
    {
        bail!(
            "{} does not say whose databases it has, so nothing is deleted: start the stack once, which writes it down",
            folder.display()
        );
    }
    Ok(())
}

/// Deletes the files of the servers that are outside of the stack's folder, if they belong to this stack.
pub(crate) fn remove_elsewhere(layout: &Layout) -> Result<()> {
    let folder = reachable_dir(&layout.data_dir);
    if owner(&folder)? != Some(layout.data_dir.clone()) {
        return Ok(());
    }
    for participant in PARTICIPANTS {
        for path in participant.server_files(&folder) {
            removal::remove(&path)?;
        }
    }
    removal::remove(&folder.join(OWNER))?;
    // The folders above may lead to another stack's databases.
    for parent in folder.ancestors().take_while(|parent| parent.starts_with(REACHABLE)) {
        if fs::remove_dir(parent).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No two stacks share the folder of their databases, and none is inside another's.
    #[test]
    fn every_stack_has_a_folder_of_its_own() {
        let folders =
            ["/root/a-b", "/root/a_b", "/root/a/b", "/root/a", "/root/A", "/root/a b", "/root/\u{e4}"];
        let like_ours = ["/root/a/.databases", "/root/a/..databases", "/root/a/.databases/orders-db"];
        let folders = folders.iter().chain(&like_ours);
        let reachable: Vec<PathBuf> =
            folders.clone().map(|folder| reachable_dir(Path::new(folder))).collect();
        for (index, folder) in reachable.iter().enumerate() {
            for other in &reachable[index + 1..] {
                assert!(!folder.starts_with(other) && !other.starts_with(folder), "{folder:?} {other:?}");
            }
        }
    }

    /// A folder belongs to the stack that came first; for another one, the error names the owner.
    #[test]
    fn a_folder_of_databases_has_one_owner() {
        let base = std::env::temp_dir().join(format!("holdfast-owner-{}", std::process::id()));
        let folder = base.join("x").join(DATABASES);
        claim(&folder, Path::new("/root/a")).expect("nobody's yet");
        claim(&folder, Path::new("/root/a")).expect("its own");
        let refused = claim(&folder, Path::new("/root/b")).expect_err("another's").to_string();
        assert!(refused.contains("/root/a"), "{refused}");
        // An interrupted write names nobody.
        fs::write(folder.join(OWNER), "").expect("written");
        assert_eq!(owner(&folder).expect("read"), None);
        fs::remove_dir_all(base).expect("gone");
    }

    /// Each service logs in to its own database only; with TLS nobody logs in without a certificate.
    #[test]
    fn every_line_of_access_asks_for_what_it_should() {
        for participant in PARTICIPANTS {
            let with = access(participant, Tls::On);
            assert_eq!(with.lines().count(), 2);
            for line in with.lines() {
                assert!(line.starts_with("hostssl "), "{line}");
                assert!(line.contains("clientcert=verify-full") || line.contains(" cert map="), "{line}");
            }
            let without = access(participant, Tls::Off);
            assert!(without.lines().all(|line| line.ends_with(" scram-sha-256")), "{without}");
            for text in [with, without] {
                let service = format!(" {} {} ", participant.database, participant.role());
                assert!(text.contains(&service), "{text}");
            }
        }
    }
}
