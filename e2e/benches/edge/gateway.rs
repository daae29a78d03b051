//! The gateway that is attacked: a process of its own beside a stack, with settings of its own, so that loopback addresses are limited
//! like others and nobody starts it again when it is stopped.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use holdfast_chaos::process;
use holdfast_native::layout::{Layout, PARTICIPANTS, Replica};
use holdfast_testkit::stack::binary;
use tokio::{
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
    time::{sleep, timeout},
};

/// Longer than any limit of the gateway that answers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A process that serves HTTP.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    _folder: Option<tempfile::TempDir>,
}

/// Loopback addresses are limited like others.
pub(crate) const SHIPPED: &str = "[limits]\nexempt = []\n";
/// The same with room for thousands of connections.
pub(crate) const WIDE: &str = "[limits]\nexempt = []\n[gateway.sockets]\nconnections_max = 14000\n";
/// As many clients behind one proxy see it: no limits per address, and those per subject as shipped.
pub(crate) const BEHIND_A_PROXY: &str = "[limits]\nexempt = [\"127.0.0.0/8\"]\n";
/// Limits that are looked at, and never reached.
pub(crate) const GENEROUS: &str = "[limits.address]\nper_second = 1000000\nburst = 1000000\n\
     [limits.reads]\nper_second = 1000000\nburst = 1000000\n[limits.writes]\nper_second = 1000000\nburst = 1000000\n";

impl Server {
    /// A gateway in front of the services of a stack.
    pub(crate) async fn gateway(stack: &Layout, settings: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (address, admin) = (free_port()?, free_port()?);
        let config = folder.path().join("gateway.toml");
        fs::write(&config, configuration(stack, address, admin, settings))?;
        let program = binary().with_file_name("holdfast-gateway");
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).env("HOLDFAST__SERVICE__LOG", "error");
        let server = Self { process: spawn(command)?, address, _folder: Some(folder) };
        server.listens().await?;
        // It serves when it has heard of its services.
        sleep(Duration::from_millis(1_500)).await;
        Ok(server)
    }

    /// This program again, as a bare handler that answers with `body_bytes`.
    pub(crate) async fn bare(body_bytes: usize) -> Result<Self> {
        let address = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve-bare", &address.to_string(), &body_bytes.to_string()]);
        let server = Self { process: spawn(command)?, address, _folder: None };
        server.listens().await?;
        Ok(server)
    }

    async fn listens(&self) -> Result<()> {
        for _ in 0..600 {
            if TcpStream::connect(self.address).await.is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("nobody listens on {}", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }

    /// User and system time, and memory.
    pub(crate) fn usage(&self) -> Result<process::Usage> {
        let itself = process::Process { name: "gateway".to_owned(), is_service: true, pid: self.pid() };
        process::usage(&[itself])?.remove("gateway").context("it runs")
    }

    /// Its share of the memory.
    pub(crate) fn megabytes(&self) -> u64 {
        self.usage().map_or(0, |usage| usage.memory_bytes / 1_000_000)
    }

    /// A connection from this address of the loopback.
    pub(crate) async fn connect(&self, from: Ipv4Addr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // Many connections may leave from one address in a minute.
        socket.set_reuseaddr(true)?;
        socket.bind((from, 0).into())?;
        let stream = timeout(PATIENCE, socket.connect(self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn spawn(mut command: Command) -> Result<Child> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn()?)
}

fn free_port() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn configuration(stack: &Layout, address: SocketAddr, admin: SocketAddr, settings: &str) -> String {
    let pki = stack.pki_dir();
    let file = |path: &Path| path.display().to_string();
    let identity = |name: &str| file(&pki.join("gateway").join(name));
    let upstreams: Vec<_> = PARTICIPANTS
        .iter()
        .map(|participant| {
            let (name, port) = (participant.name, stack.grpc_port(Replica { participant, number: 0 }));
            format!("[upstream.{name}]\naddress = \"127.0.0.1:{port}\"\nname = \"{name}\"\n")
        })
        .collect();
    let upstreams = upstreams.concat();
    format!(
        "[service]\nadmin_listen = \"{admin}\"\n[identity]\ncertificate = \"{}\"\nkey = \"{}\"\ntrust_bundle = \"{}\"\n\
         [gateway]\nlisten = \"{address}\"\n[auth]\njwks_file = \"{}\"\n{upstreams}{settings}",
        identity("tls.crt"),
        identity("tls.key"),
        identity("ca.crt"),
        file(&pki.join("jwks.json")),
    )
}
