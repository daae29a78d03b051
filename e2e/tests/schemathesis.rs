//! The gateway against schemathesis, which makes up requests from the OpenAPI document: right ones, wrong ones, and chains of them.
//! No answer is a defect, each has a status, header fields and content that the document describes, what the document allows is
//! taken, and what it does not allow is refused.

use std::{path::Path, process::Command};

use holdfast_e2e::{World, eventually, id, skipped};
use holdfast_native::layout::Scope;
use holdfast_testkit::stack::TestStack;

/// What the script answers where schemathesis can't be installed.
const CANNOT_BE_INSTALLED: i32 = 77;

/// See the file. Skipped where there is no Python 3, or no package index.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_one_that_the_document_describes() {
    // A delivery that does not end: the first event of a stream is there at once, and no stream is waited for.
    let environment = [("HOLDFAST__DELIVERY__STEP", "1h")];
    let stack = tokio::task::spawn_blocking(move || TestStack::start(Scope::Everything, &[], &environment));
    let world = World::of(Box::leak(Box::new(stack.await.expect("it starts"))));
    let user = world.user("maker-up", "1000000.00").await;
    let order = id(&world.create(&user, "1 Quay Street", 100).await);
    eventually("the order is on its way", || async {
        user.order(&order).await.expect("answered")["delivery_status"] == "PENDING"
    })
    .await;

    let scopes = "orders:read orders:write accounts:read accounts:credit";
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/schemathesis.sh"));
    command
        .arg(world.rest.base_url())
        .env("HOLDFAST_USER", &user.user)
        .env("HOLDFAST_TOKEN", world.rest.token(&user.user, scopes).expect("a token"));
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("bash runs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = said(&output.stdout) + &said(&output.stderr);
    if output.status.code() == Some(CANNOT_BE_INSTALLED) {
        skipped(&format!(
            "schemathesis can't be installed, so no requests were made up from the document\n{said}"
        ));
        return;
    }
    assert!(output.status.success(), "{said}");
    world.invariants_hold().await;
}
