//! The boards of `deploy/grafana`, asked of a real Prometheus that reads a stack with orders: each expression has an answer.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use holdfast_chaos::rest::Rest;
use holdfast_e2e::{PATIENCE, World, id, skipped};
use holdfast_native::layout::{Scope, service_names};
use holdfast_testkit::stack::TestStack;
use serde_json::{Value, json};

/// Killed at the end, also of a test that fails.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every expression of every board, with what Grafana would put in for its variables.
fn expressions() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana");
    let mut expressions = Vec::new();
    for entry in fs::read_dir(folder).expect("boards") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("text");
        let board: Value = serde_json::from_str(&text).expect("JSON");
        for panel in board["panels"].as_array().expect("panels") {
            for key in ["title", "description"] {
                assert!(panel[key].as_str().is_some_and(|text| !text.is_empty()), "{panel}: {key}");
            }
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{panel}: unit");
            for target in panel["targets"].as_array().expect("targets") {
                let expression = target["expr"].as_str().expect("text");
                for variable in ["job=~\"$job\"", "instance=~\"$instance\""] {
                    assert!(expression.contains(variable), "{expression}: {variable}");
                }
                let asked = expression
                    .replace("$__rate_interval", "15s")
                    .replace("$job", ".+")
                    .replace("$instance", ".+");
                let name = format!("{} / {}", board["title"], panel["title"]);
                expressions.push((name, asked));
            }
        }
    }
    assert!(expressions.len() > 40);
    expressions
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).fold(String::new(), |text, byte| text + &byte)
}

async fn ask(rest: &Rest, base: &str, expression: &str) -> Result<Vec<Value>, String> {
    let url = format!("{base}/api/v1/query?query={}", encoded(expression));
    let answer = holdfast_chaos::admin::page(rest, &url, "").await.map_err(|error| error.to_string())?;
    let body = answer.json();
    if body["status"] != json!("success") {
        return Err(body.to_string());
    }
    Ok(body["data"]["result"].as_array().cloned().unwrap_or_default())
}

fn is_number(sample: &Value) -> bool {
    sample["value"][1].as_str().and_then(|text| text.parse::<f64>().ok()).is_some_and(f64::is_finite)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_has_data() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let found = Command::new("scripts/prometheus.sh")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .expect("it runs");
    if found.status.code() == Some(3) {
        return skipped("the boards are not asked of a Prometheus: there is none, see above");
    }
    assert!(found.status.success());
    let programs = String::from_utf8(found.stdout).expect("a path");

    let stack: &'static TestStack = Box::leak(Box::new(TestStack::start(
        Scope::Everything,
        &[],
        &[("HOLDFAST__DELIVERY__STEP", "50ms")],
    )));
    let world = World::of(stack);
    let folder = tempfile::tempdir().expect("a folder");
    let jobs = service_names().map(|name| {
        let port = stack.layout.component_admin_port(name).expect("a service has one");
        json!({ "job_name": name, "static_configs": [{ "targets": [format!("127.0.0.1:{port}")] }] })
    });
    let config = json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "scrape_configs": jobs.collect::<Vec<_>>(),
    });
    // JSON is YAML.
    fs::write(folder.path().join("prometheus.yml"), config.to_string()).expect("written");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a port")
        .port();
    let mut command = Command::new(format!("{}/prometheus", programs.trim()));
    command
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.path().join("log")).expect("a file"));
    let _prometheus = Prometheus(command.spawn().expect("it starts"));
    let base = format!("http://127.0.0.1:{port}");

    let session = world.user("seen", "100000.00").await;
    let mut open = expressions();
    let until = tokio::time::Instant::now() + PATIENCE;
    // Until each has had an answer, orders go on: the rate of what has stopped is nothing.
    loop {
        let order_id = id(&world.create(&session, "1 Board Street", 300).await);
        session.order(&order_id).await.expect("it is there");
        let mut still = Vec::new();
        for (name, expression) in open {
            match ask(&world.rest, &base, &expression).await {
                Ok(samples) if samples.iter().any(is_number) => {}
                Err(error) if error.contains("bad_data") => panic!("{name}: {expression}: {error}"),
                Ok(_) | Err(_) => still.push((name, expression)),
            }
        }
        if still.is_empty() {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "nothing came for {still:#?}");
        open = still;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
