//! Programs are replaced while a stack serves: replica by replica, back and forth. What an earlier build does beside this one is
//! for `chaos/run.sh --scenario upgrade`; here both folders have this build.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use holdfast_chaos::rest::is_terminal;
use holdfast_e2e::{World, eventually, id};
use holdfast_native::layout::service_names;
use holdfast_testkit::stack::binary;
use serde_json::Value;

/// Copies of the programs in a folder of their own. They differ from the build's by a byte at their end, which nobody reads.
fn copies(folder: &Path) -> PathBuf {
    let own = binary();
    for service in service_names() {
        let name = format!("holdfast-{service}");
        let copy = folder.join(&name);
        fs::copy(own.with_file_name(&name), &copy).expect("copied");
        let mut file = OpenOptions::new().append(true).open(copy).expect("there");
        file.write_all(b"\n").expect("written");
    }
    folder.canonicalize().expect("there")
}

/// Programs that end at once.
fn broken(folder: &Path) -> PathBuf {
    for service in service_names() {
        let program = folder.join(format!("holdfast-{service}"));
        fs::write(&program, "#!/bin/sh\necho this build is broken\nexit 1\n").expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("allowed");
    }
    folder.to_owned()
}

async fn roll(world: &World, arguments: &[&str], programs: Option<&Path>) -> Output {
    let mut command = Command::new(binary());
    command.arg("roll").args(arguments).arg("--data-dir").arg(&world.stack.layout.data_dir);
    command.args(programs.iter().flat_map(|folder| ["--programs".as_ref(), folder.as_os_str()]));
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs")
}

/// The folder of the program that a component runs, as `holdfast status` tells.
async fn folder_of(world: &World, component: &str) -> PathBuf {
    let status = world.status().await;
    let program = status[component]["program"].as_str().expect("it runs");
    Path::new(program).parent().expect("in a folder").to_owned()
}

/// One replica gets other programs and keeps them over its death; a program that does not serve stops the roll, and the one before
/// is a command away; the stack works through all of it.
#[tokio::test(flavor = "multi_thread")]
async fn programs_are_replaced_and_rolled_back() {
    let world = World::with_two_order_replicas(&[]);
    let own = binary().parent().expect("in a folder").canonicalize().expect("there");
    let (other, bad) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (other, bad) = (copies(other.path()), broken(bad.path()));
    let user = world.user("upgrade", "1000.00").await;
    let an_order_is_delivered = async || {
        let order = id(&world.create(&user, "1 New Street", 100).await);
        eventually("an order is delivered", || async {
            is_terminal(&user.order(&order).await.expect("answered"))
        })
        .await;
    };

    let rolled = roll(&world, &["order-2"], Some(&other)).await;
    assert!(rolled.status.success(), "{rolled:?}");
    assert_eq!(folder_of(&world, "order-2").await, other);
    assert_eq!(folder_of(&world, "order").await, own);
    an_order_is_delivered().await;
    world.restart("order-2").await;
    assert_eq!(folder_of(&world, "order-2").await, other, "it is started again with the program that it had");

    let untouched = world.stack.pid("order");
    let stopped = roll(&world, &["order-2", "order"], Some(&bad)).await;
    let talk = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{talk}");
    for part in ["order-2 does not serve", "keep the program that they have: order", "this build is broken"] {
        assert!(talk.contains(part), "{part} in {talk}");
    }
    assert_eq!(world.stack.pid("order"), untouched);
    an_order_is_delivered().await;

    let back = roll(&world, &["order-2"], None).await;
    assert!(back.status.success(), "{back:?}");
    assert_eq!(folder_of(&world, "order-2").await, own);
    an_order_is_delivered().await;
    world.invariants_hold().await;
}

/// A small scenario of upgrades.
const SCENARIO: &str = r#"
about = "Order and payment are upgraded; a replica of order is rolled back and upgraded again."
control_seconds = 5
storm_seconds = 20
calm_seconds = 5
orders_per_second = 8.0
replicas = ["order=2"]
faults_min = 5

[[faults]]
action = "upgrade"
targets = ["order", "order-2", "payment"]

[[faults]]
action = "roll-back"
targets = ["order-2"]
"#;

fn run(scenario: &Path, from: &Path, report: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(["chaos", "run", "--seed", "7", "--scenario"]).arg(scenario);
    command.arg("--from").arg(from).arg("--report").arg(report);
    command.output().expect("it runs")
}

/// A chaos run begins with the programs of one folder and ends with those of the build; each replacement is seen by the file that the
/// new process runs. No invariant is violated.
#[test]
fn an_upgrade_is_judged() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("earlier")).expect("created");
    let earlier = copies(&path("earlier"));
    let own = binary().parent().expect("in a folder").canonicalize().expect("there");
    fs::write(path("upgrade.toml"), SCENARIO).expect("written");

    let same = run(&path("upgrade.toml"), &own, &path("same"));
    let talk = String::from_utf8_lossy(&same.stderr);
    assert!(!same.status.success() && talk.contains("is the one of this build"), "{talk}");

    let output = run(&path("upgrade.toml"), &earlier, &path("run"));
    let (words, talk) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = fs::read(path("run").join("report.json")).unwrap_or_else(|error| panic!("{error}: {talk}"));
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let faults = report["faults"].as_array().expect("a list");
    let mut seen = Vec::new();
    for fault in faults {
        let landed = fault["landed"].as_str().unwrap_or_else(|| panic!("{fault}"));
        let text = |field: &str| fault[field].as_str().expect("text");
        let (from, to) = if text("action") == "upgrade" { (&earlier, &own) } else { (&own, &earlier) };
        for (word, folder) in [("ran", from), ("runs", to)] {
            assert!(landed.contains(&format!("{word} {}/holdfast-", folder.display())), "{landed}");
        }
        seen.push((text("action"), text("target")));
    }
    assert_eq!(seen[3..], [("roll-back", "order-2"), ("upgrade", "order-2")]);
    let slow = report["judgement"]["unproven"].as_array().expect("a list").iter();
    let only_slow =
        slow.clone().all(|reason| reason.as_str().is_some_and(|reason| reason.contains("too slow")));
    match output.status.code() {
        Some(0) => {}
        Some(5) if only_slow => eprintln!("{words}"),
        other => panic!("ended with {other:?}\n{words}\n{talk}"),
    }
}
