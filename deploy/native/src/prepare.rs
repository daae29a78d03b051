//! Everything that must be true before anything is started. Each failure says what to do about it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use holdfast_certs::{Pki, TokenIssuer};
use nix::sys::statvfs::statvfs;

use crate::{
    artifacts::Artifacts,
    kafka,
    layout::{Extra, KAFKA, Layout, PARTICIPANTS, Replicas, Scope, Tls, identities},
    link::Link,
    postgres, programs, redis,
    removal::{Content, Folder},
    services,
};

/// Free space that a start requires, in bytes: three clusters, a broker's log, and room to work.
const FREE_BYTES_MIN: u64 = 512 * 1024 * 1024;
const MARKER: &str =
    "The data of a Holdfast stack. `holdfast down --delete-data` deletes what it wrote here.\n";
const JAVA_VERSION_MIN: u32 = 17;

/// A port that is in use.
#[derive(Debug, thiserror::Error)]
#[error(
    "port {port} for {component} cannot be used ({error}): stop what listens there, or choose other ports with \
     --port-offset N"
)]
pub struct PortTaken {
    port: u16,
    component: String,
    /// Part of the message, so it is not the source as well.
    error: io::Error,
}

/// The exit code for a test's stack when a port is taken, so that the test tries others. Nobody else gets it.
pub const PORT_TAKEN_EXIT_CODE: u8 = 5;

/// Which connections are encrypted beside those between services, which always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encrypted {
    /// To the databases.
    pub databases: Tls,
    /// To the broker.
    pub kafka: Tls,
}

/// A stack that can be started.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Where it is.
    pub layout: Layout,
    /// How much of it.
    pub scope: Scope,
    /// How many of each service.
    pub replicas: Replicas,
    /// What it has only because it was asked for.
    pub(crate) extras: Vec<Extra>,
    /// Its links, if it has any.
    pub(crate) links: Vec<Link>,
    pub(crate) artifacts: Artifacts,
}

/// Checks the machine, and creates files, databases, certificates and configurations where they are missing. `links` are those
/// of the layout, or empty: then clients reach servers by the servers' own ports. `programs` is the folder of the services'
/// programs, if that is not where this one is.
pub fn prepare(
    layout: Layout,
    scope: Scope,
    replicas: Replicas,
    extras: Vec<Extra>,
    links: Vec<Link>,
    programs: Option<&Path>,
    encrypted: Encrypted,
) -> Result<Prepared> {
    if encrypted.kafka == Tls::On && !kafka::CAN_ENCRYPT {
        bail!("{}", kafka::NOT_BUILT);
    }
    fs::create_dir_all(&layout.data_dir)
        .with_context(|| format!("cannot create the data folder {}", layout.data_dir.display()))?;
    check_space(&layout.data_dir)?;
    check_nothing_else(&layout)?;
    fs::write(layout.marker_file(), MARKER)
        .with_context(|| format!("cannot write {}", layout.marker_file().display()))?;
    check_java()?;
    for extra in &extras {
        match extra {
            Extra::Redis => redis::check()?,
        }
    }
    check_ports(&layout.ports(scope, replicas, &extras, &links))?;
    let artifacts = Artifacts::ensure()?;
    for folder in ["config", "logs"] {
        let folder = layout.data_dir.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    write_down(&layout.database_tls_file(), encrypted.databases)?;
    write_down(&layout.kafka_tls_file(), encrypted.kafka)?;
    renew_certificates(&layout, scope)?;
    postgres::prepare(&layout, &artifacts)?;
    kafka::prepare(&layout, &artifacts, &links)?;
    for extra in &extras {
        match extra {
            Extra::Redis => redis::prepare(&layout)?,
        }
    }
    if scope == Scope::Everything {
        TokenIssuer::load_or_create(&layout.pki_dir())?;
        services::prepare(&layout, replicas, &extras, &links)?;
        programs::prepare(&layout, replicas, programs)?;
    }
    Ok(Prepared { layout, scope, replicas, extras, links, artifacts })
}

/// Makes sure that every identity has a certificate with time left.
pub(crate) fn renew_certificates(layout: &Layout, scope: Scope) -> Result<()> {
    let (databases, broker) = (layout.database_tls() == Tls::On, layout.kafka_tls() == Tls::On);
    if scope == Scope::Infrastructure && !databases && !broker {
        return Ok(());
    }
    let pki = Pki::open_or_init(&layout.pki_dir())?;
    for identity in identities() {
        pki.ensure_leaf(identity)?;
    }
    let servers = PARTICIPANTS.iter().map(|participant| participant.server).filter(|_| databases);
    for server in servers.chain(broker.then_some(KAFKA)) {
        // Clients have nothing but the address; no service's certificate says that it answers there.
        pki.answers_at(server, &[Ipv4Addr::LOCALHOST.into()])?;
        pki.ensure_leaf(server)?;
    }
    Ok(())
}

/// For all who look for the databases, or for the broker, of this stack.
fn write_down(path: &Path, tls: Tls) -> Result<()> {
    let done = match tls {
        Tls::On => fs::write(path, "Connections are by TLS only.\n"),
        Tls::Off => match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        },
    };
    done.with_context(|| format!("cannot write {}", path.display()))
}

fn check_space(folder: &Path) -> Result<()> {
    let stat =
        statvfs(folder).with_context(|| format!("cannot ask for the free space of {}", folder.display()))?;
    // The widths of these two differ between platforms.
    #[allow(clippy::useless_conversion, reason = "needed where they are 32 bits wide")]
    let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    enough(free, folder)
}

fn enough(free: u64, folder: &Path) -> Result<()> {
    if free < FREE_BYTES_MIN {
        bail!(
            "only {} MiB are free in {}, {} MiB are needed: make room, or choose another folder with --data-dir",
            free >> 20,
            folder.display(),
            FREE_BYTES_MIN >> 20
        );
    }
    Ok(())
}

/// A start overwrites files under its names, and marks the folder as one that may be deleted.
fn check_nothing_else(layout: &Layout) -> Result<()> {
    if layout.marker_file().exists() {
        return Ok(());
    }
    let foreign = Content::of(layout, Folder::Unmarked)?.foreign;
    if let Some(first) = foreign.first() {
        bail!(
            "{} is not a stack's, and {} is where a stack would write ({} such files or folders): choose another folder \
             with --data-dir",
            layout.data_dir.display(),
            first.display(),
            foreign.len()
        );
    }
    Ok(())
}

fn check_java() -> Result<()> {
    const HELP: &str = "Apache Kafka needs Java 17 or newer: run `make deps`, or install a Java runtime (Debian: apt-get install \
         openjdk-17-jre-headless) so that `java` is on the PATH";
    let Ok(output) = Command::new("java").arg("-version").output() else {
        bail!("no Java was found. {HELP}");
    };
    // openjdk version "17.0.15" 2025-04-15
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text
        .split('"')
        .nth(1)
        .and_then(|version| version.split(['.', '-', '+']).next())
        .and_then(|major| major.parse::<u32>().ok());
    match version {
        Some(version) if version >= JAVA_VERSION_MIN => Ok(()),
        Some(version) => bail!("Java {version} is too old. {HELP}"),
        None => bail!("`java -version` does not say its version. {HELP}"),
    }
}

fn check_ports(ports: &[(String, u16)]) -> Result<(), PortTaken> {
    for (component, port) in ports {
        if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
            return Err(PortTaken { port: *port, component: component.clone(), error });
        }
    }
    Ok(())
}

/// A password, created at the first start.
pub(crate) fn write_password(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let password = uuid::Uuid::new_v4().simple().to_string();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{password}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk is reported before anything is started, with how much is needed and what to do.
    #[test]
    fn a_full_disk_is_reported_with_the_way_out() {
        let folder = Path::new("/full/disk");
        let text = enough(FREE_BYTES_MIN - 1, folder).expect_err("too little").to_string();
        for part in ["511 MiB", "/full/disk", "512 MiB", "--data-dir"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(enough(FREE_BYTES_MIN, folder).is_ok());
    }

    /// A port in use has an error type of its own, and a message with its number and component.
    #[test]
    fn a_port_in_use_has_its_own_error() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let taken = check_ports(&[("kafka".to_owned(), port)]).expect_err("in use");
        assert_eq!((taken.port, taken.component.as_str()), (port, "kafka"));
        let text = anyhow::Error::from(taken).to_string();
        assert!(text.contains(&port.to_string()) && text.contains("--port-offset"), "{text}");
    }
}
