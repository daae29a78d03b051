//! The environment of this command itself.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    process::Command,
};

/// libpq and its relatives take these for anything that a URL does not say: whoever has exported `PGOPTIONS` for `psql` would
/// have it in every connection to a stack's databases, and turn off what keeps them durable.
const FOREIGN: &str = "PG";

/// Starts this command again without variables that are meant for other programs, if there are any: then it returns only if that
/// fails. Variables can't be removed from a process that may have threads.
pub(crate) fn without_foreign() -> io::Result<()> {
    let foreign: Vec<OsString> =
        env::vars_os().map(|(name, _)| name).filter(|name| is_foreign(name)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(env::current_exe()?);
    let mut arguments = env::args_os();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments);
    for name in foreign {
        command.env_remove(name);
    }
    Err(command.exec())
}

fn is_foreign(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(FOREIGN.as_bytes())
}
