//! Certificates of the database servers: copied to where a server can read them, read by it without a restart, and asked of the
//! server itself.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use holdfast_certs::{LeafStatus, authority_name, decimal_serial, serial_of};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustls::{
    ClientConfig, RootCertStore, SignatureScheme,
    client::ResolvesClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    sign::CertifiedKey,
    version::TLS13,
};
use sqlx::PgConnection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    files::{self, Owner},
    layout::{DatabaseTls, Layout, Participant},
    postgres::{cluster_dir, serves},
};

/// What a server with TLS has in its folder, and where it comes from. PostgreSQL reads its key only if no one else can, and its user
/// can't read ours, so it gets copies.
const CERTIFICATE_FILES: [(&str, &str); 4] =
    [("server.key", "tls.key"), ("server.crt", "tls.crt"), ("root.crt", "ca.crt"), ("root.crl", "ca.crl")];
/// There from before the first file of a new set is written until the server was told to read them: whoever finds it was
/// interrupted in between.
const UNREAD: &str = "certificates.unread";

/// Copies the files of the server's identity if they have changed, and has the server read them. It refuses a set that does not fit
/// together and keeps what it has.
pub(crate) fn follow(layout: &Layout, participant: &Participant) -> Result<()> {
    if layout.database_tls() == DatabaseTls::Off {
        return Ok(());
    }
    let cluster = cluster_dir(layout, participant);
    let unread = cluster.join(UNREAD);
    if !copy(layout, participant)? && !unread.exists() {
        return Ok(());
    }
    if let Some(pid) = postmaster(&cluster) {
        kill(pid, Signal::SIGHUP).context("cannot have the server read its new certificate")?;
    }
    fs::remove_file(&unread).with_context(|| format!("cannot delete {}", unread.display()))
}

/// Returns whether anything has changed.
pub(crate) fn copy(layout: &Layout, participant: &Participant) -> Result<bool> {
    let (cluster, source) = (cluster_dir(layout, participant), layout.pki_dir().join(participant.server));
    let mut changed = Vec::new();
    for (name, from) in CERTIFICATE_FILES {
        let from = source.join(from);
        let content = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        let path = cluster.join(name);
        if fs::read(&path).ok().as_ref() != Some(&content) {
            changed.push((path, content));
        }
    }
    if !changed.is_empty() {
        files::write(&cluster.join(UNREAD), b"", Owner::Components)?;
    }
    for (path, content) in &changed {
        files::write(path, content, Owner::Components)?;
    }
    Ok(!changed.is_empty())
}

/// The process of a running server, which notes it down.
fn postmaster(cluster: &Path) -> Option<Pid> {
    let note = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let pid: u32 = note.lines().next()?.trim().parse().ok()?;
    // It may be the note of a server that was killed, and the process somebody else's.
    let pid = Some(pid).filter(|pid| serves(*pid, cluster))?;
    i32::try_from(pid).ok().map(Pid::from_raw)
}

/// Ends open connections whose certificate is on the deny list: the server itself looks at it only when a connection begins.
pub(crate) async fn end_revoked(
    connection: &mut PgConnection,
    layout: &Layout,
    participant: &Participant,
) -> Result<()> {
    let list = fs::read_to_string(layout.pki_dir().join(participant.server).join("revoked"))?;
    let serials = list.lines().filter_map(|line| line.split_whitespace().next());
    let serials: Vec<String> = serials.filter_map(decimal_serial).collect();
    if serials.is_empty() {
        return Ok(());
    }
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_ssl where client_serial::text = any($1)")
        .bind(serials)
        .execute(connection)
        .await?;
    Ok(())
}

const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// Whether a running server uses the files of its identity, as the server itself shows them: its own certificate, and the names of
/// those whose certificates it accepts.
pub async fn are_used(layout: &Layout, participant: &Participant, leaf: &LeafStatus) -> Result<bool> {
    // What it refuses can't be seen from outside.
    if !is_copied(layout, participant)? {
        return Ok(false);
    }
    let shown = tokio::time::timeout(ANSWER_TIME_MAX, ask(layout, participant))
        .await
        .context("no answer in time")??;
    let mut wanted = leaf.trusts.clone();
    wanted.sort();
    Ok(shown.serial == leaf.serial && shown.trusts == wanted)
}

fn is_copied(layout: &Layout, participant: &Participant) -> Result<bool> {
    let (cluster, source) = (cluster_dir(layout, participant), layout.pki_dir().join(participant.server));
    // A server with a disk of its own, as in chaos runs: nobody but it and its supervisor sees the folder.
    if !cluster.join("PG_VERSION").exists() {
        return Ok(true);
    }
    if cluster.join(UNREAD).exists() {
        return Ok(false);
    }
    for (name, from) in CERTIFICATE_FILES {
        if fs::read(cluster.join(name))? != fs::read(source.join(from))? {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Shown {
    serial: String,
    /// Sorted.
    trusts: Vec<String>,
}

/// What opens a connection that is to be encrypted, in the protocol of PostgreSQL.
const ENCRYPT: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

async fn ask(layout: &Layout, participant: &Participant) -> Result<Shown> {
    let asked = Arc::new(Asked::default());
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(trusted(&layout.pki_dir())?)
        .with_client_cert_resolver(asked.clone());
    let mut stream = TcpStream::connect(("127.0.0.1", layout.database_port(participant))).await?;
    stream.write_all(&ENCRYPT).await?;
    if stream.read_u8().await? != b'S' {
        bail!("it has no TLS");
    }
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let session = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let chain = session.get_ref().1.peer_certificates().unwrap_or_default();
    let serial = chain.first().and_then(|leaf| serial_of(leaf)).context("it shows no certificate")?;
    let mut trusts = asked.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    trusts.sort();
    Ok(Shown { serial, trusts })
}

/// Those of now, and the next one of a rotation.
fn trusted(pki: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for file in ["ca.crt", "ca.next.crt"] {
        match fs::read(pki.join(file)) {
            Ok(text) => roots.add(CertificateDer::from_pem_slice(&text)?)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(roots)
}

/// Shows no certificate, and remembers of which authorities the server would have accepted one.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<String>>);

impl ResolvesClientCert for Asked {
    fn resolve(&self, authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let names = authorities.iter().filter_map(|name| authority_name(name)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = names;
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
