//! Redis: what replicas of the gateway share, if a stack is asked to have it. It keeps nothing on disk.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    environment::{self, unprivileged},
    files::{self, Owner},
    layout::Layout,
};

const PROGRAM: &str = "redis-server";
/// Older ones don't let a script both ask for the time and write.
const VERSION_MIN: u32 = 7;
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

/// Writes its configuration.
pub(crate) fn prepare(layout: &Layout) -> Result<()> {
    let password = password(layout)?;
    let path = layout.redis_config_file();
    files::write(&path, configuration(layout.redis_port(), &password).as_bytes(), Owner::Supervisor)
}

fn configuration(port: u16, password: &str) -> String {
    format!(
        "# Written at each start of the native stack.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
# What is kept here is worth nothing after a restart.
save \"\"
appendonly no
maxmemory 64mb
# Limits and cached states share it. Whoever sends most is used last, so a flood of others makes nobody's limit forgotten that
# matters. The policies that look only at expiry would forget limits, which live for seconds, before every cached state.
maxmemory-policy allkeys-lru
# Keeps the command line, by which the stack recognises its process.
set-proc-title no
"
    )
}

/// Checks that there is one on this machine.
pub(crate) fn check() -> Result<()> {
    const HELP: &str = "Redis 7 or newer was asked for (--with redis): run `make deps`, or install it (Debian: apt-get install \
         redis-server) so that `redis-server` is on the PATH";
    let Ok(output) = environment::command(PROGRAM).arg("--version").output() else {
        bail!("no redis-server was found. {HELP}");
    };
    // Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=…
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .split("v=")
        .nth(1)
        .and_then(|version| version.split('.').next())
        .and_then(|major| major.parse::<u32>().ok());
    match version {
        Some(version) if version >= VERSION_MIN => Ok(()),
        Some(version) => bail!("Redis {version} is too old. {HELP}"),
        None => bail!("`redis-server --version` does not say its version. {HELP}"),
    }
}

/// Its password, which is created at the first start with Redis.
fn password(layout: &Layout) -> Result<String> {
    let path = layout.redis_password_file();
    // The gateways read it.
    crate::prepare::write_password(&path, Owner::Components)?;
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The command that starts it in the foreground.
pub(crate) fn command(layout: &Layout) -> Result<Command> {
    let path = layout.redis_config_file();
    let config = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut command = environment::command(PROGRAM);
    command
        // It is not used. It is there so that the process can be recognised as this stack's.
        .arg("--syslog-ident")
        .arg(&path)
        // The configuration is open already: the user that Redis runs as may not open it, since it has the password.
        .arg("-")
        .stdin(Stdio::from(config))
        .current_dir("/");
    if let Some((uid, gid)) = unprivileged()? {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// Logs in; an error says what is wrong. Changes nothing.
pub(crate) async fn answers(layout: &Layout) -> Result<()> {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", layout.redis_port())).await?;
        let words = format!("AUTH {}\r\nPING\r\n", fs::read_to_string(layout.redis_password_file())?.trim());
        stream.write_all(words.as_bytes()).await?;
        let mut answer = [0; b"+OK\r\n+PONG\r\n".len()];
        stream.read_exact(&mut answer).await?;
        if answer != *b"+OK\r\n+PONG\r\n" {
            bail!("refuses its password");
        }
        Ok(())
    };
    let bound = tokio::time::timeout(PROBE_TIME_MAX, ask).await;
    bound.map_err(|_| anyhow::anyhow!("does not answer within {} s", PROBE_TIME_MAX.as_secs()))?
}
