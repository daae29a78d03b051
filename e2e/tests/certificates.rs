//! Certificates of a running stack: renewed, replaced together with their authority, broken and revoked, under load.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use holdfast_chaos::{
    load::{Plan, open_loop},
    rest::Session,
};
use holdfast_common::{
    client::{self, CallsConfig, DestinationConfig},
    config::IdentityConfig,
    deadline::Deadline,
    identity::Identity,
};
use holdfast_e2e::{World, eventually};
use holdfast_native::layout::Replicas;
use holdfast_testkit::stack::binary;
use tokio::{sync::Mutex, time::Instant};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn certs(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("certs").args(arguments).arg("--data-dir").arg(&world.stack.layout.data_dir);
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("holdfast runs")
}

async fn certs_done(world: &World, arguments: &[&str]) {
    let output = certs(world, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// How long the load of the rotation test lasts; `HOLDFAST_ROTATION_SECONDS=120` for the figure of the measurements.
fn rotation_time() -> Duration {
    let seconds = std::env::var("HOLDFAST_ROTATION_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(25))
}

/// A hundred requests per second to each of the three services in turn, for `time` or as long as it takes: two at a
/// time, so that a slow machine takes longer and is not overloaded. Returns how many there were and those that failed.
async fn load(user: &Session, time: Duration) -> (usize, Vec<String>) {
    let plan = Plan { rate: 100.0, requests: 100 * time.as_secs(), clients: 2 };
    let user = user.clone();
    let answers = open_loop(plan, move |number, _| {
        let user = user.clone();
        async move {
            let (path, expected) = match number % 3 {
                0 => ("/api/orders".to_owned(), 200),
                1 => (format!("/api/accounts/{}", user.user), 200),
                _ => ("/api/orders/01890a5d-ac96-774b-bcce-b302099a8057/delivery".to_owned(), 404),
            };
            match user.get(&path).await {
                Ok(answer) if answer.status == expected => None,
                Ok(answer) => Some(format!("request {number}: {}", answer.json())),
                Err(error) => Some(format!("request {number}: {error:#}")),
            }
        }
    })
    .await;
    (answers.len(), answers.into_iter().flatten().collect())
}

/// Every certificate is renewed every five seconds, and once the authority is replaced, under 100 requests per second:
/// no request fails.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_under_load_fails_no_request() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&[]);
    let user = world.user("rotation", "10.00").await;
    let time = rotation_time();
    let rotation = async {
        let begin = Instant::now();
        let mut rotations = 0;
        while rotations < 2 || begin.elapsed() + Duration::from_secs(5) < time {
            let authority = rotations == 1;
            let action: &[&str] = if authority { &["rotate", "--ca", "--yes"] } else { &["rotate"] };
            certs_done(&world, action).await;
            rotations += 1;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        rotations
    };
    let ((requests, failed), rotations) = tokio::join!(load(&user, time), rotation);
    println!("{requests} requests, {rotations} rotations");
    assert!(failed.is_empty(), "{} of {requests} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);
}

/// A broken rotation leaves the old certificate in use, and metric, log and `certs status` say so; the next good one is
/// taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_rotation_is_reported_and_survived() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&[]);
    let user = world.user("broken", "10.00").await;
    let path = format!("/api/accounts/{}", user.user);
    let certificate = world.stack.layout.pki_dir().join("payment/tls.crt");
    let good = fs::read(&certificate).expect("there");
    let failures = || world.metric("payment", "holdfast_certificate_reload_failures_total", &[]);
    let before = failures().await;
    fs::write(&certificate, &good[..good.len() / 2]).expect("written");
    eventually("the metric says so", || async { failures().await > before }).await;
    let log = fs::read_to_string(world.stack.layout.log_file("payment")).expect("a log");
    assert!(log.contains("new files refused, the old ones stay in use"), "the log says so");
    assert!(
        world.metric("payment", "holdfast_certificate_not_after_timestamp_seconds", &[]).await > 1e9,
        "the old one is in use"
    );
    assert_eq!(user.get(&path).await.expect("answered").status, 200);
    assert!(!certs(&world, &["status"]).await.status.success(), "certs status says so");
    let reload = || async { world.readyz("payment").await.1["components"]["certificate-reload"].clone() };
    eventually("readiness says so", || async {
        reload().await["detail"].as_str().is_some_and(|detail| detail.contains("tls"))
    })
    .await;
    assert_eq!(world.readyz("payment").await.0, 200, "it can serve");
    assert!(world.metric("payment", "holdfast_component_degraded", &["certificate-reload"]).await > 0.5);
    fs::write(&certificate, &good).expect("written");
    certs_done(&world, &["rotate", "payment"]).await;
    certs_done(&world, &["status"]).await;
    eventually("readiness says that it is repaired", || async { reload().await["ready"] == true }).await;
    assert_eq!(user.get(&path).await.expect("answered").status, 200);
}

/// A revoked certificate is refused by every service within 60 s, on open connections too.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_within_a_minute() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&[]);
    let folder = world.stack.layout.pki_dir().join("operator");
    // Loaded before, as a thief would have it; it never reloads.
    let stolen = Identity::load(IdentityConfig { deny_list: None, ..IdentityConfig::in_folder(&folder) })
        .expect("issued at the start");
    let mut replicas = Replicas::default();
    replicas.set("order=2").expect("as this stack has them");
    let mut open = Vec::new();
    for replica in replicas.all() {
        let address = format!("127.0.0.1:{}", world.stack.layout.grpc_port(replica));
        let name = replica.participant.name.to_owned();
        let config = DestinationConfig { address, name, calls: CallsConfig::default() };
        let destination = client::destination(&config, &stolen, |_, _| false).expect("an address");
        open.push(HealthClient::new(destination));
    }
    let ask = async |client: &HealthClient<_>| {
        let request = Deadline::after(Duration::from_secs(2)).request(HealthCheckRequest::default());
        client.clone().check(request.expect("time is left")).await
    };
    for client in &open {
        ask(client).await.expect("served before");
    }
    let begin = Instant::now();
    certs_done(&world, &["revoke", "operator", "--reason", "test", "--yes"]).await;
    for client in &open {
        while ask(client).await.is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(60), "still served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ask(client).await.expect_err("for good");
    }
    println!("refused by all after {:?}", begin.elapsed());
    assert_eq!(world.readyz("gateway").await.0, 200, "nobody else is affected");
}
