//! Measures what Redis costs a request while it is there, paused and killed, beside a gateway without it. It takes a minute, so it
//! runs on request:
//!
//! ```console
//! $ cargo test --release -p holdfast-gateway --test redis -- --ignored --nocapture
//! ```
//!
//! Both gateways are processes of their own, without services behind them: `/healthz` needs none, and is counted like any request.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use holdfast_certs::{Pki, TokenIssuer};
use holdfast_testkit::redis::TestRedis;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, interval, sleep},
};

const CALL: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const PHASE: Duration = Duration::from_secs(12);
/// Each gateway gets a request this often.
const PACE: Duration = Duration::from_millis(5);

/// A gateway on ports of its own.
struct Gateway {
    _process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// Without an exempt address and with a limit that nobody reaches, so that each request is counted.
    async fn start(redis: Option<&TestRedis>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Pki::open_or_init(folder.path()).and_then(|pki| pki.ensure_leaf("gateway")).expect("issued");
        TokenIssuer::load_or_create(folder.path()).expect("created");
        let free =
            || std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let (address, admin) = (free(), free());
        let config = folder.path().join("gateway.toml");
        let section = redis.map(|redis| format!("[redis]\naddress = \"{}\"\n", redis.address()));
        let text = configuration(folder.path(), address, admin) + &section.unwrap_or_default();
        fs::write(&config, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-gateway"));
        command.arg("--config").arg(&config).kill_on_drop(true);
        if redis.is_some() {
            command.env("HOLDFAST__REDIS__PASSWORD", TestRedis::PASSWORD);
        }
        let gateway = Self { _process: command.spawn().expect("started"), address, _folder: folder };
        for attempt in 0.. {
            if TcpStream::connect(address).await.is_ok() {
                break;
            }
            assert!(attempt < 600, "it does not listen");
            sleep(Duration::from_millis(100)).await;
        }
        gateway
    }

    async fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address).await.expect("connected");
        connection.set_nodelay(true).expect("set");
        connection
    }
}

fn configuration(pki: &Path, address: SocketAddr, admin: SocketAddr) -> String {
    let (jwks, identity) = (pki.join("jwks.json"), pki.join("gateway"));
    let file = |name: &str| identity.join(name).display().to_string();
    let upstreams = ["order", "payment", "delivery"]
        .map(|name| format!("[upstream.{name}]\naddress = \"127.0.0.1:1\"\nname = \"{name}\"\n"))
        .concat();
    format!(
        "[service]\nadmin_listen = \"{admin}\"\nlog = \"off\"\n[identity]\ncertificate = \"{}\"\nkey = \"{}\"\n\
         trust_bundle = \"{}\"\n[gateway]\nlisten = \"{address}\"\n[auth]\njwks_file = \"{}\"\n[limits]\nexempt = []\n\
         [limits.address]\nper_second = 1000000\nburst = 1000000\n{upstreams}",
        file("tls.crt"),
        file("tls.key"),
        file("ca.crt"),
        jwks.display(),
    )
}

async fn call(connection: &mut TcpStream) -> Duration {
    let begin = Instant::now();
    connection.write_all(CALL).await.expect("sent");
    let mut answer = [0; 1024];
    let read = connection.read(&mut answer).await.expect("answered");
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..read]));
    begin.elapsed()
}

/// Requests to both gateways in turn, so that whatever else the machine does meets both alike. Returns a line with the times of each.
async fn measure(phase: &str, without: &mut TcpStream, with: &mut TcpStream) -> String {
    let mut tick = interval(PACE);
    let (begin, mut times) = (Instant::now(), [Vec::new(), Vec::new()]);
    while begin.elapsed() < PHASE {
        tick.tick().await;
        times[0].push(call(without).await);
        times[1].push(call(with).await);
    }
    let [without, with] = times.map(|mut times| {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 1_000].as_secs_f64() * 1_000.0;
        format!("p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.2} ms", at(500), at(990), at(999), at(1_000))
    });
    format!("{phase:>16} | without Redis: {without} | with: {with}")
}

/// See the module.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for a minute; see the module"]
async fn what_redis_costs_a_request() {
    let mut redis = TestRedis::start();
    let (without, with) = (Gateway::start(None).await, Gateway::start(Some(&redis)).await);
    let (mut without, mut with) = (without.connect().await, with.connect().await);
    sleep(Duration::from_secs(2)).await;
    println!("{}", measure("up", &mut without, &mut with).await);
    let pause = async {
        sleep(Duration::from_secs(1)).await;
        redis.pause();
    };
    println!("{}", tokio::join!(measure("paused after 1 s", &mut without, &mut with), pause).0);
    redis.resume();
    println!("{}", measure("resumed", &mut without, &mut with).await);
    let kill = async {
        sleep(Duration::from_secs(1)).await;
        redis.kill();
    };
    println!("{}", tokio::join!(measure("killed after 1 s", &mut without, &mut with), kill).0);
    redis.start_again();
    println!("{}", measure("started again", &mut without, &mut with).await);
}
