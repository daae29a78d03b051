//! Re-emitting events, on real PostgreSQL: only what the rows prove, once, with an audit.

mod support;

use std::sync::Arc;

use holdfast_common::{
    database::DatabaseError,
    event::NewEvent,
    identity::{Peer, SpiffeId},
    reconcile::{Fact, Facts, service::Reconcile},
};
use holdfast_proto::{
    ops::v1::{self as pb, reconcile_service_server::ReconcileService as _},
    to_timestamp,
};
use sqlx::{PgConnection, Row as _};
use support::Lab;
use time::OffsetDateTime;
use tonic::{Code, Request};
use uuid::Uuid;

/// A service that has written these.
struct Written(Vec<NewEvent>);

#[tonic::async_trait]
impl Facts for Written {
    async fn unfinished(
        &self,
        _: &mut PgConnection,
        _: OffsetDateTime,
        after: &str,
        limit: i64,
    ) -> Result<Vec<String>, DatabaseError> {
        let mut subjects: Vec<String> = self.0.iter().map(|event| event.subject.clone()).collect();
        subjects.retain(|subject| subject.as_str() > after);
        subjects.sort();
        subjects.dedup();
        subjects.truncate(usize::try_from(limit).expect("positive"));
        Ok(subjects)
    }

    async fn events(&self, _: &mut PgConnection, subjects: &[String]) -> Result<Vec<Fact>, DatabaseError> {
        let events = self.0.iter().filter(|event| subjects.contains(&event.subject));
        Ok(events.cloned().map(Fact::Event).collect())
    }
}

fn as_operator<M>(message: M) -> Request<M> {
    let id = SpiffeId::parse("spiffe://holdfast.internal/operator").expect("an id");
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer { id: Arc::new(id), serial: "01".into(), not_after: i64::MAX });
    request
}

fn reemit(subject: &str, ids: &[Uuid]) -> pb::ReemitEventsRequest {
    pb::ReemitEventsRequest {
        subject: subject.to_owned(),
        event_ids: ids.iter().map(Uuid::to_string).collect(),
        reason: "the broker lost it".to_owned(),
        author: "alice".to_owned(),
    }
}

/// An event is re-emitted once, under its id, and the audit says who wanted it. An event that the rows don't prove, or that belongs
/// to another aggregate, is refused, and nothing is done.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_rows_prove_is_re_emitted() {
    let lab = Lab::new("reconcile").await;
    let (one, two, other) = (lab.event("a", "01"), lab.event("a", "02"), lab.event("b", "03"));
    let service =
        Reconcile::new(lab.database.clone(), "order", Written(vec![one.clone(), two.clone(), other.clone()]));
    for ids in [&[one.id, Uuid::now_v7()], &[one.id, other.id]] {
        let refused = service.reemit_events(as_operator(reemit("a", ids))).await.expect_err("refused");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    }
    for request in [
        reemit("a", &[]),
        reemit("", &[one.id]),
        pb::ReemitEventsRequest { reason: String::new(), ..reemit("a", &[one.id]) },
    ] {
        let refused = service.reemit_events(as_operator(request)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    assert_eq!(lab.count("select count(*) from outbox").await, 0);
    assert_eq!(lab.count("select count(*) from outbox_audit").await, 0);

    // In the order in which they were written, whatever the order of the request.
    let ids = [two.id, one.id];
    let answer =
        service.reemit_events(as_operator(reemit("a", &ids))).await.expect("re-emitted").into_inner();
    assert_eq!(answer.event_ids, [one.id.to_string(), two.id.to_string()]);
    let again = service.reemit_events(as_operator(reemit("a", &ids))).await.expect("answered").into_inner();
    assert!(again.event_ids.is_empty(), "they wait already");
    let sql = "select o.value, a.actor, a.action, a.reason, a.event_id, a.subject
        from outbox as o join outbox_audit as a on a.outbox_id = o.id order by o.id";
    let rows = sqlx::query(sql).fetch_all(&mut lab.connect().await).await.expect("read");
    assert_eq!(rows.len(), 2);
    for (row, event) in rows.iter().zip([&one, &two]) {
        assert_eq!(row.get::<Vec<u8>, _>("value"), event.payload);
        assert_eq!(row.get::<String, _>("actor"), "operator (alice)");
        assert_eq!(row.get::<String, _>("action"), "re-emit");
        assert_eq!(row.get::<String, _>("reason"), "the broker lost it");
        assert_eq!(row.get::<Uuid, _>("event_id"), event.id);
        assert_eq!(row.get::<String, _>("subject"), "a");
    }
    let request = pb::ListWrittenEventsRequest { subjects: vec!["a".into(), "b".into()] };
    let written = service.list_written_events(as_operator(request)).await.expect("listed").into_inner();
    let places: Vec<pb::OutboxPlace> = written.events.iter().map(pb::WrittenEvent::outbox).collect();
    assert_eq!(places, [pb::OutboxPlace::Waiting, pb::OutboxPlace::Waiting, pb::OutboxPlace::Absent]);
}

/// Aggregates come in pages; exactly the events that are in the inbox were handled.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_handled_is_listed() {
    let lab = Lab::new("reconcile-inbox").await;
    let events: Vec<NewEvent> = ["a", "b", "c"].map(|subject| lab.event(subject, "01")).to_vec();
    let service = Reconcile::new(lab.database.clone(), lab.group, Written(events.clone()));
    let mut page_token = String::new();
    let mut pages = Vec::new();
    loop {
        let before = Some(to_timestamp(OffsetDateTime::now_utc()));
        let request = pb::ListUnfinishedRequest { before, page_size: 2, page_token };
        let page = service.list_unfinished(as_operator(request)).await.expect("listed").into_inner();
        pages.push(page.subjects);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [vec!["a", "b"], vec!["c"]]);
    let before = Some(to_timestamp(OffsetDateTime::now_utc()));
    let request = pb::ListUnfinishedRequest { before, page_size: 2, page_token: "a\0".to_owned() };
    let refused = service.list_unfinished(as_operator(request)).await.expect_err("no name of an aggregate");
    assert_eq!(refused.code(), Code::InvalidArgument);

    lab.processor().process(vec![lab.record(0, events[1].clone())].into()).await.expect("handled");
    let request = pb::ListUnhandledEventsRequest {
        event_ids: events.iter().map(|event| event.id.to_string()).collect(),
        subjects: vec!["a".into()],
    };
    let answer = service.list_unhandled_events(as_operator(request)).await.expect("listed").into_inner();
    assert_eq!(answer.event_ids, [events[0].id.to_string(), events[2].id.to_string()]);
    assert!(answer.parked.is_empty());
}
