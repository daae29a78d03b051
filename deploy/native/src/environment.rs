//! What components are started with: an environment of our making, a user without rights, files of which nobody else can read any,
//! and enough file descriptors. What an operator has exported for other programs never reaches them.

use std::{
    env,
    ffi::{OsStr, OsString},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        stat::{Mode, umask},
    },
    unistd::{User, geteuid},
};

/// What our own programs read. Everything else that could change what a component does stays behind: settings of libpq (`PG…`), of
/// Java and Kafka, proxies, the locale and the time zone.
const OURS: &str = "HOLDFAST_";

/// A component with fewer descriptors ends under load, long after its start.
const DESCRIPTORS_MIN: u64 = 1024;

/// A command in an environment that is the same wherever the stack is started.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", path);
    }
    // The file names of the JVM are encoded as the locale says.
    command.envs([("LC_ALL", "C.UTF-8"), ("TZ", "UTC"), ("HOME", "/")]);
    command
}

/// The settings that the operator has exported for our programs.
pub(crate) fn ours() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with(OURS)))
}

/// User and group of the components when the supervisor is root: PostgreSQL refuses to run as root, and no other needs its rights.
/// `None` if the supervisor has none to give away.
pub(crate) fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("nobody")?
        .context("components are not run as root, and there is no user `nobody` to run them as")?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

/// The user that the console runs as, if this machine has one, when the supervisor is root.
const CONSOLE_USER: &str = "holdfast-console";
/// Otherwise the console runs as this user and group, to which nobody gives accounts: Debian reserves it, systemd gives it to no service.
const CONSOLE_ID: u32 = 65_533;

/// User and group of the console when the supervisor is root: another user than that of the components, none of which may read what the
/// console has (docs/adr/0018-the-consoles-identity.md). `None` if the supervisor has no rights to give away.
pub(crate) fn console_user() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    if let Some(user) = User::from_name(CONSOLE_USER)? {
        let is_components = unprivileged()?.is_some_and(|(uid, _)| uid == user.uid.as_raw());
        ensure!(
            !user.uid.is_root() && !is_components,
            "the user `{CONSOLE_USER}` must be neither root nor the one that components run as"
        );
        return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
    }
    if let Some(other) = User::from_uid(CONSOLE_ID.into())? {
        bail!(
            "the console would run as the user with the id {CONSOLE_ID}, which is {}: create a user `{CONSOLE_USER}`, or leave it out \
             with --without console",
            other.name
        );
    }
    Ok(Some((CONSOLE_ID, CONSOLE_ID)))
}

/// Checks that this process's user has a name: `initdb` asks for it.
pub(crate) fn check_user() -> Result<()> {
    let id = geteuid();
    ensure!(
        User::from_uid(id)?.is_some(),
        "the user with the id {id} has no name on this machine (in /etc/passwd), and PostgreSQL needs one"
    );
    Ok(())
}

/// That of the caller, from before it was changed.
static CALLERS_UMASK: OnceLock<Mode> = OnceLock::new();

/// Has whatever this process and its children create be readable for its owner only, whatever the caller's umask is.
pub(crate) fn keep_private() {
    CALLERS_UMASK.get_or_init(|| umask(Mode::from_bits_truncate(0o077)));
}

/// A command of the caller's, in its environment and with its umask: what it leaves outside of the stack is shared with other programs.
pub(crate) fn callers_command(program: &str) -> Command {
    CALLERS_UMASK.get().map_or_else(|| Command::new(program), |umask| with_umask(*umask, program))
}

fn with_umask(umask: Mode, program: &str) -> Command {
    let mut command = Command::new("sh");
    // It is the process's, and Rust has no way to set it for a child alone.
    command.args(["-c", "umask \"$0\" && exec \"$@\"", &format!("{:04o}", umask.bits()), program]);
    command
}

/// Raises the soft limit of open files to the hard one, for this process and its children; an error if that is too little.
pub(crate) fn raise_descriptors() -> Result<()> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot ask for the limit of open files")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    }
    enough_descriptors(hard)
}

fn enough_descriptors(limit: u64) -> Result<()> {
    ensure!(
        limit >= DESCRIPTORS_MIN,
        "a process may have only {limit} files open here, and Kafka needs {DESCRIPTORS_MIN}: raise the limit (`ulimit -Hn`)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A component gets our variables and nothing that was exported: the environment of this test has more.
    #[test]
    fn nothing_of_the_callers_environment_reaches_a_component() {
        assert!(
            env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("CARGO")),
            "there is something"
        );
        let output = command("env").output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        assert_eq!(names, BTreeSet::from(["HOME", "LC_ALL", "PATH", "TZ"]));
    }

    /// What the caller's programs create is as they create it elsewhere.
    #[test]
    fn the_callers_programs_have_its_umask() {
        for umask in ["0022", "0027", "0077"] {
            let mode = Mode::from_bits_truncate(u32::from_str_radix(umask, 8).expect("octal"));
            let output = with_umask(mode, "sh").args(["-c", "umask; echo \"$1\"", "-", "a 'b'"]).output();
            let said = String::from_utf8(output.expect("it runs").stdout).expect("text");
            assert_eq!(said, format!("{umask}\na 'b'\n"));
        }
    }

    /// The console runs as another user than the components, neither of which is root; without rights to give away all run as this one.
    #[test]
    fn the_console_has_a_user_of_its_own() {
        match (console_user().expect("known"), unprivileged().expect("known")) {
            (Some((console, _)), Some((components, _))) => {
                assert!(geteuid().is_root() && console != components && console != 0);
            }
            users => assert!(users == (None, None) && !geteuid().is_root(), "{users:?}"),
        }
    }

    /// Too few descriptors are an error before anything is started, which says how many there are and what to raise.
    #[test]
    fn too_few_descriptors_are_refused() {
        let refused = enough_descriptors(256).expect_err("too few").to_string();
        assert!(refused.contains("256") && refused.contains("ulimit -Hn"), "{refused}");
        assert!(enough_descriptors(DESCRIPTORS_MIN).is_ok());
    }
}
