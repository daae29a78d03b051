//! The runbook of dead letters, literally: each of its command lines is typed on a terminal of 80 columns, in its order, for a value that
//! is no event and for a record without key and headers.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, sync::OnceLock};

use holdfast_chaos::{fault::process::Stopped, rest::is_terminal};
use holdfast_e2e::{
    PATIENCE, World,
    events::created,
    eventually, id,
    terminal::{COLUMNS, Shown, Terminal},
};
use holdfast_native::layout::Scope;
use holdfast_testkit::stack::{TestStack, binary};
use prost::Message as _;
use rdkafka::producer::FutureRecord;
use tokio::sync::Mutex;
use uuid::Uuid;

/// One test stops what the other one works with.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn world() -> World {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    World::of(
        STACK.get_or_init(|| {
            TestStack::start(Scope::Everything, &[], &[("HOLDFAST__DELIVERY__STEP", "50ms")])
        }),
    )
}

/// The command lines of the runbook, block by block.
fn blocks() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbook-dead-letters.md");
    let text = fs::read_to_string(path).expect("there");
    let block = |block: &str| {
        let lines = block.lines().filter_map(|line| line.strip_prefix("$ "));
        lines.map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned()).collect()
    };
    text.split("```console").skip(1).map(|rest| block(rest.split("```").next().unwrap_or_default())).collect()
}

/// Types a line. Returns exit code and what the terminal shows.
fn typed(world: &World, terminal: &Terminal, line: &str) -> (i32, String) {
    let Shown { code, text, .. } = terminal.type_line(line, Some(&world.stack.layout.data_dir));
    (code, text)
}

/// Parks a record, and returns the letter's id as far as an operator types it.
async fn parked(world: &World, value: &[u8], key: Option<&str>, subject: Option<&str>) -> String {
    let before = letters(world).await;
    if let (Some(key), Some(subject)) = (key, subject) {
        world.send_created(key, subject, value).await;
    } else {
        let bare = FutureRecord::<[u8], [u8]>::to("order.created").payload(value);
        world.producer().send(bare, PATIENCE).await.expect("acknowledged");
    }
    eventually("it is parked", || async { letters(world).await.len() > before.len() }).await;
    let new = letters(world).await.into_iter().find(|letter| !before.contains(letter)).expect("it is there");
    new[..23].to_owned()
}

async fn letters(world: &World) -> Vec<String> {
    let output = world.dlq(&["list", "--service", "payment", "--state", "all", "-o", "id"]).await;
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

/// A service that does not answer is said, and hides nothing of what the others say.
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_service_hides_no_other() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let payment = world.stack.pid("payment").expect("it runs").to_string();
    let signal = |signal: &str| {
        assert!(Command::new("kill").args([signal, &payment]).status().expect("kill runs").success());
    };
    signal("-STOP");
    let output = world.dlq(&["stats", "-o", "json"]).await;
    let listed = world.dlq(&["list", "--state", "all", "-o", "id"]).await;
    signal("-CONT");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{talk}");
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(stats["stats"].is_array(), "{stats}");
    assert!(talk.contains("not asked: payment cannot be reached at 127.0.0.1:"), "{talk}");
    assert!(talk.contains("`holdfast status --data-dir"), "{talk}");
    assert!(talk.contains("elsewhere"), "what is counted is not all there is: {talk}");
    assert_eq!(listed.status.code(), Some(4), "nothing that was found says that there is nothing");
    eventually("it answers again", || async { world.dlq(&["stats"]).await.status.code() == Some(0) }).await;
}

/// On a terminal the words of states have colours, unless somebody does not want them; the columns are the same.
#[tokio::test(flavor = "multi_thread")]
async fn states_have_colours_on_a_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(terminal) = Terminal::open(folder.path()) else { return };
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    eventually("all are ready", || async {
        world.status().await.values().all(|component| component["state"] == "ready")
    })
    .await;
    let typed = |line: &str| terminal.type_line(line, Some(&world.stack.layout.data_dir));
    let coloured = typed("env -u NO_COLOR TERM=xterm holdfast certs status");
    assert!(coloured.written.contains("\u{1b}[32mvalid\u{1b}[0m"), "{:?}", coloured.written);
    for plain in ["NO_COLOR=1 TERM=xterm holdfast certs status", "TERM=dumb holdfast certs status"] {
        let plain = typed(plain);
        assert!(!plain.written.contains("\u{1b}["), "{:?}", plain.written);
        assert_eq!(plain.text, coloured.text, "the same columns");
    }
}

/// Without a service orders are shown as far as the others know, and nothing is called lost, handled or well that only it could say.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_absent_service_knows_is_unknown() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let user = world.user("absent", "10.00").await;
    let order_id = id(&world.create(&user, "1 Absent Street", 100).await);
    eventually("it ends", || async { user.order(&order_id).await.is_ok_and(|order| is_terminal(&order)) })
        .await;
    let (whole, code) = world.orders(&["show", &order_id]).await;
    assert_eq!((code, &whole["not_asked"]), (0, &serde_json::json!([])), "{whole:#}");
    // What is stopped must not be taken for deaf, and started again.
    let supervisor = Stopped::alone(world.stack.supervisor_pid()).expect("it runs");
    let payment = Stopped::alone(world.stack.pid("payment").expect("it runs")).expect("it runs");
    let command = async |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(arguments).args(["-o", "json", "--data-dir"]).arg(&world.stack.layout.data_dir);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("holdfast runs");
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {talk}");
        assert!(talk.contains("not asked: payment cannot be reached"), "{arguments:?}: {talk}");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(document["not_asked"], serde_json::json!(["payment"]), "{document:#}");
        (document, talk)
    };
    let (shown, shown_talk) = command(&["orders", "show", &order_id]).await;
    let (_, stuck_talk) = command(&["orders", "stuck", "--older-than", "0s"]).await;
    let (checked, checked_talk) = command(&["reconcile", "--older-than", "0s"]).await;
    drop((payment, supervisor));
    let event = |document: &serde_json::Value, topic: &str| {
        let events = document["events"].as_array().expect("a list").iter();
        events.filter(|event| event["topic"] == topic).cloned().collect::<Vec<_>>()
    };
    assert_eq!(event(&shown, "order.created")[0]["unknown_at"], serde_json::json!(["payment"]), "{shown:#}");
    assert_eq!(event(&shown, "payment.completed").len(), 0, "nobody else knows what it has written");
    assert!(!shown_talk.contains("every event was handled"), "{shown_talk}");
    assert!(stuck_talk.contains("known without payment"), "{stuck_talk}");
    assert!(!checked_talk.contains("no event is missing"), "{checked_talk}");
    assert!(checked_talk.contains("not checked: order.created at payment"), "{checked_talk}");
    assert!(checked_talk.contains("checked: delivery.status.updated at order"), "{checked_talk}");
    let lost = checked["events"].as_array().expect("a list").iter().any(|event| event["state"] == "lost");
    assert!(!lost, "{checked:#}");
    eventually("it answers again", || async { world.dlq(&["stats"]).await.status.code() == Some(0) }).await;
}

/// See the file.
#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_works_literally() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(terminal) = Terminal::open(folder.path()) else { return };
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    // What an operator does in an editor.
    let editor = folder.path().join("editor");
    let edits = r#"s/"deliveryAddress": ".*"/"deliveryAddress": "7 Quay Street"/; s/"minorUnits": "0"/"minorUnits": "300"/"#;
    fs::write(&editor, format!("#!/bin/sh\nexec sed -i '{edits}' \"$1\"\n")).expect("written");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).expect("allowed");
    let blocks = blocks();
    let find = |begin: &str| {
        let block = blocks.iter().find(|block| block.iter().any(|line| line.starts_with(begin)));
        block.unwrap_or_else(|| panic!("the runbook has no {begin}")).clone()
    };
    let looking = find("holdfast dlq stats");
    let (by_editor, by_options) =
        (find("holdfast dlq edit ID --reason"), find("holdfast dlq edit ID --fill --reason"));
    let everywhere = find("holdfast dlq edit ID --fill --everywhere");

    // A value that is no event: its document is a skeleton, which the editor completes.
    let user = world.user("runbook", "10.00").await.user;
    let order_id = Uuid::now_v7().to_string();
    let letter = parked(&world, &[0xff; 7], Some(&user), Some(&order_id)).await;
    for line in looking.iter().chain(&by_editor) {
        let (code, shown) =
            typed(&world, &terminal, &line.replace("ORDER_ID", &order_id).replace("ID", &letter));
        // Nothing was done yet, nothing else is parked, and what was redriven can't be given up.
        let nothing = ["dlq audit", "--class attempts-exhausted", "discard", "restore", "--cancel"]
            .iter()
            .any(|part| line.contains(part));
        assert_eq!(code, if nothing { 3 } else { 0 }, "{line}: {shown}");
        if line.contains(" list") && !line.contains("wide") {
            assert!(shown.lines().all(|line| line.chars().count() <= COLUMNS), "{shown}");
            assert!(shown.contains(&letter), "{shown}");
        }
    }
    let charges = "select count(*) from ledger_entries where order_id::text = $1";
    assert_eq!(world.count("payment", charges, &order_id).await, 1, "charged once");

    // A record that was sent by hand, without key and headers.
    let order_id = Uuid::now_v7().to_string();
    let letter = parked(&world, &created(&user, &order_id, 300).encode_to_vec(), None, None).await;
    for line in &by_options {
        if line.contains("--document") {
            let (_, shown) = typed(&world, &terminal, "./editor letter.json && grep Quay letter.json");
            assert!(shown.contains("7 Quay Street"), "{shown}");
        }
        let (code, shown) = typed(&world, &terminal, &line.replace("ID", &letter));
        assert_eq!(code, 0, "{line}: {shown}");
        if line.contains("--fill") {
            assert!(shown.contains("filled in: ce_type=holdfast.order.created.v1"), "{shown}");
        }
    }
    // It is as it was received; made whole again it is handled.
    for line in &everywhere {
        let (code, shown) = typed(&world, &terminal, &line.replace("ID", &letter));
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("no other service has this event parked"), "{shown}");
    }
    let (code, shown) = typed(&world, &terminal, &format!("holdfast dlq redrive {letter} --execute"));
    assert_eq!(code, 0, "{shown}");
    assert_eq!(world.count("payment", charges, &order_id).await, 1, "charged once");
    assert_eq!(typed(&world, &terminal, "holdfast dlq list --service payment").0, 3, "nothing is left");
}
