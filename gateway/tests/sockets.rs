//! Measures the gateway's port while thousands of sockets are idle, slow or never read. It takes minutes, so it runs on request:
//!
//! ```console
//! $ cargo test --release -p holdfast-gateway --test sockets -- --ignored --nocapture --test-threads 1
//! ```
//!
//! The gateway is a process of its own, without services behind it: `/healthz` needs none.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast_certs::{Pki, TokenIssuer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

const CALL: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const IDLE: usize = 10_000;
const SLOW: usize = 1_000;
const CONTROL_PHASE: Duration = Duration::from_secs(30);
const PHASE: Duration = Duration::from_secs(60);
/// Fewer than the cap per address.
const SOCKETS_PER_ADDRESS: usize = 200;

/// The index of those that behave: an address of their own.
const OTHERS: usize = SOCKETS_PER_ADDRESS * 200;

/// A gateway on ports of its own.
struct Gateway {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Gateway {
    async fn start() -> Self {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("asked");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
        let folder = tempfile::tempdir().expect("a folder");
        Pki::open_or_init(folder.path()).and_then(|pki| pki.ensure_leaf("gateway")).expect("issued");
        TokenIssuer::load_or_create(folder.path()).expect("created");
        let free =
            || std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let (address, admin) = (free(), free());
        let config = folder.path().join("gateway.toml");
        fs::write(&config, configuration(folder.path(), address, admin)).expect("written");
        let process = Command::new(env!("CARGO_BIN_EXE_holdfast-gateway"))
            .arg("--config")
            .arg(&config)
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let gateway = Self { process, address, _folder: folder };
        for attempt in 0.. {
            if TcpStream::connect(address).await.is_ok() {
                break;
            }
            assert!(attempt < 600, "it does not listen");
            sleep(Duration::from_millis(100)).await;
        }
        gateway
    }

    /// Resident memory.
    fn megabytes(&self) -> u64 {
        let pid = self.process.id().expect("it runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }

    /// A connection from one of the loopback's many addresses.
    async fn connect(&self, index: usize) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        let host = u8::try_from(2 + index / SOCKETS_PER_ADDRESS).expect("few enough");
        socket.bind((Ipv4Addr::new(127, 0, 7, host), 0).into())?;
        timeout(Duration::from_secs(10), socket.connect(self.address)).await?
    }

    /// Calls 50 times a second, on a kept connection and on a new one in turn, and returns the worst of a hundred in milliseconds.
    /// A call's time counts from when it was due.
    async fn p99_ms(&self, phase: Duration) -> f64 {
        let mut kept = self.connect(OTHERS).await.expect("connected");
        let mut tick = interval(Duration::from_millis(20));
        let (begin, mut times) = (Instant::now(), Vec::new());
        for turn in 0.. {
            let due = tick.tick().await;
            if begin.elapsed() > phase {
                break;
            }
            if turn % 2 == 0 {
                call(&mut kept).await;
            } else {
                call(&mut self.connect(OTHERS).await.expect("connected")).await;
            }
            times.push(due.elapsed());
        }
        times.sort_unstable();
        times[times.len() * 99 / 100].as_secs_f64() * 1_000.0
    }
}

fn configuration(pki: &Path, address: SocketAddr, admin: SocketAddr) -> String {
    let (jwks, identity) = (pki.join("jwks.json"), pki.join("gateway"));
    let file = |name: &str| identity.join(name).display().to_string();
    let upstreams = ["order", "payment", "delivery"]
        .map(|name| format!("[upstream.{name}]\naddress = \"127.0.0.1:1\"\nname = \"{name}\"\n"))
        .concat();
    format!(
        "[service]\nadmin_listen = \"{admin}\"\nlog = \"error\"\n[identity]\ncertificate = \"{}\"\nkey = \"{}\"\n\
         trust_bundle = \"{}\"\n[gateway]\nlisten = \"{address}\"\n[gateway.sockets]\nconnections_max = 12000\n\
         [auth]\njwks_file = \"{}\"\n{upstreams}",
        file("tls.crt"),
        file("tls.key"),
        file("ca.crt"),
        jwks.display(),
    )
}

async fn call(connection: &mut TcpStream) {
    connection.write_all(CALL).await.expect("sent");
    let mut answer = [0; 1024];
    let read = connection.read(&mut answer).await.expect("answered");
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..read]));
}

/// Trickles a head, again and again, and notes how long the longest of them lived.
async fn trickle(gateway: Arc<Gateway>, index: usize, stop: Arc<AtomicBool>, longest_ms: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut slow) = gateway.connect(index).await else { continue };
        if slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await.is_err() {
            continue;
        }
        let begin = Instant::now();
        let mut answer = [0; 512];
        // It ends with an answer or a reset.
        while timeout(Duration::from_millis(500), slow.read(&mut answer)).await.is_err() {
            let _ = slow.write_all(b"x").await;
        }
        let lived = u64::try_from(begin.elapsed().as_millis()).expect("short");
        longest_ms.fetch_max(lived, Ordering::Relaxed);
    }
}

/// Ten thousand idle and a thousand slow sockets do not make others wait more than twice as long, and cost little memory; heads that
/// stall are ended in time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for two minutes; see the module"]
async fn thousands_of_sockets_disturb_nobody() {
    let gateway = Arc::new(Gateway::start().await);
    let before = gateway.megabytes();
    let control = gateway.p99_ms(CONTROL_PHASE).await;
    let mut idle = Vec::new();
    for index in 0..IDLE {
        let mut connection = gateway.connect(index).await.expect("connected");
        // Half of them have made a request, as those of a client's pool have.
        if index % 2 == 0 {
            call(&mut connection).await;
        }
        idle.push(connection);
    }
    let (stop, longest_ms) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut slow = JoinSet::new();
    for index in IDLE..IDLE + SLOW {
        slow.spawn(trickle(gateway.clone(), index, stop.clone(), longest_ms.clone()));
    }
    sleep(Duration::from_secs(6)).await;
    let (loaded, after) = (gateway.p99_ms(PHASE).await, gateway.megabytes());
    stop.store(true, Ordering::Relaxed);
    while slow.join_next().await.is_some() {}
    let longest_s = Duration::from_millis(longest_ms.load(Ordering::Relaxed)).as_secs_f64();
    println!(
        "p99 {control:.1} ms before, {loaded:.1} ms beside {IDLE} idle and {SLOW} slow sockets; memory {before} -> {after} MB; \
         the longest head lived {longest_s:.1} s"
    );
    assert!(loaded <= control * 2.0, "p99 {control:.1} -> {loaded:.1} ms");
    assert!(after <= before + 128, "{before} -> {after} MB");
    assert!(longest_s <= 6.0, "{longest_s} s");
}

/// Sockets that ask a lot and read nothing are closed after 10 s without progress, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for a minute; see the module"]
async fn sockets_that_never_read_are_closed() {
    const SOCKETS: usize = 1_000;
    let gateway = Arc::new(Gateway::start().await);
    let control = gateway.p99_ms(Duration::from_secs(15)).await;
    let (closed, longest_ms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let mut greedy = JoinSet::new();
    for index in 0..SOCKETS {
        let mut connection = narrow(index, gateway.address).await;
        let (closed, longest_ms) = (closed.clone(), longest_ms.clone());
        greedy.spawn(async move {
            let begin = Instant::now();
            // Ends when the connection is reset: it is never read.
            while connection.write_all(&CALL.repeat(100)).await.is_ok() {}
            closed.fetch_add(1, Ordering::Relaxed);
            longest_ms
                .fetch_max(u64::try_from(begin.elapsed().as_millis()).expect("short"), Ordering::Relaxed);
        });
    }
    let loaded = gateway.p99_ms(Duration::from_secs(30)).await;
    let (closed, longest_ms) = (closed.load(Ordering::Relaxed), longest_ms.load(Ordering::Relaxed));
    println!(
        "{closed} of {SOCKETS} sockets that never read were closed, the last after {:.1} s; p99 of others {control:.1} -> {loaded:.1} ms",
        Duration::from_millis(longest_ms).as_secs_f64()
    );
    assert_eq!(closed, SOCKETS);
}

/// A connection that can take in very little.
async fn narrow(index: usize, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.set_recv_buffer_size(2_048).expect("set");
    socket.set_nonblocking(true).expect("set");
    let host = u8::try_from(2 + index / SOCKETS_PER_ADDRESS).expect("few enough");
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 8, host), 0)).into()).expect("bound");
    TcpSocket::from_std_stream(socket.into()).connect(address).await.expect("connected")
}
