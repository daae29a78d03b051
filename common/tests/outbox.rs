//! What operators do about outbox rows that can't be published, on real PostgreSQL and Kafka.

mod support;

use std::sync::Arc;

use holdfast_common::{
    event::NewEvent,
    identity::{Peer, SpiffeId},
    outbox::service::Outbox,
};
use holdfast_proto::ops::v1::{self as pb, outbox_service_server::OutboxService as _};
use support::{Lab, eventually};
use tonic::{Code, Request};

fn as_operator<M>(message: M) -> Request<M> {
    let id = SpiffeId::parse("spiffe://holdfast.internal/operator").expect("an id");
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer { id: Arc::new(id), serial: "01".into(), not_after: i64::MAX });
    request
}

fn service(lab: &Lab) -> Outbox {
    Outbox::new(lab.database.clone(), "order")
}

async fn held_back(lab: &Lab) -> Vec<pb::HeldBackRow> {
    let request = pb::ListHeldBackRowsRequest { page_size: 1000, ..Default::default() };
    service(lab).list_held_back_rows(as_operator(request)).await.expect("listed").into_inner().rows
}

async fn drop_row(lab: &Lab, id: i64) -> Vec<i64> {
    let request =
        pb::DropHeldBackRowsRequest { ids: vec![id], reason: "too large".into(), author: "alice".into() };
    service(lab).drop_held_back_rows(as_operator(request)).await.expect("dropped").into_inner().dropped
}

/// A row that is dropped is never published, what is behind it is published at once, and the audit says who and why.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_row_lets_those_behind_it_go() {
    let lab = Lab::new("outbox-drop").await;
    let huge = "x".repeat(3 * 1024 * 1024);
    // Longer than what a listing shows of a key.
    let key = "bad".repeat(1_000);
    let event = |payload: &str| NewEvent { key: key.clone(), ..lab.event("bad", payload) };
    lab.write(vec![event(&huge), event("01"), event("02")]).await;
    let relay = lab.start_relay();
    eventually("all are held back", || async { lab.count("select count(*) from outbox_held").await == 3 })
        .await;
    let rows = held_back(&lab).await;
    assert_eq!(rows.len(), 1, "the oldest of the key: {rows:?}");
    let row = &rows[0];
    assert_eq!((row.topic.as_str(), row.waiting_behind), (lab.topic, 2));
    assert_eq!(row.key, &key.as_bytes()[..256]);
    assert!(row.attempts > 0 && !row.last_error.is_empty(), "{row:?}");
    assert_eq!(drop_row(&lab, row.id).await, [row.id]);
    assert!(drop_row(&lab, row.id).await.is_empty(), "twice is once");
    eventually("nothing is held back", || async {
        lab.count("select count(*) from outbox_lanes").await
            + lab.count("select count(*) from outbox_held").await
            == 0
    })
    .await;
    relay.end().await;
    let values: Vec<String> =
        lab.read_topic(lab.topic).await.into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(values, ["01", "02"]);
    let audited = "select count(*) from outbox_audit
        where action = 'drop' and actor = 'operator (alice)' and reason = 'too large' and value_hash is not null";
    assert_eq!(lab.count(audited).await, 1);
}

/// A row that an operator retries is published before its pause has ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_retry_a_row_at_once() {
    let lab = Lab::new("outbox-retry").await;
    let gone: &'static str = format!("{}.dlq", lab.topic).leak();
    lab.write(vec![NewEvent { topic: gone, ..lab.event("lost", "01") }]).await;
    let relay = lab.start_relay();
    eventually("it is held back", || async { held_back(&lab).await.len() == 1 }).await;
    lab.alter("update outbox_lanes set retry_at = clock_timestamp() + interval '1 day'").await;
    lab.create_topic(gone).await;
    // An attempt that was under way may have set a new pause; then it is retried again.
    eventually("it is published", || async {
        let request = pb::RetryHeldBackRowsRequest { all: true, author: "alice".into(), ids: Vec::new() };
        let retried = service(&lab).retry_held_back_rows(as_operator(request)).await.expect("retried");
        retried.into_inner().retried == 0
    })
    .await;
    relay.end().await;
    assert_eq!(lab.read_topic(gone).await.len(), 1);
    assert!(lab.count("select count(*) from outbox_audit where action = 'retry'").await >= 1);
}

/// No selection never means everything: no ids, no reason, or both ids and all are refused.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_not_everything() {
    let lab = Lab::new("outbox-usage").await;
    let service = service(&lab);
    for (ids, all) in [(vec![], false), (vec![1], true)] {
        let request = pb::RetryHeldBackRowsRequest { ids, all, author: String::new() };
        let refused = service.retry_held_back_rows(as_operator(request)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    for (ids, reason) in [(vec![], "why"), (vec![1], " ")] {
        let request = pb::DropHeldBackRowsRequest { ids, reason: reason.into(), author: String::new() };
        let refused = service.drop_held_back_rows(as_operator(request)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
