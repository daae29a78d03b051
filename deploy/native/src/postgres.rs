//! PostgreSQL: initialised once per participant, started as a child process, never as root (it refuses).

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        process::CommandExt as _,
    },
    path::{Component, Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;
use sqlx::{Connection as _, PgConnection};

use crate::{
    artifacts::{Artifacts, run},
    certificates, environment,
    environment::unprivileged,
    files::{self, Owner, Passage},
    layout::{DATABASE_ADMINISTRATOR, Layout, OPERATOR, PARTICIPANTS, Participant, Tls, closed_to_others},
    prepare::write_password,
    removal,
    roles::{self, Passwords},
    state::Lock,
};

/// The folder for databases of stacks whose own folder can't be accessed by the user that the servers run as.
const REACHABLE: &str = "/var/lib/holdfast";

/// Returns the folder of a server's files. A server that runs as another user must be able to access it. Where they are once they
/// stay, whatever becomes of the folders above them.
pub(crate) fn cluster_dir(layout: &Layout, participant: &Participant) -> PathBuf {
    let own = layout.data_dir.join("postgres").join(participant.server);
    if !geteuid().is_root() {
        return own;
    }
    let reachable = reachable_dir(&layout.data_dir);
    let is_elsewhere = owner(&reachable).is_ok_and(|owner| owner.as_ref() == Some(&layout.data_dir));
    let is_here = || own.join("PG_VERSION").exists();
    if is_elsewhere || (!is_here() && closed_to_others(&layout.data_dir).is_some()) {
        return reachable.join(participant.server);
    }
    own
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
    // Those above it too: an older version created them as the umask said.
    files::create_passable(folder, Path::new(REACHABLE))
        .with_context(|| format!("cannot create {}", folder.display()))?;
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

/// Runs `initdb` for those servers that have no files yet, and writes who may log in.
pub(crate) fn prepare(layout: &Layout, lock: &Lock, artifacts: &Artifacts) -> Result<()> {
    let unprivileged = unprivileged()?;
    let reachable = reachable_dir(&layout.data_dir);
    for participant in PARTICIPANTS {
        let cluster = cluster_dir(layout, participant);
        if cluster.starts_with(&reachable) {
            claim(&reachable, &layout.data_dir)?;
        } else if let Some(closed) = closed_to_others(&layout.data_dir).filter(|_| unprivileged.is_some()) {
            bail!(
                "{} was closed to others since the databases in {} were created: open it to their user (`chmod o+x`)",
                closed.display(),
                cluster.display()
            );
        } else {
            files::folder(&layout.data_dir.join("postgres"), Passage::Components)?;
        }
    }
    // In parallel: initdb mostly waits for the disk.
    std::thread::scope(|scope| {
        let set_up = move |participant| {
            write_passwords(layout, participant)?;
            init(layout, lock, artifacts, participant, unprivileged)?;
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

/// Of the server's superuser, of the owner's role and of the service's. Servers of older stacks keep the one password that they all have.
fn write_passwords(layout: &Layout, participant: &Participant) -> Result<()> {
    let (own, common) = (layout.administrator_password_file(participant), layout.common_password_file());
    if !own.exists() && common.exists() && cluster_dir(layout, participant).join("PG_VERSION").exists() {
        // Private, as the other one is.
        fs::copy(&common, &own).with_context(|| format!("cannot write {}", own.display()))?;
    }
    write_password(&own, Owner::Supervisor)?;
    write_password(&layout.owner_password_file(participant), Owner::Supervisor)?;
    write_password(&layout.role_password_file(participant), Owner::Supervisor)
}

/// Who may log in, and how: the service and the owner of its tables to its own database, the operator's tools to all. With TLS a certificate
/// must go with it: that of the service beside its password, any of ours beside the owner's, that of the operator instead of a password.
/// Everybody else, and whoever comes without TLS then, finds no line.
fn access(participant: &Participant, tls: Tls) -> String {
    let (database, role, owner) = (participant.database, participant.role(), participant.owner_role());
    match tls {
        Tls::Off => format!(
            "host {database} {role},{owner} 127.0.0.1/32 scram-sha-256\n\
             host all {DATABASE_ADMINISTRATOR} 127.0.0.1/32 scram-sha-256\n"
        ),
        Tls::On => format!(
            "hostssl {database} {role} 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n\
             hostssl {database} {owner} 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n\
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
    files::write(&cluster.join("postgresql.conf"), settings.as_bytes(), Owner::Components)?;
    files::write(&cluster.join("pg_hba.conf"), access.as_bytes(), Owner::Components)?;
    files::write(&cluster.join("pg_ident.conf"), names.as_bytes(), Owner::Components)
}

/// In the folder of a server's files from when all of them are there.
const INITIALISED: &str = "initialised";
/// Written by every start of a server, but not by `initdb`.
const STARTED: &str = "postmaster.opts";

fn init(
    layout: &Layout,
    lock: &Lock,
    artifacts: &Artifacts,
    participant: &Participant,
    unprivileged: Option<(u32, u32)>,
) -> Result<()> {
    let cluster = cluster_dir(layout, participant);
    if is_whole(&cluster)? {
        return Ok(());
    }
    // Left behind by an interrupted start. The folder itself may be the root of a disk, and stay.
    removal::remove(&cluster)?;
    files::folder_of(Owner::Components, &cluster)?;
    // initdb needs an empty folder, so the password file is beside it, readable only by the server's user.
    let password_file = cluster.with_extension("password");
    let password = fs::read(layout.administrator_password_file(participant))?;
    files::write(&password_file, &password, Owner::Components)?;
    let mut command = environment::command(artifacts.postgres_bin.join("initdb"));
    command
        .args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"])
        .arg(format!("--username={DATABASE_ADMINISTRATOR}"))
        .arg("--pwfile")
        .arg(&password_file)
        .arg("--pgdata")
        .arg(&cluster)
        .stdin(lock.for_child()?)
        .current_dir("/");
    if let Some((uid, gid)) = unprivileged {
        command.uid(uid).gid(gid);
    }
    run(&mut command).with_context(|| format!("cannot initialise {}", participant.server))?;
    files::write(&cluster.join(INITIALISED), b"", Owner::Components)?;
    removal::remove(&password_file)
}

/// Whether a folder has all files of a server. Half of them are no loss: nobody has ever used them. Where anybody may have, it is
/// whole: a server has been started on it, or (if it was copied from elsewhere) it has a database of ours.
fn is_whole(cluster: &Path) -> Result<bool> {
    if [INITIALISED, STARTED].iter().any(|sign| cluster.join(sign).exists()) {
        return Ok(true);
    }
    let databases = removal::entries(&cluster.join("base"))?;
    Ok(databases.iter().any(|folder| {
        let number = folder.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
        number.is_some_and(|number| number >= FIRST_OF_USERS)
    }))
}

/// Databases with smaller numbers are made by `initdb` (`FirstNormalObjectId`).
const FIRST_OF_USERS: u32 = 16_384;

/// The file with which a server says that it runs.
const RUNNING: &str = "postmaster.pid";

/// What an earlier server has left behind may name a process that is somebody else's now, and would keep the next one from
/// starting. It is not deleted: the rest of it leads the server to memory that processes of the earlier one may still use. Naming
/// the parent of the new server, as PostgreSQL itself provides for, leaves it that check.
fn see_through_an_earlier_life(cluster: &Path) -> Result<()> {
    let path = cluster.join(RUNNING);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let pid: Option<u32> = first.trim().parse().ok();
    // Of a process that is gone PostgreSQL takes no notice; of half a note it does.
    if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists() || serves(pid, cluster)) {
        return Ok(());
    }
    let parent = std::process::id();
    files::write(&path, format!("{parent}\n{rest}").as_bytes(), Owner::Components)
}

/// Whether a process is a server with these files.
pub(crate) fn serves(pid: u32, cluster: &Path) -> bool {
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    command.split(|byte| *byte == 0).any(|argument| argument == cluster.as_os_str().as_bytes())
}

/// The command that starts a server in the foreground.
pub(crate) fn command(layout: &Layout, artifacts: &Artifacts, participant: &Participant) -> Result<Command> {
    let cluster = cluster_dir(layout, participant);
    see_through_an_earlier_life(&cluster)?;
    let mut command = environment::command(artifacts.postgres_bin.join("postgres"));
    command.arg("-D").arg(cluster).current_dir("/");
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
        // The first change of a page after a checkpoint writes the whole page: checkpoints by size, which bounds a recovery, rather than
        // by time, and such pages compressed. This build of PostgreSQL has no lz4.
        "checkpoint_timeout=15min".to_owned(),
        "wal_compression=pglz".to_owned(),
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

/// Like [`answers`], but creates what the service needs if it doesn't exist: its roles, and its database, which one of them owns; and
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
    let owner = roles::owner(&mut connection).await?;
    if layout.database_tls() == Tls::On {
        certificates::end_revoked(&mut connection, layout, participant).await?;
    }
    connection.close().await?;
    Ok(owner == participant.owner_role())
}

async fn set_up(layout: &Layout, participant: &Participant) -> Result<()> {
    let password = fs::read_to_string(layout.role_password_file(participant))?;
    let owner = fs::read_to_string(layout.owner_password_file(participant))?;
    let passwords = Passwords { service: password.trim(), owner: owner.trim() };
    roles::ensure(&layout.database_url(participant)?.parse()?, participant, passwords).await
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
    removal::remove(&folder.join("owner.draft"))?;
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

    /// Half of what `initdb` writes is made anew; what a server was started on, or has a database of ours, never is.
    #[test]
    fn what_may_hold_data_is_whole() {
        let cluster = std::env::temp_dir().join(format!("holdfast-whole-{}", std::process::id()));
        let is_whole = |files: &[&str]| {
            for file in files {
                let path = cluster.join(file);
                fs::create_dir_all(path.parent().expect("in a folder")).expect("created");
                fs::write(path, "").expect("written");
            }
            let is_whole = is_whole(&cluster).expect("read");
            let _ = fs::remove_dir_all(&cluster);
            is_whole
        };
        assert!(!is_whole(&[]));
        assert!(!is_whole(&["PG_VERSION", "base/1/PG_VERSION", "base/5/PG_VERSION", "base/pgsql_tmp/x"]));
        for sign in [INITIALISED, STARTED, "base/16384/PG_VERSION"] {
            assert!(is_whole(&["PG_VERSION", "base/1/PG_VERSION", sign]), "{sign}");
        }
    }

    /// A note that names a process which is no server of these files names the supervisor instead, and keeps the rest; that of a
    /// server is left alone.
    #[test]
    fn a_note_of_an_earlier_life_is_seen_through() {
        let cluster = std::env::temp_dir().join(format!("holdfast-note-{}", std::process::id()));
        fs::create_dir_all(&cluster).expect("created");
        see_through_an_earlier_life(&cluster).expect("there is none");
        let note = cluster.join(RUNNING);
        let seen_through = |pid: u32| {
            fs::write(&note, format!("{pid}\n{}\n0\n5432\n", cluster.display())).expect("written");
            see_through_an_earlier_life(&cluster).expect("done");
            let text = fs::read_to_string(&note).expect("there");
            assert_eq!(text.lines().count(), 4, "{text}");
            text.lines().next().is_some_and(|first| first == std::process::id().to_string())
        };
        // Like a server it has its folder as an argument.
        let start = |arguments: &[&OsStr]| {
            let mut command = environment::command("sh");
            command.args(["-c", "read line"]).args(arguments).stdin(std::process::Stdio::piped());
            command.spawn().expect("it runs")
        };
        let (mut stranger, mut server) = (start(&[]), start(&[OsStr::new("-D"), cluster.as_os_str()]));
        assert!(seen_through(stranger.id()));
        assert!(!seen_through(server.id()));
        assert!(!seen_through(u32::MAX), "nobody has this number");
        fs::write(&note, "").expect("written");
        see_through_an_earlier_life(&cluster).expect("done");
        assert_eq!(fs::read_to_string(&note).expect("there"), format!("{}\n", std::process::id()));
        for process in [&mut stranger, &mut server] {
            drop(process.stdin.take());
            process.wait().expect("it ends");
        }
        fs::remove_dir_all(cluster).expect("gone");
    }

    /// Each service logs in to its own database only; with TLS nobody logs in without a certificate.
    #[test]
    fn every_line_of_access_asks_for_what_it_should() {
        for participant in PARTICIPANTS {
            let with = access(participant, Tls::On);
            assert_eq!(with.lines().count(), 3);
            for line in with.lines() {
                assert!(line.starts_with("hostssl "), "{line}");
                assert!(line.contains(" clientcert=verify-") || line.contains(" cert map="), "{line}");
            }
            assert!(with.contains(&format!(
                " {} 127.0.0.1/32 scram-sha-256 clientcert=verify-full",
                participant.role()
            )));
            let without = access(participant, Tls::Off);
            assert!(without.lines().all(|line| line.ends_with(" scram-sha-256")), "{without}");
            for text in [with, without] {
                let service = format!(" {} {}", participant.database, participant.role());
                assert!(text.contains(&service), "{text}");
            }
        }
    }
}
