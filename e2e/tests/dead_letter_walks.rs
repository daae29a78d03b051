//! The walks of `docs/dead-letters-walk.md`, typed on a real terminal.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::OnceLock};

use holdfast_e2e::{
    PATIENCE, World,
    events::created,
    eventually, id, reaches,
    terminal::Terminal,
    transcript::{Names, Page},
};
use holdfast_native::layout::Scope;
use holdfast_testkit::stack::TestStack;
use prost::Message as _;
use rdkafka::producer::FutureRecord;
use serde_json::Value;

/// An address that `events::created` gives, too.
const ADDRESS: &str = "1 Repair Road";
const LETTERS: u64 = 1_500;

fn world() -> World {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    World::of(STACK.get_or_init(|| {
        TestStack::start(
            Scope::Everything,
            &[],
            &[
                ("HOLDFAST__DELIVERY__STEP", "50ms"),
                // Many letters in a row are what is walked through.
                ("HOLDFAST__KAFKA__DEAD_LETTERS_IN_A_ROW_MAX", "1000000"),
                ("HOLDFAST__KAFKA__DEAD_LETTER_SHARE_MAX", "1.0"),
            ],
        )
    }))
}

async fn parked(world: &World) -> i64 {
    world.count("payment", "select count(*) from dead_letters where state = $1", "parked").await
}

/// What an operator does in an editor.
fn editor(folder: &Path) {
    let editor = folder.join("editor");
    let edits = format!(
        r#"s/"deliveryAddress": ".*"/"deliveryAddress": "{ADDRESS}"/; s/"minorUnits": "0"/"minorUnits": "300"/"#
    );
    fs::write(&editor, format!("#!/bin/sh\nexec sed -i '{edits}' \"$1\"\n")).expect("written");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).expect("allowed");
}

/// The page shows what an operator sees.
#[tokio::test(flavor = "multi_thread")]
async fn the_walks_are_as_the_page_shows_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(terminal) = Terminal::open(folder.path()) else { return };
    let world = world();
    editor(folder.path());
    // The stack of the folder, so that no hint needs to name one.
    std::os::unix::fs::symlink(&world.stack.layout.data_dir, folder.path().join(".holdfast"))
        .expect("linked");
    let mut page = Page::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dead-letters-walk.md"));
    let mut names = Names::default();
    let mut type_line = |line: &str| terminal.type_line(line, None).text;

    // An order that is paid and delivered: its events can come again without any effect.
    let alice = world.rest.user("alice").expect("a token");
    let order_id = id(&world.create(&alice, ADDRESS, 300).await);
    let delivered = "select count(*) from orders where order_id::text = $1 and delivery_status = 'DELIVERED'";
    eventually("it is delivered", || async { world.count("order", delivered, &order_id).await == 1 }).await;

    let value = created("alice", &order_id, 300).encode_to_vec();
    let bare = FutureRecord::<[u8], [u8]>::to("order.created").payload(&value);
    world.producer().send(bare, PATIENCE).await.expect("acknowledged");
    eventually("it is parked", || async { parked(&world).await == 1 }).await;
    page.walk("A record without key and headers", &mut names, &mut type_line);
    assert_eq!(parked(&world).await, 0);

    world.send_created("alice", &order_id, &[0xff; 7]).await;
    eventually("it is parked", || async { parked(&world).await == 1 }).await;
    page.walk("A value that is no event", &mut names, &mut type_line);
    assert_eq!(parked(&world).await, 0);
    let charges = "select count(*) from ledger_entries where order_id::text = $1";
    assert_eq!(world.count("payment", charges, &order_id).await, 1, "charged once");

    world.refuse_payments().await;
    let orders = world.create_orders("1 Walk Street", LETTERS).await;
    let letters = i64::try_from(LETTERS).expect("few");
    reaches("all are parked", letters, || parked(&world)).await;
    world.accept_payments().await;
    page.walk("Many letters of one cause", &mut names, &mut type_line);
    assert_eq!((parked(&world).await, orders.len() as u64), (0, LETTERS));
    let charged = "select count(*) from ledger_entries as l join payments as p on p.order_id = l.order_id where p.delivery_address = $1";
    assert_eq!(world.count("payment", charged, "1 Walk Street").await, letters, "each was charged once");
    let (stats, _) = world.dlq_json(&["stats"]).await;
    assert_eq!(stats["stats"], Value::Array(Vec::new()), "nothing is left anywhere");
    page.close();
}
