//! Certificates of the database servers and of the broker: copied to where a server can read them, read by it without a restart, and
//! asked of the server itself.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
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
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use sqlx::PgConnection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    files::{self, Owner},
    kafka::{Broker, keystores},
    layout::{KAFKA, Layout, OPERATOR, Participant, Tls},
    link::Link,
    postgres::{cluster_dir, serves},
};

/// What a server with TLS has in its folder, and where it comes from. PostgreSQL reads its key only if no one else can, and its user
/// can't read ours, so it gets copies.
const CERTIFICATE_FILES: [(&str, &str); 4] =
    [("server.key", "tls.key"), ("server.crt", "tls.crt"), ("root.crt", "ca.crt"), ("root.crl", "ca.crl")];
/// There from before the first file of a new set is written until the server was told to read them: whoever finds it was
/// interrupted in between.
pub(crate) const UNREAD: &str = "certificates.unread";
/// A broker that can't be told is started again after this time. It reads its files then.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(20);

/// Copies the files of the server's identity if they have changed, and has the server read them. It refuses a set that does not fit
/// together and keeps what it has.
pub(crate) fn follow(layout: &Layout, participant: &Participant) -> Result<()> {
    if layout.database_tls() == Tls::Off {
        return Ok(());
    }
    let cluster = cluster_dir(layout, participant);
    if !copy(layout, participant)? && !cluster.join(UNREAD).exists() {
        return Ok(());
    }
    if let Some(pid) = postmaster(&cluster) {
        kill(pid, Signal::SIGHUP).context("cannot have the server read its new certificate")?;
    }
    are_read(&cluster)
}

/// Notes that the server with this folder has read its files.
pub(crate) fn are_read(folder: &Path) -> Result<()> {
    let unread = folder.join(UNREAD);
    match fs::remove_file(&unread) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", unread.display()))
        }
        _ => Ok(()),
    }
}

/// The same for the broker.
pub(crate) async fn follow_for_broker(layout: &Layout, broker: &Broker) -> Result<()> {
    if layout.kafka_tls() == Tls::Off {
        return Ok(());
    }
    let folder = layout.kafka_dir();
    if !copy_for_broker(layout)? && !folder.join(UNREAD).exists() {
        return Ok(());
    }
    broker.read_certificates().await?;
    are_read(&folder)
}

/// Whether the broker has had files to read for too long, and can't be told: its certificate has expired, or it does not trust ours any
/// more. One that is only slow, or away, will be told.
pub(crate) async fn are_overdue(layout: &Layout) -> bool {
    let since = fs::metadata(layout.kafka_dir().join(UNREAD)).and_then(|note| note.modified());
    let waited = since.ok().and_then(|since| SystemTime::now().duration_since(since).ok());
    waited.is_some_and(|waited| waited > UNREAD_TIME_MAX)
        && tokio::time::timeout(ANSWER_TIME_MAX, is_refused(layout)).await.unwrap_or(false)
}

/// Whether the broker and the operator do not trust each other.
async fn is_refused(layout: &Layout) -> bool {
    let ask = async {
        let stream = TcpStream::connect(("127.0.0.1", layout.kafka_port())).await?;
        let mut session = as_operator(layout, stream).await?;
        // A broker that takes our certificate says nothing before it is asked, and ends the time.
        session.read_u8().await?;
        Ok::<_, anyhow::Error>(())
    };
    let Err(error) = ask.await else { return false };
    let refused = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    let mut refused = refused.filter_map(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
    refused
        .any(|error| matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)))
}

/// Writes what the broker reads if the files of its identity have changed. Returns whether they have. A key that is not the
/// certificate's, as between the two writes of a rotation, is not taken.
pub(crate) fn copy_for_broker(layout: &Layout) -> Result<bool> {
    let mut changed = Vec::new();
    for (path, content) in keystores(layout).into_iter().zip(of_broker(layout)?) {
        if fs::read(&path).ok().as_ref() != Some(&content) {
            changed.push((path, content));
        }
    }
    let unread = layout.kafka_dir().join(UNREAD);
    // The time of the first file that it has not read is kept.
    if !changed.is_empty() && !unread.exists() {
        files::write(&unread, b"", Owner::Components)?;
    }
    for (path, content) in &changed {
        files::write(path, content, Owner::Components)?;
    }
    Ok(!changed.is_empty())
}

/// Key and certificate, and the authorities.
fn of_broker(layout: &Layout) -> Result<[Vec<u8>; 2]> {
    let folder = layout.pki_dir().join(KAFKA);
    let (key, certificate) = (fs::read(folder.join("tls.key"))?, fs::read(folder.join("tls.crt"))?);
    certified(&certificate, &key).context("the broker's key and certificate do not fit")?;
    Ok([[key, certificate].concat(), fs::read(folder.join("ca.crt"))?])
}

fn certified(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    Ok(CertifiedKey::from_der(chain, PrivateKeyDer::from_pem_slice(key)?, &aws_lc_rs::default_provider())?)
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
    Ok(is_copied(layout, participant)? && shows(leaf, ask_database(layout, participant)).await?)
}

/// The same of the broker. Each of its listeners reads its files by itself, some time after the broker was told to: one that is behind the
/// others would not take files that only fit those it has not read.
pub async fn are_used_by_broker(layout: &Layout, links: &[Link], leaf: &LeafStatus) -> Result<bool> {
    let copied: Vec<Vec<u8>> = keystores(layout).into_iter().map(fs::read).collect::<Result<_, _>>()?;
    if copied != of_broker(layout)? || layout.kafka_dir().join(UNREAD).exists() {
        return Ok(false);
    }
    let of_links = links.iter().filter(|link| link.to == KAFKA).map(|link| link.target);
    for port in [layout.kafka_port()].into_iter().chain(of_links) {
        let ask = async { ask(&layout.pki_dir(), TcpStream::connect((LOCALHOST, port)).await?).await };
        if !shows(leaf, ask).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn shows(leaf: &LeafStatus, ask: impl Future<Output = Result<Shown>>) -> Result<bool> {
    let shown = tokio::time::timeout(ANSWER_TIME_MAX, ask).await.context("no answer in time")??;
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

async fn ask_database(layout: &Layout, participant: &Participant) -> Result<Shown> {
    let mut stream = TcpStream::connect(("127.0.0.1", layout.database_port(participant))).await?;
    stream.write_all(&ENCRYPT).await?;
    if stream.read_u8().await? != b'S' {
        bail!("it has no TLS");
    }
    ask(&layout.pki_dir(), stream).await
}

async fn ask(pki: &Path, stream: TcpStream) -> Result<Shown> {
    let asked = Arc::new(Asked::default());
    let session = encrypted(trusted(pki)?, LOCALHOST, stream, asked.clone()).await?;
    let chain = session.get_ref().1.peer_certificates().unwrap_or_default();
    let serial = chain.first().and_then(|leaf| serial_of(leaf)).context("it shows no certificate")?;
    let mut trusts = asked.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    trusts.sort();
    Ok(Shown { serial, trusts })
}

/// How the stack's servers are reached.
const LOCALHOST: &str = "127.0.0.1";

/// A connection to a server on this machine on which the operator's certificate is shown.
pub(crate) async fn as_operator(layout: &Layout, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
    encrypted(trusted(&layout.pki_dir())?, LOCALHOST, stream, shown(&layout.pki_dir().join(OPERATOR))?).await
}

/// A connection to a server that is reached as `host` on which the certificate in `identity` is shown; its authorities are those of
/// `ca.crt` there.
pub(crate) async fn connect(identity: &Path, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
    let path = identity.join("ca.crt");
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&read(&path)?) {
        roots.add(authority.with_context(|| format!("{} is no certificate", path.display()))?)?;
    }
    encrypted(roots, host, stream, shown(identity)?).await
}

fn shown(identity: &Path) -> Result<Arc<dyn ResolvesClientCert>> {
    let (certificate, key) = (identity.join("tls.crt"), identity.join("tls.key"));
    let certified = certified(&read(&certificate)?, &read(&key)?)
        .with_context(|| format!("{} and {} do not fit", certificate.display(), key.display()))?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

async fn encrypted(
    roots: RootCertStore,
    host: &str,
    stream: TcpStream,
    shown: Arc<dyn ResolvesClientCert>,
) -> Result<TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(shown);
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no host"))?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
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
