//! Dead letters from an operator's view: through real Kafka, with the command line, while everything is killed.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio, sync::OnceLock};

use holdfast_chaos::rest::is_terminal;
use holdfast_e2e::{
    PATIENCE, World,
    events::{created, send_created},
    eventually, id,
    interrupt::interrupted,
    reaches,
    terminal::{Shown, Terminal},
};
use holdfast_native::layout::Scope;
use holdfast_proto::{Currency, Money, order::v1 as order, payment::v1 as payment, to_timestamp};
use holdfast_testkit::stack::TestStack;
use prost::Message as _;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::FutureRecord,
};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::sync::Mutex;
use uuid::Uuid;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn world() -> World {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    World::of(STACK.get_or_init(|| {
        TestStack::start(
            Scope::Everything,
            &[],
            &[
                ("HOLDFAST__DELIVERY__STEP", "50ms"),
                // These tests want nothing but poison.
                ("HOLDFAST__KAFKA__DEAD_LETTERS_IN_A_ROW_MAX", "1000000"),
                ("HOLDFAST__KAFKA__DEAD_LETTER_SHARE_MAX", "1.0"),
            ],
        )
    }))
}

async fn parked_of(world: &World, order_id: &str) -> i64 {
    let sql = "select count(*) from dead_letters where subject = $1 and state = 'parked'";
    world.count("payment", sql, order_id).await
}

/// An operator finds a letter, looks at it, repairs it, tries, and redrives it with what waits behind it; each step is in
/// the audit.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_repairs_and_redrives_a_letter() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let user = world.user("repair", "10.00").await.user;
    let order_id = Uuid::now_v7().to_string();
    // Garbage first, then the same order again, which waits behind it.
    world.send_created(&user, &order_id, &[0xff; 7]).await;
    world.send_created(&user, &order_id, &created(&user, &order_id, 300).encode_to_vec()).await;
    eventually("both are parked", || async { parked_of(&world, &order_id).await == 2 }).await;

    let (list, code) = world.dlq_json(&["list", "--order", &order_id]).await;
    assert_eq!(code, 0);
    let letters = list["dead_letters"].as_array().expect("a list").clone();
    assert_eq!(
        (letters[0]["class"].as_str(), letters[1]["class"].as_str()),
        (Some("decode"), Some("blocked-by-key"))
    );
    assert_eq!(letters[1]["blocked_by"], letters[0]["id"]);
    let letter = letters[0]["id"].as_str().expect("an id");
    let (shown, _) = world.dlq_json(&["show", letter]).await;
    assert_eq!(shown["value"], Value::Null, "not an event");
    assert_eq!(shown["value_hex"], "ffffffffffffff");
    let table = world.dlq(&["show", letter]).await;
    assert!(String::from_utf8_lossy(&table.stdout).contains("ffffffffffffff"));

    // Before it is repaired, nothing is redriven, and the command says so.
    let (unrepaired, code) = world.dlq_json(&["redrive", letter, "--execute"]).await;
    assert_eq!((unrepaired["failed"].as_u64(), unrepaired["behind"].as_u64(), code), (Some(1), Some(1), 1));

    let event = serde_json::json!({
        "orderId": order_id, "userId": user, "deliveryAddress": "1 Repair Road",
        "total": {"currency": "EUR", "minorUnits": "300"}, "createdAt": "2026-01-31T12:00:00Z",
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), r#"{"orderId": "nonsense"}"#).expect("written");
    let path = file.path().to_str().expect("a path");
    let refused = world.dlq(&["edit", letter, "--value", path, "--reason", "repaired"]).await;
    assert_eq!(refused.status.code(), Some(1), "an event that can't be handled");
    fs::write(file.path(), event.to_string()).expect("written");
    let edited = world.dlq(&["edit", letter, "--value", path, "--reason", "repaired"]).await;
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));

    let (dry, code) = world.dlq_json(&["redrive", "--service", "payment", "--order", &order_id]).await;
    assert_eq!((dry["executed"].as_bool(), dry["planned"].as_u64(), code), (Some(false), Some(2), 0));
    assert_eq!(parked_of(&world, &order_id).await, 2, "a dry run changes nothing");
    let (done, code) =
        world.dlq_json(&["redrive", "--service", "payment", "--order", &order_id, "--execute"]).await;
    assert_eq!((done["redriven"].as_u64(), code), (Some(2), 0), "{done}");
    let charges = "select count(*) from ledger_entries where order_id::text = $1";
    assert_eq!(world.count("payment", charges, &order_id).await, 1, "charged once");

    let (audit, _) = world.dlq_json(&["audit", letter]).await;
    let actions: Vec<_> =
        audit["audit"].as_array().expect("a list").iter().map(|line| &line["action"]).collect();
    assert_eq!(actions, ["redrive", "edit", "redrive-failed"]);
    assert_eq!(audit["audit"][0]["actor"], "operator (tester)");
    let (shown, _) = world.dlq_json(&["show", letter]).await;
    assert_eq!(shown["state"], "redriven");
    assert_eq!(shown["edited_value"]["orderId"], order_id.as_str());
    // And there is nothing left to do there. (The order service does not know this order, and parks its events.)
    for nothing in [
        &["redrive", "--service", "payment", "--order", &order_id, "--execute"][..],
        &["list", "--service", "payment", "--order", &order_id, "--state", "parked"],
    ] {
        let output = world.dlq(nothing).await;
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{nothing:?}: {talk}");
    }
}

/// What a stranger has written into a record acts on no terminal of an operator, whichever command shows it, as text and as JSON.
#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_write_acts_on_no_terminal() {
    const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}1;1H\r\n\u{7f}\u{202e}owned";
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let subject = format!("{HOSTILE}{}", Uuid::now_v7());
    let event_id = Uuid::now_v7().to_string();
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", &event_id),
        ("ce_type", HOSTILE),
        ("ce_subject", &subject),
        (HOSTILE, HOSTILE),
    ];
    let headers = headers.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    });
    let event = created(HOSTILE, HOSTILE, 300).encode_to_vec();
    let record = FutureRecord::to("order.created").key(HOSTILE).payload(&event).headers(headers);
    world.producer().send(record, PATIENCE).await.expect("acknowledged");
    eventually("it is parked", || async { parked_of(&world, &subject).await == 1 }).await;

    // Those of other tests are in the list, too.
    let (list, _) = world.dlq_json(&["list", "--service", "payment", "--state", "parked"]).await;
    let letters = list["dead_letters"].as_array().expect("a list");
    let letter =
        letters.iter().find(|letter| letter["key"] == subject.as_str()).expect("the same text in JSON");
    let letter = letter["id"].as_str().expect("an id");
    let edit = ["edit", letter, "--header", &format!("ce_type={HOSTILE}"), "--reason", HOSTILE];
    let discard = ["discard", letter, "--yes", "--reason", HOSTILE];
    for command in [
        &["list", "--state", "parked"][..],
        &["show", letter],
        &["redrive", letter],
        &["redrive", letter, "--execute"],
        &edit,
        &discard,
        &["audit", letter],
    ] {
        for format in [&["-o", "table"][..], &["-o", "json"]] {
            let format = if ["edit", "discard"].contains(&command[0]) { &[][..] } else { format };
            let output = world.dlq(&[command, format].concat()).await;
            let shown = [output.stdout, output.stderr].concat();
            let shown = String::from_utf8(shown).expect("text");
            let acts = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
            assert!(!shown.chars().any(acts), "{command:?} {format:?}: {shown:?}");
            let says = shown.contains(r"\u001b]0;owned\u0007") || ["edit", "discard"].contains(&command[0]);
            assert!(says, "{command:?} {format:?}: {shown}");
        }
    }
    assert_eq!(parked_of(&world, &subject).await, 0, "discarded");
}

/// A letter that is larger than any event of ours is edited like every other.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_letter_is_edited() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let user = world.user("large", "10.00").await.user;
    let order_id = Uuid::now_v7().to_string();
    let address = "1 Long Road, ".repeat(25_000);
    let event = order::OrderCreated { delivery_address: address.clone(), ..created(&user, &order_id, 300) };
    let headers = OwnedHeaders::new().insert(Header { key: "ce_subject", value: Some(&order_id) });
    let value = event.encode_to_vec();
    let record = FutureRecord::to("order.created").key(&user).payload(&value).headers(headers);
    world.producer().send(record, PATIENCE).await.expect("acknowledged");
    eventually("it is parked", || async { parked_of(&world, &order_id).await == 1 }).await;

    let (list, _) = world.dlq_json(&["list", "--order", &order_id]).await;
    let letter = list["dead_letters"][0]["id"].as_str().expect("an id");
    let event = serde_json::json!({
        "orderId": order_id, "userId": user, "deliveryAddress": address,
        "total": {"currency": "EUR", "minorUnits": "300"}, "createdAt": "2026-01-31T12:00:00Z",
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), event.to_string()).expect("written");
    let event_id = format!("ce_id={}", Uuid::now_v7());
    let mut edit =
        vec!["edit", letter, "--value", file.path().to_str().expect("a path"), "--reason", "repaired"];
    for header in [
        "ce_specversion=1.0",
        &event_id,
        "ce_source=/holdfast/order",
        "ce_type=holdfast.order.created.v1",
        "ce_time=2026-01-31T12:00:00Z",
        "content-type=application/protobuf",
    ] {
        edit.extend(["--header", header]);
    }
    let edited = world.dlq(&edit).await;
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    let (shown, _) = world.dlq_json(&["show", letter]).await;
    assert_eq!(shown["edited_value"]["deliveryAddress"], address.as_str());
    let (done, code) = world.dlq_json(&["redrive", letter, "--service", "payment", "--execute"]).await;
    assert_eq!((done["redriven"].as_u64(), code), (Some(1), 0), "{done}");
}

/// Services that are named by address are operated like those of a folder: a letter is listed, shown, redriven and audited.
#[tokio::test(flavor = "multi_thread")]
async fn services_are_operated_by_their_addresses() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let session = world.user("by-address", "10.00").await;
    world.refuse_payments().await;
    let order_id = id(&world.create(&session, "1 Quay Street", 300).await);
    let json = async |arguments: &[&str]| {
        let mut command = world.command_by_address(&[arguments, &["-o", "json"]].concat());
        let output =
            tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("runs");
        let code = output.status.code().unwrap_or(-1);
        (serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), code)
    };
    eventually("the letter is listed", || async {
        json(&["dlq", "list", "--order", &order_id]).await.1 == 0
    })
    .await;
    world.accept_payments().await;
    let (list, _) = json(&["dlq", "list", "--order", &order_id]).await;
    let letter = list["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    let (shown, code) = json(&["dlq", "show", &letter]).await;
    assert_eq!((&shown["key"], code), (&order_id.as_str().into(), 0), "{shown}");
    let (done, code) = json(&["dlq", "redrive", &letter, "--execute"]).await;
    assert_eq!((done["redriven"].as_u64(), code), (Some(1), 0), "{done}");
    let (audit, _) = json(&["dlq", "audit", &letter]).await;
    assert_eq!(audit["audit"][0]["actor"], "operator (tester)", "{audit}");

    let (positions, code) = json(&["positions", "--service", "order"]).await;
    assert!(code == 0 && positions["positions"][0]["service"] == "order", "{positions}");
    let (status, code) = json(&["status"]).await;
    let components = status["components"].as_array().expect("a list");
    assert_eq!((components.len(), code), (4, 0), "{status}");
    assert!(components.iter().all(|component| component["address"] != Value::Null), "{status}");
}

/// `orders show` tells an order's story over the services, and `orders stuck` what it waits for and where that is.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_tells_where_it_is() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let session = world.user("where", "10.00").await;
    world.refuse_payments().await;
    let order_id = id(&world.create(&session, "1 Where Street", 300).await);
    eventually("it is parked", || async { parked_of(&world, &order_id).await == 1 }).await;
    world.accept_payments().await;

    let (shown, code) = world.orders(&["show", &order_id]).await;
    let events = shown["events"].as_array().expect("a list");
    assert_eq!((events.len(), code), (1, 0), "{shown}");
    assert_eq!((&events[0]["topic"], &events[0]["writer"]), (&"order.created".into(), &"order".into()));
    assert_eq!(events[0]["missing_at"], serde_json::json!(["payment"]));
    let (letters, _) = world.dlq_json(&["list", "--order", &order_id]).await;
    let letter = letters["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(events[0]["waits"], format!("dead letter {letter} (attempts-exhausted) of payment"));
    let (stuck, code) = world.orders(&["stuck", "--older-than", "0s"]).await;
    let of_order = |stuck: &Value| {
        let orders = stuck["orders"].as_array().cloned().unwrap_or_default();
        orders.into_iter().find(|order| order["order_id"] == order_id.as_str())
    };
    let line = of_order(&stuck).expect("it is stuck");
    assert_eq!(
        (&line["waits_for"], &line["dead_letter_id"], code),
        (&"order.created".into(), &letter.as_str().into(), 0)
    );

    let (done, code) = world.dlq_json(&["redrive", &letter, "--execute"]).await;
    assert_eq!((done["redriven"].as_u64(), code), (Some(1), 0), "{done}");
    // The creation, the payment, and four steps of the delivery.
    let is_told = async || {
        let (shown, _) = world.orders(&["show", &order_id]).await;
        let events = shown["events"].as_array().cloned().unwrap_or_default();
        events.len() == 6 && events.iter().all(|event| event["waits"] == Value::Null)
    };
    eventually("all of it was handled", is_told).await;
    let (shown, _) = world.orders(&["show", &order_id]).await;
    let story: Vec<_> = shown["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| (event["topic"].as_str().expect("text"), event["writer"].as_str().expect("text")))
        .collect();
    let step = ("delivery.status.updated", "delivery");
    assert_eq!(story, [("order.created", "order"), ("payment.completed", "payment"), step, step, step, step]);
    let (stuck, _) = world.orders(&["stuck", "--older-than", "0s"]).await;
    assert!(of_order(&stuck).is_none(), "{stuck}");
    let (_, code) = world.orders(&["show", &Uuid::now_v7().to_string()]).await;
    assert_eq!(code, 3, "nobody knows it");
}

/// A record without key and headers is repaired by the command line like one with a broken value.
#[tokio::test(flavor = "multi_thread")]
async fn a_bare_record_is_repaired() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let user = world.user("bare", "10.00").await.user;
    let (order_id, event_id) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
    let value = created(&user, &order_id, 300).encode_to_vec();
    let bare = FutureRecord::<[u8], [u8]>::to("order.created").payload(&value);
    world.producer().send(bare, PATIENCE).await.expect("acknowledged");
    let bare = "select count(*) from dead_letters where topic = $1 and subject is null";
    eventually("it is parked", || async { world.count("payment", bare, "order.created").await == 1 }).await;
    let (list, _) = world.dlq_json(&["list", "--service", "payment", "--class", "schema-violation"]).await;
    let letters = list["dead_letters"].as_array().expect("a list");
    let letter = letters.iter().find(|letter| letter["key"] == Value::Null).expect("it is there");
    assert_eq!(letter["reason"], "header ce_specversion is missing");
    let letter = letter["id"].as_str().expect("an id");

    let headers = [
        "ce_specversion=1.0",
        &format!("ce_id={event_id}"),
        "ce_source=/holdfast/order",
        "ce_type=holdfast.order.created.v1",
        &format!("ce_subject={order_id}"),
        "ce_time=2026-01-31T12:00:00Z",
        "content-type=application/protobuf",
    ];
    let mut edit = vec!["edit", letter, "--record-key", &user, "--reason", "sent by hand"];
    for header in headers {
        edit.extend(["--header", header]);
    }
    let edited = world.dlq(&edit).await;
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    let (done, code) = world.dlq_json(&["redrive", letter, "--execute"]).await;
    assert_eq!((done["redriven"].as_u64(), code), (Some(1), 0), "{done}");
    let charges = "select count(*) from ledger_entries where order_id::text = $1";
    assert_eq!(world.count("payment", charges, &order_id).await, 1, "charged once");
    let (shown, _) = world.dlq_json(&["show", letter]).await;
    assert_eq!((shown["headers"].as_array().map(Vec::len), &shown["record_key"]), (Some(0), &Value::Null));
    assert_eq!(shown["edited_record_key"]["text"], user.as_str());
    world.every_record_is_tallied().await;
}

/// What was discarded by mistake is parked again, by the beginning of its id or a list of ids; the rest is named and left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_discard_is_taken_back() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let user = world.user("restore", "10.00").await.user;
    let order_id = Uuid::now_v7().to_string();
    world.send_created(&user, &order_id, &[0xff; 7]).await;
    world.send_created(&user, &order_id, &created(&user, &order_id, 300).encode_to_vec()).await;
    eventually("both are parked", || async { parked_of(&world, &order_id).await == 2 }).await;
    let (list, _) = world.dlq_json(&["list", "--order", &order_id]).await;
    let ids: Vec<&str> =
        (0..2).map(|index| list["dead_letters"][index]["id"].as_str().expect("an id")).collect();
    let reason = ["--reason", "by mistake"];

    let nothing = world.dlq(&[&["restore", ids[0]], &reason[..]].concat()).await;
    let talk = String::from_utf8_lossy(&nothing.stderr);
    assert_eq!(nothing.status.code(), Some(3), "{talk}");
    assert!(talk.contains("is parked: only what was discarded can be restored"), "{talk}");
    let discarded = world.dlq(&[&["discard", ids[0], ids[1], "--yes"], &reason[..]].concat()).await;
    assert!(discarded.status.success());
    assert_eq!(parked_of(&world, &order_id).await, 0);

    // Ids of one millisecond begin alike but for their last digits, so all but one of them.
    let restored = world.dlq(&[&["restore", &ids[0][..35]], &reason[..]].concat()).await;
    let talk = String::from_utf8_lossy(&restored.stderr);
    assert_eq!(restored.status.code(), Some(0), "{talk}");
    assert_eq!(restored.stdout, format!("{}\n", ids[0]).into_bytes(), "{talk}");
    assert_eq!(parked_of(&world, &order_id).await, 1);
    let mut command = world.dlq_command(&[&["restore", "-"], &reason[..]].concat());
    let both = format!("{}\n{}\n", ids[0], ids[1]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), both).expect("written");
    command.stdin(file.reopen().expect("open"));
    let rest = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("runs");
    assert_eq!((rest.status.code(), rest.stdout), (Some(4), format!("{}\n", ids[1]).into_bytes()));
    assert_eq!(parked_of(&world, &order_id).await, 2);

    let (audit, _) = world.dlq_json(&["audit", ids[0]]).await;
    let line =
        |index: usize| (audit["audit"][index]["action"].as_str(), audit["audit"][index]["detail"].as_str());
    assert_eq!(
        (line(0), line(1)),
        ((Some("restore"), Some("by mistake")), (Some("discard"), Some("by mistake")))
    );
    let undecoded =
        "select count(*) from dead_letters where state = 'parked' and topic = $1 and class = 'decode'";
    let undecoded = world.count("payment", undecoded, "order.created").await.to_string();
    let parts = [r#"topic="order.created""#, r#"class="decode""#];
    eventually("the gauge counts it", || async {
        world.metric("payment", "holdfast_dead_letters_parked", &parts).await.to_string() == undecoded
    })
    .await;
    let again = world.dlq(&[&["discard", ids[0], ids[1], "--yes"], &reason[..]].concat()).await;
    assert!(again.status.success(), "what was restored can be discarded again");
}

/// `skip` of one record of payment.
fn skip<'a>(topic: &'a str, offset: &'a str) -> Vec<&'a str> {
    let place = ["skip", "--service", "payment", "--topic", topic, "--partition", "0", "--offset", offset];
    [&place[..], &["--reason", "x", "--yes"]].concat()
}

/// Wrong commands, each with its exit code and what its message must contain. `unknown` is an id that no service has,
/// and `upper` is the same in upper case.
fn wrong_commands<'a>(unknown: &'a str, upper: &'a str) -> Vec<(Vec<&'a str>, i32, &'static str)> {
    vec![
        (vec!["redrive"], 2, "which?"),
        (vec!["redrive", "--all", "--rate", "fast"], 2, "--rate"),
        (vec!["redrive", "--all", "--max", "0"], 2, "--max"),
        (vec!["redrive", unknown, "--execute"], 3, "no parked dead letter matches"),
        // An empty or unknown value never matches everything.
        (vec!["redrive", "nonsense", "--execute"], 2, "must be an id"),
        (vec!["redrive", "", "--execute"], 2, "must be an id"),
        (vec!["redrive", "--order", "", "--execute"], 2, "--order"),
        (vec!["redrive", "--order", "user-123", "--execute"], 2, "--order"),
        (vec!["redrive", "--topic", "", "--execute"], 2, "--topic"),
        (vec!["redrive", "--topic", "oder.created", "--execute"], 2, "--topic"),
        (vec!["redrive", "--class", "", "--execute"], 2, "--class"),
        (vec!["redrive", "--service", "", "--execute"], 2, "--service"),
        (vec!["list", "--class", "decoed"], 2, "--class"),
        (vec!["list", "--state", ""], 2, "--state"),
        (vec!["list", "--since", ""], 2, "--since"),
        (vec!["list", "--since", "199999999h"], 2, "--since"),
        (vec!["list", "--order", upper], 3, "no dead letter matches"),
        (vec!["show", ""], 2, "must be an id"),
        (vec!["audit", ""], 2, "must be an id"),
        (vec!["edit", unknown, "--record-key", "x", "--reason", " "], 2, "--reason"),
        (vec!["redrive", "--status", "--all"], 2, "cannot be used with"),
        (vec!["redrive", "--cancel", "--execute"], 2, "cannot be used with"),
        (vec!["redrive", "--status", "--cancel"], 2, "cannot be used with"),
        (vec!["restore", unknown, "--reason", "x"], 3, "no service has"),
        (vec!["restore", "", "--reason", "x"], 2, "must be an id"),
        (vec!["restore", unknown, "--reason", " "], 2, "--reason"),
        (vec!["restore", "--reason", "x"], 2, "which?"),
        (vec!["restore", unknown, "--class", "decode", "--reason", "x"], 2, "not both"),
        (vec!["edit", "--fill", "--reason", "x"], 2, "which?"),
        (vec!["edit", unknown, "--class", "decode", "--fill", "--reason", "x"], 2, "not both"),
        (vec!["edit", "--class", "decode", "--reason", "x"], 2, "for a filter give"),
        (vec!["edit", "--class", "decode", "--value", "-", "--reason", "x"], 2, "for one letter"),
        (vec!["edit", unknown, "--fill", "--dry-run"], 2, "cannot be used with"),
        (
            vec!["resume", "--service", "order", "--end-allowance", "--reason", "x"],
            3,
            "has an allowance left",
        ),
        (vec!["discard", "", "--reason", "x", "--yes"], 2, "must be an id"),
        (vec!["show", unknown], 3, "no service has"),
        (vec!["list", "--service", "kafka"], 2, "--service"),
        (vec!["list", "--since", "yesterday"], 2, "--since"),
        (vec!["discard", "--reason", "x", "--yes"], 2, "which?"),
        (vec!["discard", unknown, "--class", "decode", "--reason", "x"], 2, "not both"),
        (vec!["discard", unknown, "--reason", "x"], 3, "no service has"),
        (skip("", "0"), 2, "--topic"),
        (skip("order.created", "999999"), 3, "no such record"),
        (vec!["discard", unknown, "--reason", "x", "--yes"], 3, "nothing that is parked matches"),
        (vec!["edit", unknown, "--value", "-", "--reason", "x"], 3, "no service has"),
        (vec!["edit", unknown, "--reason", "x"], 2, "without a terminal give --value"),
        (vec!["edit", unknown, "--fill"], 2, "--reason"),
        (vec!["edit", unknown, "--fill", "--revert", "--reason", "x"], 2, "--revert"),
        (vec!["show", "ffff"], 3, "begins with ffff"),
    ]
}

/// A wrong command is refused with a message and the exit code of the contract, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_commands_are_refused() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let unknown = Uuid::now_v7().to_string();
    for (arguments, code, says) in wrong_commands(&unknown, &unknown.to_uppercase()) {
        let mut command = world.dlq_command(&arguments);
        command.stdin(Stdio::null());
        let output =
            tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("runs");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {talk}");
        assert!(talk.contains(says), "{arguments:?}: {talk}");
    }
    let (stats, code) = world.dlq_json(&["stats"]).await;
    assert!(stats["stats"].is_array() && code == 0);
}

/// One poison record in a partition where nothing else arrives is parked once, and not again after restarts (pitfalls
/// P24).
#[tokio::test(flavor = "multi_thread")]
async fn poison_in_an_idle_partition_is_parked_once() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let order_id = Uuid::now_v7().to_string();
    world.send_created("nobody-else", &order_id, b"\xff").await;
    let all = "select count(*) from dead_letters where subject = $1";
    eventually("it is parked", || async { world.count("payment", all, &order_id).await == 1 }).await;
    for _ in 0..3 {
        world.kill("payment");
        eventually("it is down", || async { world.readyz("payment").await.0 != 200 }).await;
        eventually("it is back", || async { world.readyz("payment").await.0 == 200 }).await;
        // A good order goes the same way: when it has passed, everything before it has passed as well.
        let user = world.user("after", "10.00").await;
        let order = world.create(&user, "1 Quay Street", 100).await;
        eventually("an order passes", || async {
            is_terminal(&user.order(&id(&order)).await.expect("answered"))
        })
        .await;
        assert_eq!(world.count("payment", all, &order_id).await, 1, "parked once");
    }
    world.every_record_is_tallied().await;
    let copies = "select coalesce(sum(parked), 0)::bigint from consumer_positions where topic = $1";
    let parked = world.count("payment", copies, "order.created").await;
    let rows = "select count(*) from dead_letters where topic = $1";
    assert_eq!(parked, world.count("payment", rows, "order.created").await, "the tally is exact");
}

/// Everything that payment stores and sends.
async fn fingerprint(world: &World) -> Vec<(String, i64)> {
    let mut prints = Vec::new();
    let mut payments = world.connect("payment").await;
    // Delivery events reach payment too, later, and have nothing to do with a redrive.
    for what in [
        "dead_letters",
        "dead_letter_audit",
        "payments",
        "ledger_entries",
        "accounts",
        "(select * from inbox where topic = 'order.created')",
        "(select * from consumer_positions where topic = 'order.created')",
    ] {
        let sql = format!(
            "select md5(coalesce(string_agg(t::text, ' ' order by t::text), '')), count(*) from {what} as t"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut payments).await.expect("read");
        prints.push((format!("{what} {}", row.get::<String, _>(0)), row.get(1)));
    }
    for topic in ["order.created", "payment.completed", "payment.refunded", "order.created.payment.dlq"] {
        prints.push((topic.to_owned(), world.records_of(topic).expect("it has leaders")));
    }
    prints
}

/// How many letters of a user a second the last redrive has handled, which were so many, by the times in the audit.
async fn pace(payments: &mut PgConnection, user: &str, letters: i64) -> f64 {
    let took: f64 = sqlx::query(
        "select extract(epoch from max(last.at) - min(last.at))::float8 from (
            select a.at from dead_letter_audit as a join dead_letters as d on d.id = a.dead_letter_id
            where a.action = 'redrive' and convert_from(d.key, 'UTF8') = $1 order by a.at desc limit $2
        ) as last",
    )
    .bind(user)
    .bind(letters)
    .fetch_one(payments)
    .await
    .expect("read")
    .get(0);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let intervals = (letters - 1) as f64;
    intervals / took
}

/// A dry run changes nothing, in no table and no topic; and a redrive of many letters keeps to its rate, by the times
/// in the audit.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_keeps_its_rate() {
    const LETTERS: i64 = 300;
    const RATE: f64 = 30.0;
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let mut payments = world.connect("payment").await;
    world.refuse_payments().await;
    let user = format!("pace-{}", Uuid::now_v7());
    let producer = world.producer();
    for _ in 0..LETTERS {
        let order_id = Uuid::now_v7().to_string();
        let event = created(&user, &order_id, 100).encode_to_vec();
        send_created(&producer, &user, &order_id, &event).await;
    }
    let of_user =
        "select count(*) from dead_letters where convert_from(key, 'UTF8') = $1 and state = 'parked'";
    reaches("all are parked", LETTERS, || world.count("payment", of_user, &user)).await;
    world.accept_payments().await;
    eventually("all copies are sent", || async {
        world.count("payment", "select count(*) from outbox where $1 <> ''", "any").await == 0
    })
    .await;

    let which = ["redrive", "--service", "payment", "--class", "attempts-exhausted"];
    let before = fingerprint(&world).await;
    let (dry, code) = world.dlq_json(&which).await;
    assert_eq!((dry["planned"].as_i64(), code), (Some(LETTERS), 0), "{dry}");
    assert_eq!(fingerprint(&world).await, before, "a dry run changes nothing");

    let (free, code) = world.dlq_json(&[&which[..], &["--execute", "--max", "100"]].concat()).await;
    assert_eq!((free["redriven"].as_i64(), code), (Some(100), 0), "{free}");
    let as_fast_as_it_goes = pace(&mut payments, &user, 100).await;
    let (done, code) = world.dlq_json(&[&which[..], &["--execute", "--rate", "30/s"]].concat()).await;
    assert_eq!((done["redriven"].as_i64(), code), (Some(LETTERS - 100), 0), "{done}");
    let rate = pace(&mut payments, &user, LETTERS - 100).await;
    assert!(rate < RATE * 1.1, "{rate} letters a second instead of {RATE}");
    // Other work on the machine slows both, and one of them more than the other.
    let possible = as_fast_as_it_goes.min(RATE);
    assert!(
        rate > possible * 0.2,
        "{rate} letters a second instead of {RATE}; {as_fast_as_it_goes} without a rate"
    );
    world.every_record_is_tallied().await;
}

const REDRIVE_REFUSED: [&str; 6] =
    ["redrive", "--service", "payment", "--class", "attempts-exhausted", "--execute"];

/// Orders that payment has refused and parked, for a cause that is mended.
struct Refused<'w> {
    world: &'w World,
    orders: Vec<String>,
}

impl<'w> Refused<'w> {
    async fn orders(world: &'w World, address: &'static str, count: i64) -> Self {
        world.refuse_payments().await;
        let orders = world.create_orders(address, count.unsigned_abs()).await;
        let refused = Self { world, orders };
        reaches("all are parked", count, || refused.left()).await;
        world.accept_payments().await;
        refused
    }

    /// How many are parked still.
    async fn left(&self) -> i64 {
        let parked = "select count(*) from dead_letters where class = $1 and state = 'parked'";
        self.world.count("payment", parked, "attempts-exhausted").await
    }

    /// Those that are left are redriven, and then each order has been charged exactly once.
    async fn rest_is_redriven(&self, left: i64) {
        let (rest, code) = self.world.dlq_json(&REDRIVE_REFUSED).await;
        assert_eq!((rest["redriven"].as_i64(), code), (Some(left), 0), "{rest}");
        let charged =
            "select count(*), count(distinct order_id) from ledger_entries where order_id::text = any($1)";
        let mut payments = self.world.connect("payment").await;
        let (all, orders) = count_of_orders(&mut payments, charged, &self.orders).await;
        let expected = i64::try_from(self.orders.len()).expect("a few");
        assert_eq!((all, orders), (expected, expected), "each was charged exactly once");
    }
}

/// Ctrl-C in the middle of a redrive: what it has done so far is printed, with a summary; nothing more is done, and the next one does the
/// rest, each letter once.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_redrive_says_what_it_has_done() {
    const LETTERS: i64 = 60;
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let refused = Refused::orders(&world, "1 Interrupt Street", LETTERS).await;
    let left = async || refused.left().await;
    let mut command = world.dlq_command(&[&REDRIVE_REFUSED[..], &["--rate", "2/s", "-o", "json"]].concat());
    let redrive = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("holdfast runs");
    eventually("some are redriven", || async { left().await <= LETTERS - 5 }).await;
    let output = interrupted(redrive).await;
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{talk}");
    let done: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = done["dead_letters"].as_array().expect("a list");
    assert!(!rows.is_empty() && rows.iter().all(|row| row["result"] == "redriven"), "{done}");
    let redriven = done["redriven"].as_i64().expect("a number");
    let unnamed = done["unnamed"].as_i64().expect("a number");
    assert_eq!(i64::try_from(rows.len()).expect("a few") + unnamed, redriven, "{done}");
    assert!(talk.contains(&format!("{redriven} redriven")), "{talk}");
    assert!(talk.contains("interrupted: what is left stays parked"), "{talk}");

    // The service ends it after its current transaction.
    eventually("it has ended", || async {
        let (status, _) = world.dlq_json(&["redrive", "--status", "--service", "payment"]).await;
        let redrives = status["redrives"].as_array().cloned().unwrap_or_default();
        redrives.iter().all(|redrive| redrive["state"] != "running")
    })
    .await;
    let left_then = left().await;
    assert!(left_then > 0 && LETTERS - left_then >= redriven, "{left_then} left after {redriven}");
    refused.rest_is_redriven(left_then).await;
}

/// A redrive is seen from another terminal, also after its service was killed in the middle, and is cancelled there: nothing more is done,
/// its command says who did it, and the next one does the rest, each letter once.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_is_cancelled_from_another_terminal() {
    const LETTERS: i64 = 120;
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let refused = Refused::orders(&world, "1 Cancel Street", LETTERS).await;
    let left = async || refused.left().await;
    let mut command = world.dlq_command(&[&REDRIVE_REFUSED[..], &["--rate", "2/s"]].concat());
    let redrive = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("holdfast runs");
    let running = async || {
        // While the service is away there is no answer.
        let output = world.dlq(&["redrive", "--status", "--service", "payment", "-o", "json"]).await;
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let redrives = status["redrives"].as_array().cloned().unwrap_or_default();
        redrives.into_iter().find(|redrive| redrive["state"] == "running")
    };
    let redriven =
        |redrive: &Option<Value>| redrive.as_ref().and_then(|redrive| redrive["redriven"].as_i64());
    eventually("it is seen", async || redriven(&running().await).is_some_and(|done| done > 0)).await;
    let seen = running().await.expect("it runs");
    assert_eq!(
        (&seen["actor"], &seen["selection"]),
        (&"operator (tester)".into(), &"class attempts-exhausted".into())
    );
    world.restart("payment").await;
    let before = seen["redriven"].as_i64();
    eventually("it goes on after the restart", async || redriven(&running().await) > before).await;
    let again = running().await.expect("it runs");
    assert_eq!(again["id"], seen["id"], "the same one");

    let cancel = ["redrive", "--cancel", "--service", "payment", "--author", "bob"];
    let (cancelled, code) = world.dlq_json(&cancel).await;
    let left_then = left().await;
    assert_eq!((cancelled["redrives"][0]["state"].as_str(), code), (Some("cancelled"), 0), "{cancelled}");
    let done = cancelled["redrives"][0]["redriven"].as_i64().expect("a number");
    assert_eq!((done, left_then), (LETTERS - left_then, LETTERS - done), "what is counted is what was done");
    let output = tokio::task::spawn_blocking(move || redrive.wait_with_output())
        .await
        .expect("no panic")
        .expect("it ends");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{talk}");
    assert!(talk.contains("payment: cancelled by operator (bob)"), "{talk}");
    assert_eq!(left().await, left_then, "nothing more is done");
    let (_, code) = world.dlq_json(&cancel).await;
    assert_eq!(code, 3, "none is under way");
    let (audit, _) = world.dlq_json(&["audit", "--limit", "1000"]).await;
    let entries = audit["audit"].as_array().expect("a list");
    let entry = entries.iter().find(|entry| entry["action"] == "cancel-redrive").expect("it is there");
    assert_eq!((&entry["actor"], &entry["dead_letter_id"]), (&"operator (bob)".into(), &"".into()));

    refused.rest_is_redriven(left_then).await;
}

/// A record that two services have parked is one event: each names the other's letter, and one edit repairs both, in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn one_edit_reaches_every_service() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let order_id = Uuid::now_v7().to_string();
    let event = payment::PaymentCompleted {
        payment_id: Uuid::now_v7().to_string(),
        order_id: order_id.clone(),
        user_id: "nobody".to_owned(),
        amount: Some(Money { minor_units: 300, currency: Currency::EUR }.to_proto()),
        status: payment::PaymentStatus::Success.into(),
        delivery_address: "1 Sibling Street".to_owned(),
        completed_at: Some(to_timestamp(time::OffsetDateTime::now_utc())),
    };
    let value = event.encode_to_vec();
    let bare = FutureRecord::<[u8], [u8]>::to("payment.completed").payload(&value);
    world.producer().send(bare, PATIENCE).await.expect("acknowledged");
    let found = async || {
        let (list, _) =
            world.dlq_json(&["list", "--topic", "payment.completed", "--class", "schema-violation"]).await;
        let letters = list["dead_letters"].as_array().cloned().unwrap_or_default();
        letters.into_iter().filter(|letter| letter["key"] == Value::Null).collect::<Vec<_>>()
    };
    eventually("both have parked it", async || found().await.len() == 2).await;
    let letters = found().await;
    let [one, other] = letters.as_slice() else { panic!("{letters:?}") };
    let (id, sibling) = (one["id"].as_str().expect("an id"), other["id"].as_str().expect("an id"));
    let (shown, code) = world.dlq_json(&["show", id]).await;
    let expected = serde_json::json!([{ "service": other["service"], "id": sibling, "state": "parked" }]);
    assert_eq!((&shown["siblings"], code), (&expected, 0));
    let (dry, _) = world.dlq_json(&["redrive", id, sibling]).await;
    assert_eq!((dry["would_fail"].as_u64(), dry["planned"].as_u64()), (Some(2), Some(0)), "{dry}");
    assert_eq!(dry["dead_letters"][0]["reason"], "header ce_specversion is missing");

    let edit = ["edit", id, "--fill", "--everywhere", "--reason", "sent by hand"];
    let mut asks = world.dlq_command(&edit);
    asks.stdin(Stdio::null());
    let unasked = tokio::task::spawn_blocking(move || asks.output()).await.expect("no panic").expect("runs");
    let talk = String::from_utf8_lossy(&unasked.stderr);
    assert_eq!(unasked.status.code(), Some(2), "{talk}");
    assert!(talk.contains(id) && talk.contains(sibling), "it is shown before it is asked: {talk}");
    let (shown, _) = world.dlq_json(&["show", id]).await;
    assert_eq!(shown["edited_headers"], serde_json::json!([]), "nothing was done");
    let edited = world.dlq(&[&edit[..], &["--yes"]].concat()).await;
    let talk = String::from_utf8_lossy(&edited.stderr);
    assert_eq!(edited.status.code(), Some(0), "{talk}");
    let (shown, _) = world.dlq_json(&["show", id, sibling]).await;
    let of = |index: usize, field: &str| shown["dead_letters"][index][field].clone();
    assert_eq!(of(0, "edited_headers"), of(1, "edited_headers"), "the same event: the same id, too");
    assert!(of(0, "edited_headers").as_array().is_some_and(|headers| headers.len() > 5));
    assert_eq!(of(0, "history")[0]["detail"], of(1, "history")[0]["detail"]);
    let (dry, _) = world.dlq_json(&["redrive", id, sibling]).await;
    assert_eq!(
        (dry["planned"].as_u64(), dry["dead_letters"][0]["edited"].as_bool()),
        (Some(2), Some(true)),
        "{dry}"
    );

    // One is edited by itself; then they are not the same event any more.
    let header = ["edit", sibling, "--header", "ce_time=2026-01-31T12:00:00Z", "--reason", "by itself"];
    assert!(world.dlq(&header).await.status.success());
    let revert = ["edit", id, "--revert", "--everywhere", "--yes", "--reason", "back"];
    let reverted = world.dlq(&revert).await;
    let talk = String::from_utf8_lossy(&reverted.stderr);
    assert_eq!(reverted.status.code(), Some(4), "{talk}");
    assert!(talk.contains("was edited otherwise"), "{talk}");
    let given_up = ["discard", id, sibling, "--yes", "--reason", "a test"];
    assert!(world.dlq(&given_up).await.status.success());
}

/// Many records without headers are one edit: a dry run says how many it reaches and what its services would refuse, then each letter is
/// edited by itself, with its own headers and its own entry in the audit. What is refused is named and stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn letters_of_one_cause_are_edited_together() {
    const LETTERS: usize = 5;
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let user = world.user("together", "100.00").await.user;
    let orders: Vec<String> = (0..LETTERS).map(|_| Uuid::now_v7().to_string()).collect();
    let mut values: Vec<_> = orders.iter().map(|id| created(&user, id, 300).encode_to_vec()).collect();
    values.push(vec![0xff; 7]);
    let before = time::OffsetDateTime::now_utc();
    let since = before.format(&time::format_description::well_known::Rfc3339).expect("a time");
    for value in &values {
        let bare = FutureRecord::<[u8], [u8]>::to("order.created").payload(value);
        world.producer().send(bare, PATIENCE).await.expect("acknowledged");
    }
    let which = ["--service", "payment", "--topic", "order.created", "--since", &since];
    let listed = async || world.dlq_json(&[&["list"], &which[..]].concat()).await.0;
    let count = async || listed().await["dead_letters"].as_array().map_or(0, Vec::len);
    eventually("they are parked", async || count().await == values.len()).await;
    let (part, _) = world.dlq_json(&[&["list", "--limit", "2"], &which[..]].concat()).await;
    assert_eq!((part["matching"].as_u64(), part["more_match"].as_bool()), (Some(6), Some(false)), "{part}");
    let talk = world.dlq(&[&["list", "--limit", "2"], &which[..]].concat()).await.stderr;
    assert!(String::from_utf8_lossy(&talk).contains("the oldest 2 of 6"), "{talk:?}");

    let edit = [&["edit", "--fill", "--cause", "ce_specversion is missing"], &which[..]].concat();
    let (plan, code) = world.dlq_json(&[&edit[..], &["--dry-run"]].concat()).await;
    let results = |document: &Value, result: &str| {
        let lines = document["dead_letters"].as_array().cloned().unwrap_or_default();
        lines.into_iter().filter(|line| line["result"] == result).collect::<Vec<_>>()
    };
    assert_eq!(
        (results(&plan, "planned").len(), plan["executed"].as_bool(), code),
        (LETTERS, Some(false), 0)
    );
    let refused = results(&plan, "would-fail");
    assert!(refused.len() == 1 && refused[0]["reason"].is_string(), "{plan}");
    let letter = refused[0]["id"].as_str().expect("an id");
    let because = ["--reason", "sent by hand, without headers"];
    let mut asks = world.dlq_command(&[&edit[..], &because].concat());
    asks.stdin(Stdio::null());
    let unasked = tokio::task::spawn_blocking(move || asks.output()).await.expect("no panic").expect("runs");
    let talk = String::from_utf8_lossy(&unasked.stderr);
    assert_eq!(unasked.status.code(), Some(2), "{talk}");
    assert!(talk.contains("5 dead letters would be edited") && talk.contains(letter), "{talk}");
    let edited_rows = "select count(*) from dead_letters where edited_headers is not null and parked_at >= $1::text::timestamptz";
    assert_eq!(world.count("payment", edited_rows, &since).await, 0, "nothing was done");

    // Not more at once than was asked for.
    let few = [&edit[..], &because, &["--max", "2", "--yes"]].concat();
    let (done, code) = world.dlq_json(&few).await;
    assert_eq!((done["done"].as_u64(), code), (Some(2), 4), "{done}");
    let (done, code) = world.dlq_json(&[&edit[..], &because, &["--yes"]].concat()).await;
    assert_eq!(
        (results(&done, "edited").len(), results(&done, "would-fail").len(), code),
        (3, 1, 4),
        "{done}"
    );
    let ids: Vec<String> =
        results(&plan, "planned").iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect();
    for id in &ids {
        let (audit, _) = world.dlq_json(&["audit", id]).await;
        let entry = &audit["audit"][0];
        assert_eq!((&entry["action"], &entry["actor"]), (&"edit".into(), &"operator (tester)".into()));
        assert!(
            entry["detail"]
                .as_str()
                .is_some_and(|detail| detail.starts_with("sent by hand, without headers: "))
        );
    }
    let again = world.dlq(&[&edit[..], &because, &["--yes"]].concat()).await;
    let talk = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "only what is refused is left: {talk}");
    assert!(talk.contains("5 are so already"), "{talk}");
    let words: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (redriven, _) = world.dlq_json(&[&["redrive", "--execute"], &words[..]].concat()).await;
    assert_eq!(redriven["redriven"].as_u64(), Some(5), "{redriven}");
    let charges =
        "select count(*), count(distinct order_id) from ledger_entries where order_id::text = any($1)";
    assert_eq!(count_of_orders(&mut world.connect("payment").await, charges, &orders).await, (5, 5));

    // What is left is given up and taken back by the same filter.
    let give_up = [&["discard", "--reason", "garbage", "--yes"], &which[..]].concat();
    let (given_up, code) = world.dlq_json(&give_up).await;
    assert_eq!((given_up["done"].as_u64(), code), (Some(1), 0), "{given_up}");
    let restore = [&["restore", "--reason", "the wrong filter"], &which[..]].concat();
    let mut asks = world.dlq_command(&restore);
    asks.stdin(Stdio::null());
    let unasked = tokio::task::spawn_blocking(move || asks.output()).await.expect("no panic").expect("runs");
    assert_eq!(unasked.status.code(), Some(2), "{}", String::from_utf8_lossy(&unasked.stderr));
    assert_eq!(count().await, 0);
    let (restored, code) = world.dlq_json(&[&restore[..], &["--yes"]].concat()).await;
    assert_eq!((&restored["dead_letters"][0]["id"], code), (&letter.into(), 0), "{restored}");
    assert_eq!(count().await, 1);
    assert_eq!(world.dlq(&give_up).await.status.code(), Some(0));
}

/// Who keeps an edit of a letter that somebody else has edited since it was opened is shown that, and asked again; both edits are kept.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_editors_the_later_one_is_asked_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(terminal) = Terminal::open(folder.path()) else { return };
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let user = world.user("two-editors", "10.00").await.user;
    let order_id = Uuid::now_v7().to_string();
    let since = time::OffsetDateTime::now_utc();
    let since = since.format(&time::format_description::well_known::Rfc3339).expect("a time");
    let value = created(&user, &order_id, 300).encode_to_vec();
    let bare = FutureRecord::<[u8], [u8]>::to("order.created").payload(&value);
    world.producer().send(bare, PATIENCE).await.expect("acknowledged");
    let listed =
        async || world.dlq(&["list", "--service", "payment", "--since", &since, "-o", "id"]).await.stdout;
    eventually("it is parked", async || !listed().await.is_empty()).await;
    let letter = String::from_utf8(listed().await).expect("text").trim().to_owned();
    // While it is open for the first time, somebody else repairs it by options.
    let editor = folder.path().join("editor");
    let script = format!(
        r#"#!/bin/sh
if [ ! -e once ]; then
    touch once
    holdfast dlq edit {letter} --header note=theirs --author bob --reason "by another" || exit 1
fi
exec sed -i 's/"deliveryAddress": ".*"/"deliveryAddress": "9 Quay Street"/' "$1"
"#
    );
    fs::write(&editor, script).expect("written");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).expect("allowed");
    let line = format!("holdfast dlq edit {letter} --reason moved");
    let Shown { code, text: shown, .. } = terminal.type_line(&line, Some(&world.stack.layout.data_dir));
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("operator (bob) has changed it since you opened it"), "{shown}");
    assert!(shown.contains(r#"+     "note": "theirs""#), "what it was is shown: {shown}");
    let (document, _) = world.dlq_json(&["show", &letter]).await;
    let headers = document["edited_headers"].as_array().expect("a list");
    let note = headers.iter().find(|header| header["name"] == "note").expect("the other's edit is kept");
    assert_eq!(note["value"]["text"], "theirs");
    assert_eq!(document["edited_value"]["deliveryAddress"], "9 Quay Street", "and one's own");
    let given_up = world.dlq(&["discard", &letter, "--yes", "--reason", "a test"]).await;
    assert!(given_up.status.success());
}

/// What a redrive causes in other services is named when it ends: here payments of orders that order does not know.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_redrive_causes_elsewhere_is_named() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let user = world.user("caused", "10.00").await.user;
    let orders = [Uuid::now_v7().to_string(), Uuid::now_v7().to_string()];
    let mut ids = Vec::new();
    for order_id in &orders {
        world.send_created(&user, order_id, &[0xff; 7]).await;
        eventually("it is parked", || async { parked_of(&world, order_id).await == 1 }).await;
        let (list, _) = world.dlq_json(&["list", "--order", order_id]).await;
        let id = list["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
        let event = tempfile::NamedTempFile::new().expect("a file");
        let (template, document) = (world.dlq(&["edit", &id, "--template"]).await.stdout, event.path());
        let text = String::from_utf8(template)
            .expect("text")
            .replace("\"minorUnits\": \"0\"", "\"minorUnits\": \"300\"");
        let text = text.replace("\"deliveryAddress\": \"\"", "\"deliveryAddress\": \"1 Cause Street\"");
        fs::write(document, text).expect("written");
        let path = document.to_str().expect("a path");
        let edited =
            world.dlq(&["edit", &id, "--document", path, "--reason", "repaired", "-o", "json"]).await;
        let talk = String::from_utf8_lossy(&edited.stderr);
        assert_eq!(edited.status.code(), Some(0), "{talk}");
        let done: Value = serde_json::from_slice(&edited.stdout).expect("JSON");
        assert_eq!(
            (&done["dead_letters"][0]["id"], &done["dead_letters"][0]["result"]),
            (&id.clone().into(), &"edited".into())
        );
        ids.push(id);
    }
    // The second letter waits until the first one has had its effects, so that they are there when the redrive ends.
    let mut payments = world.connect("payment").await;
    let mut holder = payments.begin().await.expect("begun");
    sqlx::query("select from dead_letters where id::text = $1 for update")
        .bind(&ids[1])
        .execute(&mut *holder)
        .await
        .expect("locked");
    let mut command = world.dlq_command(&["redrive", &ids[0], &ids[1], "--execute", "-o", "json"]);
    let redrive = tokio::task::spawn_blocking(move || command.output());
    let caused = "select count(*) from dead_letters where subject = $1 and state = 'parked'";
    eventually("order has parked what it does not know", || async {
        world.count("order", caused, &orders[0]).await > 0
    })
    .await;
    holder.commit().await.expect("released");
    let output = redrive.await.expect("no panic").expect("holdfast runs");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{talk}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let named = document["caused"].as_array().expect("a list");
    assert!(
        named.iter().any(|letter| letter["service"] == "order" && letter["key"] == orders[0].as_str()),
        "{document}"
    );
    let first = named[0]["id"].as_str().expect("an id");
    assert!(talk.contains("more parked than before") && talk.contains(first), "{talk}");
    // Both are settled before the next test begins.
    eventually("the second one, too", || async { world.count("order", caused, &orders[1]).await > 0 }).await;
    for order_id in &orders {
        let give_up = ["discard", "--order", order_id, "--yes", "--reason", "a test"];
        eventually("nothing of it is parked", async || {
            world.dlq(&give_up).await;
            let left = world.dlq(&["list", "--order", order_id]).await;
            left.status.code() == Some(3)
        })
        .await;
    }
}

/// Two counts over rows of these orders: all of them, and the distinct ones.
async fn count_of_orders(connection: &mut PgConnection, sql: &'static str, orders: &[String]) -> (i64, i64) {
    let row = sqlx::query(sql).bind(orders).fetch_one(connection).await.expect("counted");
    (row.get(0), row.get(1))
}

/// A thousand letters are redriven while the command, the service and Kafka are killed with -9: each is applied exactly
/// once, and the audit has every action.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_letters_survive_every_kill() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    // The cause: a database that refuses payments, for a reason in the data.
    let mut payments = world.connect("payment").await;
    world.refuse_payments().await;
    let orders = world.create_orders("1 Kill Street", 1000).await;
    assert_eq!(orders.len(), 1000);
    let class = "select count(*) from dead_letters where class = $1 and state = 'parked'";
    reaches("all are parked", 1000, || world.count("payment", class, "attempts-exhausted")).await;
    world.accept_payments().await;

    let left = async || world.count("payment", class, "attempts-exhausted").await;
    let arguments =
        ["redrive", "--service", "payment", "--class", "attempts-exhausted", "--execute", "--rate", "60/s"];
    // So slow that it is under way for a while at each step, which takes a command or two.
    let start = || {
        let mut command = world.dlq_command(&arguments);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("holdfast runs")
    };
    // The command dies.
    let mut redrive = start();
    eventually("some are redriven", || async { left().await < 900 }).await;
    redrive.kill().expect("kill -9");
    redrive.wait().expect("it is gone");
    assert!(left().await > 0);
    // A second one begins as soon as the service has noticed; a third one meanwhile is refused.
    let mut redrive = start();
    eventually("it continues", || async { left().await < 800 }).await;
    let refused = world.dlq(&["redrive", "--service", "payment", "--all", "--execute"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let talk = String::from_utf8_lossy(&refused.stderr);
    assert!(talk.contains("operator (tester) redrives since"), "{talk}");
    assert!(talk.contains("end it with `holdfast dlq redrive --cancel --service payment"), "{talk}");
    // The service dies, then the broker; the command waits for the one and doesn't need the other.
    world.kill("payment");
    eventually("it continues", || async { left().await < 600 }).await;
    world.kill("kafka");
    eventually("it continues", || async { left().await < 400 }).await;
    let ended =
        tokio::task::spawn_blocking(move || redrive.wait()).await.expect("no panic").expect("it ends");
    assert!(ended.success(), "{ended}");
    assert_eq!(left().await, 0);

    let audited = "select count(*), count(distinct dead_letter_id) from dead_letter_audit as a
        join dead_letters as d on d.id = a.dead_letter_id
        where a.action = 'redrive' and d.subject = any($1)";
    let audited = count_of_orders(&mut payments, audited, &orders).await;
    assert_eq!(audited, (1000, 1000), "the audit has every action once");
    let charged =
        "select count(*), count(distinct order_id) from ledger_entries where order_id::text = any($1)";
    let charged = count_of_orders(&mut payments, charged, &orders).await;
    assert_eq!(charged, (1000, 1000), "charged exactly once");
    // And the saga of each order runs to its end.
    let paid = "select count(*) from orders where delivery_address = $1 and status = 'PAID'";
    reaches("all are paid", 1000, || world.count("order", paid, "1 Kill Street")).await;
    world.every_record_is_tallied().await;
}
