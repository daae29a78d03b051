//! PostgreSQL: initialised once per participant, started as a child, never as root (it refuses).

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, fs::chown, process::CommandExt as _},
    path::{Component, Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::unistd::{User, geteuid};
use sqlx::{Connection as _, PgConnection};

use crate::{
    artifacts::{Artifacts, run},
    layout::{DATABASE_USER, Layout, PARTICIPANTS, Participant, closed_to_others},
};

/// Where databases lie whose stack's folder can't be reached by the user that they run as.
const REACHABLE: &str = "/var/lib/holdfast";

/// User and group that a server runs as when the supervisor is root.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("nobody")?
        .context("PostgreSQL refuses to run as root, and there is no user `nobody` to run it as")?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

/// The folder of a server's files. A server that runs as another user must be able to get there.
pub(crate) fn cluster_dir(layout: &Layout, participant: &Participant) -> PathBuf {
    let base = layout.data_dir.join("postgres");
    if geteuid().is_root() && closed_to_others(&layout.data_dir).is_some() {
        return reachable_dir(&layout.data_dir).join(participant.server);
    }
    base.join(participant.server)
}

/// Where the databases of a stack lie whose own folder is closed to others. The same path below another root, so that no
/// two stacks share it whatever their folders are called.
fn reachable_dir(data_dir: &Path) -> PathBuf {
    let names = data_dir.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    Path::new(REACHABLE).join(names.collect::<PathBuf>()).join(".databases")
}

/// Creates a folder that another user can get through, whatever the umask is.
fn create_passable(folder: &Path) -> std::io::Result<()> {
    for folder in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
        if !folder.exists() {
            fs::create_dir(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
        }
    }
    Ok(())
}

/// Runs `initdb` for those servers that have no files yet.
pub(crate) fn prepare(layout: &Layout, artifacts: &Artifacts) -> Result<()> {
    let unprivileged = unprivileged()?;
    // Side by side: most of initdb is waiting for the disk.
    std::thread::scope(|scope| {
        let started: Vec<_> = PARTICIPANTS
            .iter()
            .map(|participant| scope.spawn(move || init(layout, artifacts, participant, unprivileged)))
            .collect();
        started.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
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
    // What a start that was cut off left behind.
    let _ = fs::remove_dir_all(&cluster);
    if cluster.starts_with(REACHABLE) {
        let folder = cluster.parent().unwrap_or(&cluster);
        create_passable(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::create_dir_all(&cluster).with_context(|| format!("cannot create {}", cluster.display()))?;
    fs::set_permissions(&cluster, fs::Permissions::from_mode(0o700))?;
    // initdb wants an empty folder, so the password is beside it, readable for the server's user only.
    let password_file = cluster.with_extension("password");
    fs::copy(layout.password_file(), &password_file)?;
    fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600))?;
    if let Some((uid, gid)) = unprivileged {
        chown(&cluster, Some(uid), Some(gid))?;
        chown(&password_file, Some(uid), Some(gid))?;
    }
    let mut command = Command::new(artifacts.postgres_bin.join("initdb"));
    command
        .args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"])
        .arg(format!("--username={DATABASE_USER}"))
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
        // Durable as in production: the measurements and the proofs rest on it.
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

/// Whether the server takes a login; makes the participant's database if it isn't there.
pub(crate) async fn is_ready(layout: &Layout, participant: &Participant) -> bool {
    tokio::time::timeout(PROBE_TIME_MAX, ensure_database(layout, participant))
        .await
        .is_ok_and(|done| done.is_ok())
}

async fn ensure_database(layout: &Layout, participant: &Participant) -> Result<()> {
    let url = layout.database_url(participant)?;
    if let Ok(connection) = PgConnection::connect(&url).await {
        connection.close().await?;
        return Ok(());
    }
    let maintenance = url.replace(&format!("/{}", participant.database), "/postgres");
    let mut connection = PgConnection::connect(&maintenance).await?;
    // A name of ours, not a text of anybody's.
    let statement = format!("create database {}", participant.database);
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Deletes the files of all servers.
pub(crate) fn remove(layout: &Layout) -> std::io::Result<()> {
    for participant in &PARTICIPANTS {
        let cluster = cluster_dir(layout, participant);
        if cluster.exists() {
            fs::remove_dir_all(&cluster)?;
        }
        // The last one takes the folders along that are empty then; the others find them not empty yet.
        for parent in cluster.ancestors().skip(1).take_while(|parent| *parent != layout.data_dir) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No two stacks share the folder of their databases, and none lies within another's server.
    #[test]
    fn every_stack_has_a_folder_of_its_own() {
        let folders =
            ["/root/a-b", "/root/a_b", "/root/a/b", "/root/a", "/root/A", "/root/a b", "/root/\u{e4}"];
        let reachable: Vec<PathBuf> = folders.iter().map(|folder| reachable_dir(Path::new(folder))).collect();
        for (index, folder) in reachable.iter().enumerate() {
            for other in &reachable[index + 1..] {
                assert!(!folder.starts_with(other) && !other.starts_with(folder), "{folder:?} {other:?}");
            }
        }
    }
}
