//! Two gateways that share the limits of their clients in Redis, on a stack of its own: together they allow what one may, and no
//! request fails because Redis is killed or stalls.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use holdfast_chaos::{
    fault::Fault,
    rest::{Answer, Rest, Session},
};
use holdfast_e2e::{PATIENCE, World, eventually};
use holdfast_native::layout::Gateway;
use holdfast_testkit::stack::{TestStack, binary};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

const GATEWAYS: [&str; 2] = ["gateway", "gateway-2"];
const BURST: u64 = 20;

/// The stack, and a client of each gateway.
struct Shared {
    world: World,
    clients: [Rest; 2],
}

impl Shared {
    async fn start() -> Self {
        let environment = [
            // Requests are late on a starved machine, and that is not what is looked at here.
            ("HOLDFAST__GATEWAY__DEADLINE", "20s"),
            ("HOLDFAST__LIMITS__ENABLED", "true"),
            ("HOLDFAST__LIMITS__READS__PER_SECOND", "1000000"),
            ("HOLDFAST__LIMITS__READS__BURST", "1000000"),
            ("HOLDFAST__LIMITS__WRITES__PER_SECOND", "1"),
            ("HOLDFAST__LIMITS__WRITES__BURST", "20"),
        ];
        let start = move || TestStack::start_with_redis(&["gateway=2"], &environment);
        let stack: &TestStack =
            Box::leak(Box::new(tokio::task::spawn_blocking(start).await.expect("it starts")));
        let clients = [0, 1].map(|number| {
            let url = format!("http://127.0.0.1:{}", stack.layout.gateway_port(Gateway { number }));
            Rest::new(url, World::issuer(stack), 64)
        });
        Self { world: World::of(stack), clients }
    }

    /// A user's session with each gateway.
    fn user(&self, name: &str) -> [Session; 2] {
        [0, 1].map(|gateway| self.clients[gateway].user(name).expect("a token"))
    }

    /// Calls of Redis of both gateways that ended so.
    async fn calls(&self, outcome: &str) -> f64 {
        let label = format!("outcome=\"{outcome}\"");
        let mut sum = 0.0;
        for gateway in GATEWAYS {
            sum += self.world.metric(gateway, "holdfast_redis_calls_total", &[label.as_str()]).await;
        }
        sum
    }

    /// Decisions that a gateway made alone.
    async fn alone(&self) -> f64 {
        let mut sum = 0.0;
        for outcome in ["failed", "late", "away", "busy"] {
            sum += self.calls(outcome).await;
        }
        sum
    }

    async fn are_well(&self) {
        eventually("both gateways are well", || async {
            self.world.is_well(GATEWAYS[0]).await && self.world.is_well(GATEWAYS[1]).await
        })
        .await;
    }
}

fn header(answer: &Answer, name: &str) -> String {
    answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// See the file.
#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_limits_while_redis_is_there_and_serve_without_it() {
    let shared = Shared::start().await;
    shared.are_well().await;
    redis_is_a_component(&shared.world).await;
    two_gateways_allow_what_one_may(&shared).await;
    no_request_fails_with_redis(&shared).await;
}

/// `status` and `env` know it; its password is nobody else's to read, and where we are root it runs as somebody else.
async fn redis_is_a_component(world: &World) {
    let redis = world.status().await.remove("redis").expect("it is listed");
    assert_eq!((redis["kind"].as_str(), redis["state"].as_str()), (Some("redis"), Some("ready")));
    let folder = world.stack.layout.data_dir.join("config");
    for file in ["redis-password", "redis.conf"] {
        let mode = std::fs::metadata(folder.join(file)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let owner = |pid: u64| std::fs::metadata(format!("/proc/{pid}")).expect("it runs").uid();
    let runs_as = owner(redis["pid"].as_u64().expect("it runs"));
    let ours = owner(std::process::id().into());
    assert!(runs_as != 0 && (runs_as == ours || ours == 0), "it runs as {runs_as}, we as {ours}");

    let mut command = std::process::Command::new(binary());
    command.args(["env", "--data-dir"]).arg(&world.stack.layout.data_dir);
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let lines = String::from_utf8(output.stdout).expect("text");
    let port = redis["port"].as_u64().expect("a port");
    let url =
        lines.lines().find_map(|line| line.strip_prefix("export REDIS_URL=redis://:")).expect("it is listed");
    assert!(url.ends_with(&format!("@127.0.0.1:{port}")), "{url}");
}

/// Requests of one subject, to both gateways in turn: a burst passes, and what comes back meanwhile.
async fn two_gateways_allow_what_one_may(shared: &Shared) {
    let until = Instant::now() + PATIENCE;
    for attempt in 0.. {
        let alone = shared.alone().await;
        let sessions = shared.user(&format!("greedy-{attempt}"));
        let begin = Instant::now();
        let mut answers = Vec::new();
        for turn in 0..2 * usize::try_from(BURST).expect("small") {
            // Not an order, but counted as any write is, before it is looked at.
            answers.push(sessions[turn % 2].create_order(&json!({}), None).await.expect("answered"));
        }
        let came_back = begin.elapsed().as_secs() + 1;
        if shared.alone().await > alone {
            // A starved machine: an answer of Redis was late, so a gateway decided alone.
            assert!(Instant::now() < until, "Redis is late again and again");
            continue;
        }
        let (allowed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status != 429);
        assert!(allowed.iter().all(|answer| answer.status == 422), "{allowed:?}");
        let count = u64::try_from(allowed.len()).expect("few");
        assert!(
            (BURST..=BURST + came_back).contains(&count),
            "{count} were allowed in {:?}",
            begin.elapsed()
        );
        // The second gateway knows of the first one's request.
        let left = |answer: &Answer| header(answer, "ratelimit").split(';').nth(1).map(str::to_owned);
        assert_eq!(
            [left(&answers[0]), left(&answers[1])],
            [Some("r=19".to_owned()), Some("r=18".to_owned())]
        );
        for answer in refused {
            assert!(header(answer, "ratelimit").starts_with("\"writes\";r=0;t="), "{:?}", answer.headers);
            assert_eq!(header(answer, "retry-after"), "1");
        }
        break;
    }
}

/// Reads of several users at both gateways. Returns how many were answered, and what was no good answer. They are of an order that
/// can't be, which is counted like any read, and asks no service: only Redis could be the reason for a failure.
fn load(shared: &Shared, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<(usize, Vec<String>)>> {
    let worker = |session: Session| {
        let stop = stop.clone();
        tokio::spawn(async move {
            let (mut answered, mut failed) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match session.get("/api/orders/none").await {
                    Ok(answer) if answer.status == 404 && !header(&answer, "ratelimit").is_empty() => {
                        answered += 1;
                    }
                    Ok(answer) => failed.push(format!("{} {:?}", answer.status, answer.body)),
                    Err(error) => failed.push(format!("{error:#}")),
                }
                sleep(Duration::from_millis(5)).await;
            }
            (answered, failed)
        })
    };
    (0..4).flat_map(|number| shared.user(&format!("reader-{number}"))).map(worker).collect()
}

/// Redis is killed, and stalls for longer than anybody waits: every request is answered, the gateways say what is wrong, and share
/// their limits again afterwards.
async fn no_request_fails_with_redis(shared: &Shared) {
    let world = &shared.world;
    let stop = Arc::new(AtomicBool::new(false));
    let load = load(shared, &stop);
    eventually("Redis is asked", || async { shared.calls("answered").await > 0.0 }).await;

    let alone = shared.alone().await;
    world.restart("redis").await;
    eventually("they do without it", || async { shared.alone().await > alone }).await;
    shared.are_well().await;

    world.apply(Fault::Stall, "redis");
    let stalled = Instant::now();
    eventually("both say so, and serve", || async {
        let mut say_so = 0;
        for gateway in GATEWAYS {
            let (status, body) = world.readyz(gateway).await;
            assert_eq!(status, 200, "{body}");
            say_so += i32::from(body["degraded"] == true && body["components"]["redis"]["ready"] == false);
        }
        say_so == 2
    })
    .await;
    tokio::time::sleep_until(stalled + Duration::from_secs(5)).await;
    world.heal(Fault::Stall, "redis");
    shared.are_well().await;
    let answered = shared.calls("answered").await;
    eventually("they share again", || async { shared.calls("answered").await > answered }).await;

    stop.store(true, Ordering::Relaxed);
    for worker in load {
        let (answered, failed) = worker.await.expect("no panic");
        assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), failed.len() + answered);
        assert!(answered > 0);
    }
}
