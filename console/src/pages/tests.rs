//! Pages without a browser: hostile text in every field, and 0, 1 and 10,000 rows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use holdfast_common::{
    kafka::reader::{PartitionView, Retention},
    record::{Header, Record},
};
use holdfast_operator::{
    examine::{Away, Examination, Missing, Promise},
    verdict::State,
};
use holdfast_proto::{ops::v1 as pb, to_timestamp, topic};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    audit, components, confirm, desk, edit, groups, job, letter, letters, list, message, order,
    order_messages, outbox, reconcile, redrives, reemit, resume, revert, start, stuck, topic as topic_page,
    topics,
};
use crate::{
    admin::{Budget, Metrics, Part, Readiness, Replica},
    ask::Asked,
    browse::{Ends, OrderSeen, Question, Seen, Start, TopicSeen, Which},
    job::{Action, Job, Line, Preview, Progress, Selection},
    payloads::Payloads,
    saga::{Evidence, Reader},
    scan::{Looked, Scan, Span, Stop},
    view::{Frame, ROWS_MAX, Shown},
    when::When,
};

/// Ends elements, attributes and comments, begins scripts, reorders, hides, and acts on terminals.
const HOSTILE: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>--></textarea>\u{202e}\u{2066}\u{200b}\u{feff}\u{1b}[2J\u{0}\u{7f}\u{85}\u{2028}\r\n\t&lt;";
const ORDER: &str = "01a21184-8763-7214-acea-bb1c3b689082";
/// A page of as many rows as there may be at most.
const PAGE_BYTES_MAX: usize = 256 * 1024;

fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)
}

fn frame() -> Frame {
    Frame {
        title: "Test",
        author: Shown::of(HOSTILE),
        missing: vec![Shown::of(HOSTILE)],
        commands: vec![crate::view::escaped(HOSTILE)],
        may_change: true,
        stream: crate::view::link("/live", &[("page", HOSTILE)]),
        ..Frame::default()
    }
}

fn hostile() -> String {
    HOSTILE.to_owned()
}

fn letter(number: usize) -> pb::DeadLetter {
    let header = pb::RecordHeader { name: hostile(), value: HOSTILE.as_bytes().to_vec() };
    let stamp = Some(to_timestamp(now()));
    pb::DeadLetter {
        id: if number == 0 { hostile() } else { Uuid::from_u128(number as u128).to_string() },
        service: hostile(),
        group: hostile(),
        class: hostile(),
        reason: hostile(),
        state: pb::DeadLetterState::Parked.into(),
        topic: topic::ORDER_CREATED.to_owned(),
        subject: hostile(),
        blocked_by: hostile(),
        first_failed_at: stamp,
        parked_at: stamp,
        key: Some(HOSTILE.as_bytes().to_vec()),
        value: Some(EVENT.clone()),
        headers: vec![header.clone(); 3],
        edited_value: Some(HOSTILE.as_bytes().to_vec()),
        edited_key: Some(HOSTILE.as_bytes().to_vec()),
        edited_headers: vec![header],
        history: vec![entry()],
        ..pb::DeadLetter::default()
    }
}

/// An event whose texts are hostile.
static EVENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let text = serde_json::json!({ "orderId": HOSTILE, "userId": HOSTILE, "deliveryAddress": HOSTILE });
    holdfast_operator::schema::encode(topic::ORDER_CREATED, &text.to_string()).expect("an event")
});

fn entry() -> pb::DeadLetterAuditEntry {
    pb::DeadLetterAuditEntry {
        id: hostile(),
        at: Some(to_timestamp(now())),
        actor: hostile(),
        action: hostile(),
        dead_letter_id: hostile(),
        detail: hostile(),
    }
}

fn written(topic: &str) -> pb::WrittenEvent {
    pb::WrittenEvent {
        event_id: hostile(),
        topic: topic.to_owned(),
        subject: ORDER.to_owned(),
        time: Some(to_timestamp(now())),
        unprovable: hostile(),
        ..pb::WrittenEvent::default()
    }
}

fn evidence(rows: usize) -> Evidence {
    let reader = || Reader { seen_at: Some(now()), ..Reader::default() };
    let mut letters = vec![letter(1); rows.min(1)];
    for letter in &mut letters {
        "ce_id".clone_into(&mut letter.headers[0].name);
    }
    Evidence {
        written: vec![
            ("order", vec![written(topic::ORDER_CREATED); rows]),
            ("payment", vec![written(HOSTILE); rows]),
        ],
        readers: HashMap::from([("order", reader()), ("payment", reader())]),
        letters: letters.into_iter().map(|letter| ("payment", letter)).collect(),
        has_more_letters: Vec::new(),
    }
}

/// So many lost events, of a stranger's order each.
fn examination(rows: usize) -> Examination {
    let missing = Missing {
        order_id: hostile(),
        topic: hostile(),
        event_id: Some(hostile()),
        time: Some(now()),
        writer: "payment",
        readers: vec!["order"],
        unknown_at: vec!["delivery"],
        state: State::Lost,
        detail: hostile(),
    };
    let parked = pb::ParkedAggregate { subject: hostile(), dead_letter_id: hostile() };
    let promise = Promise {
        topic: topic::ORDER_CREATED,
        writer: "order",
        reader: "payment",
        unchecked: Some(hostile()),
    };
    Examination {
        orders: vec![hostile(); rows],
        next: hostile(),
        handled: Vec::new(),
        missing: vec![missing; rows],
        blocked: vec![("payment", parked); rows],
        promises: vec![promise; rows],
        away: Away::these(&["delivery"]),
    }
}

fn position() -> pb::ConsumerPosition {
    pb::ConsumerPosition { topic: hostile(), first: Some(0), end: Some(9), ..pb::ConsumerPosition::default() }
}

fn line() -> Line {
    Line { id: hostile(), topic: hostile(), order: hostile(), result: hostile(), why: hostile() }
}

fn selection() -> Selection {
    Selection {
        action: Action::Redrive,
        service: hostile(),
        topic: hostile(),
        class: hostile(),
        order: hostile(),
        id: hostile(),
        since: When::default(),
        until: When::default(),
        max: 5,
        rate: 1,
        force: true,
    }
}

fn redrive() -> pb::Redrive {
    pb::Redrive {
        id: hostile(),
        actor: hostile(),
        selection: hostile(),
        cancelled_by: hostile(),
        started_at: Some(to_timestamp(now())),
        state: pb::RedriveState::Running.into(),
        ..pb::Redrive::default()
    }
}

type Pages = Vec<(&'static str, String)>;

/// Every page with this many rows, by its name.
fn pages(rows: usize) -> Pages {
    [
        pages_of_orders(rows),
        pages_of_letters(rows),
        pages_of_changes(rows),
        pages_of_services(rows),
        pages_of_topics(rows),
    ]
    .concat()
}

fn add(pages: &mut Pages, name: &'static str, page: &dyn askama::DynTemplate) {
    pages.push((name, page.dyn_render().expect("rendered")));
}

fn stats(rows: usize) -> pb::GetDeadLetterStatsResponse {
    let of_cause = pb::DeadLetterStats {
        topic: hostile(),
        class: hostile(),
        parked: 3,
        oldest_parked_at: Some(to_timestamp(now())),
    };
    let stop = pb::ConsumerStop { reason: hostile(), stopped_at: Some(to_timestamp(now())) };
    pb::GetDeadLetterStatsResponse {
        stats: vec![of_cause; rows],
        stops: vec![stop; rows],
        ..pb::GetDeadLetterStatsResponse::default()
    }
}

fn pages_of_orders(rows: usize) -> Pages {
    let (mut pages, now) = (Pages::new(), now());
    let services = vec![start::ServiceRow::of("order", &stats(rows), now)];
    add(&mut pages, "start", &start::View { frame: frame(), services });
    let letters: Vec<_> = (0..rows).map(letter).collect();
    add(&mut pages, "order", &order::View::of(frame(), ORDER, &evidence(rows), &letters, true, now));
    let orders: Vec<String> =
        (0..rows).map(|number| if number == 0 { hostile() } else { ORDER.to_owned() }).collect();
    let orders = stuck::rows(&evidence(1), &orders, true, now);
    let view = stuck::View {
        frame: frame(),
        older: Shown::of(HOSTILE),
        reconcile: String::new(),
        orders,
        next: String::new(),
    };
    add(&mut pages, "stuck", &view);
    let wanted: reconcile::Wanted = serde_urlencoded::from_str(
        &crate::view::link("", &["order", "older", "after"].map(|field| (field, HOSTILE)))[1..],
    )
    .expect("fields");
    let view = reconcile::View::of(frame(), &wanted, &examination(rows), now);
    add(&mut pages, "reconcile", &view);
    let plan = reemit::plan(&reemit::Wanted::of(HOSTILE), &examination(rows), now);
    add(&mut pages, "re-emit", &confirm::View::of(frame(), &plan, HOSTILE, HOSTILE));
    pages
}

fn pages_of_letters(rows: usize) -> Pages {
    let (mut pages, now) = (Pages::new(), now());
    let (groups, has_more) = letters::groups(&[("order", stats(rows))], now);
    assert_eq!(has_more, rows > ROWS_MAX);
    add(&mut pages, "letters", &letters::View { frame: frame(), groups, has_more });
    let page = pb::ListDeadLettersResponse {
        dead_letters: (0..rows).map(letter).collect(),
        next_page_token: hostile(),
        ..pb::ListDeadLettersResponse::default()
    };
    let filter: list::Filter =
        serde_urlencoded::from_str(&crate::view::link("", &[("service", "order"), ("order", HOSTILE)])[1..])
            .expect("a filter");
    add(&mut pages, "list", &list::View::of(frame(), &filter, vec![("order", page)], now));
    let mut whole = letter(1);
    whole.history = vec![entry(); rows];
    whole.headers = vec![whole.headers[0].clone(); rows];
    for (name, payloads) in [
        ("letter", Payloads::Full),
        ("masked letter", Payloads::Masked),
        ("letter without values", Payloads::Off),
    ] {
        let view = letter::View::of(frame(), "order", &whole, payloads, now).expect("shown");
        add(&mut pages, name, &view);
    }
    add(&mut pages, "edit", &edit::View::of(frame(), &letter(1), None, HOSTILE).expect("a document"));
    add(&mut pages, "revert", &confirm::View::of(frame(), &revert::plan(&letter(0)), HOSTILE, HOSTILE));
    pages
}

fn pages_of_changes(rows: usize) -> Pages {
    let (mut pages, now) = (Pages::new(), now());
    let lines = vec![line(); rows];
    let preview = Preview { letters: 3, lines: lines.clone(), digest: "d".to_owned() };
    let view = desk::View::of(frame(), &selection(), &preview, Uuid::from_u128(1), (HOSTILE, HOSTILE));
    add(&mut pages, "desk", &view);
    let done = Job {
        selection: selection(),
        author: hostile(),
        reason: hostile(),
        began_at: now,
        planned: rows,
        progress: Progress::Broken(hostile()),
        lines,
        parked_before: BTreeMap::from([("order", 1)]),
    };
    let seen = job::Seen {
        states: BTreeMap::from([(hostile(), hostile())]),
        parked_now: BTreeMap::from([("order", 2)]),
        redrive: Some(("order", redrive())),
    };
    add(&mut pages, "job", &job::View::of(frame(), &done, &seen, now));
    let redrives = redrives::rows(&[("order", vec![redrive(); rows])], now);
    add(&mut pages, "redrives", &redrives::View { frame: frame(), redrives });
    let plan = redrives::plan("order", &redrive(), now);
    add(&mut pages, "cancel", &confirm::View::of(frame(), &plan, HOSTILE, HOSTILE));
    let audit =
        pb::ListDeadLetterAuditResponse { entries: vec![entry(); rows], next_page_token: String::new() };
    let (entries, has_more) = audit::rows(&[("order", audit)], now);
    let wanted: audit::Wanted = serde_urlencoded::from_str(
        &crate::view::link("", &["service", "letter"].map(|field| (field, HOSTILE)))[1..],
    )
    .expect("fields");
    let view = audit::View::of(frame(), &wanted, entries, String::new(), has_more);
    add(&mut pages, "audit", &view);
    pages
}

fn pages_of_services(rows: usize) -> Pages {
    let (mut pages, now) = (Pages::new(), now());
    let positions =
        pb::ListPositionsResponse { positions: vec![position(); rows], seen_at: Some(to_timestamp(now)) };
    let stops = stats(rows).stops;
    let services = vec![groups::ServiceRow::of("order", &positions, &stops, now)];
    add(&mut pages, "groups", &groups::View { frame: frame(), services });
    let plan = resume::plan(&resume::Wanted::of(HOSTILE), &stops, now);
    add(&mut pages, "resume", &confirm::View::of(frame(), &plan, HOSTILE, HOSTILE));
    let row = pb::HeldBackRow {
        topic: hostile(),
        key: HOSTILE.as_bytes().to_vec(),
        last_error: hostile(),
        ..pb::HeldBackRow::default()
    };
    let held_back = pb::ListHeldBackRowsResponse { rows: vec![row; rows], next_page_token: String::new() };
    let (held_back, has_more) = outbox::rows(&[("order", held_back)], Payloads::Full, now);
    add(&mut pages, "outbox", &outbox::View { frame: frame(), rows: held_back, has_more });
    let part = Part { ready: false, required: true, detail: hostile() };
    let parts = (0..rows).map(|number| (format!("{HOSTILE}{number}"), part.clone())).collect();
    let replica = Replica {
        name: hostile(),
        readiness: Asked::Answer(Readiness { ready: true, degraded: true, components: parts }),
        metrics: Asked::Answer(Metrics {
            breakers: vec![[hostile(), hostile(), hostile()]; rows],
            budgets: (0..rows).map(|number| (format!("{HOSTILE}{number}"), Budget::default())).collect(),
            certificate_ends: Some(now),
        }),
    };
    let away = Replica {
        name: hostile(),
        readiness: Asked::NotAsked(hostile()),
        metrics: Asked::NotAsked(hostile()),
    };
    let replicas = [replica, away].iter().map(|replica| components::Row::of(replica, now)).collect();
    add(&mut pages, "components", &components::View { frame: frame(), replicas });
    pages
}

/// A message of strangers, in a topic of ours.
fn record(offset: usize) -> Record {
    Record {
        topic: "order.created.payment.dlq".to_owned(),
        offset: i64::try_from(offset).expect("small"),
        timestamp_ms: Some(0),
        key: Some(HOSTILE.as_bytes().into()),
        value: Some(EVENT.clone().into()),
        headers: ["ce_subject", "dlq-id", HOSTILE]
            .map(|name| Header::new(name, HOSTILE.as_bytes().to_vec()))
            .to_vec(),
        ..Record::default()
    }
}

/// So many records and partitions, in a topic that is called so.
fn seen(name: &str, rows: usize) -> (TopicSeen, Scan) {
    let numbers = || 0..i32::try_from(rows).expect("few");
    let view = |number| PartitionView { number, ..PartitionView::default() };
    let looked = |number| Looked {
        span: Span { place: (name.to_owned(), number), first: 0, from: 5, end: 9 },
        next: 7,
        records: 2,
        found: 2,
        stop: Stop::Records,
    };
    let ends = |number| Ends { view: view(number), first: Some(0), end: Some(9) };
    let topic = TopicSeen { name: name.to_owned(), partitions: numbers().map(ends).collect() };
    let mut found: Vec<Record> = (0..rows).map(record).collect();
    if let Some(first) = found.first_mut() {
        name.clone_into(&mut first.topic);
    }
    (topic, Scan { found, looked: numbers().map(looked).collect() })
}

fn pages_of_topics(rows: usize) -> Pages {
    let (mut pages, now) = (Pages::new(), now());
    let (topic, _) = seen(HOSTILE, rows);
    let kept = BTreeMap::from([(hostile(), Retention { policy: hostile(), ..Retention::default() })]);
    add(&mut pages, "topics", &topics::View::of(frame(), vec![topic; rows.max(1)], &kept));
    let wanted: topic_page::Wanted = serde_urlencoded::from_str(
        &crate::view::link(
            "",
            &["partition", "offset", "time", "order", "key"].map(|field| (field, HOSTILE)),
        )[1..],
    )
    .expect("fields");
    for (name, which) in [("browsed topic", Which::All), ("searched topic", Which::Key(hostile()))] {
        let (topic, scan) = seen(HOSTILE, rows);
        let question = Question { topic: hostile(), partition: Some(0), start: Start::Newest, which };
        let view =
            topic_page::View::of(frame(), &wanted, &question, Seen { topic, scan }, Payloads::Full, now);
        add(&mut pages, name, &view.expect("shown"));
    }
    let order = OrderSeen { scan: seen(topic::ORDER_CREATED, rows).1, missing: Vec::new() };
    let view = order_messages::View::of(frame(), Uuid::nil(), order, Payloads::Full, now).expect("shown");
    add(&mut pages, "messages of an order", &view);
    let mut whole = record(7);
    whole.headers = vec![whole.headers[2].clone(); rows];
    let view = message::View::of(frame(), &whole, (0, 9), Payloads::Full, now).expect("shown");
    add(&mut pages, "message", &view);
    pages
}

/// What strangers have written, in every field of every page, is read and never acts: not as HTML, not as an instruction to reorder
/// or hide what stands beside it.
#[test]
fn what_strangers_write_acts_on_no_page() {
    for (name, page) in pages(1) {
        let text = page.to_lowercase();
        // The console's own one, on pages that update by themselves.
        let text = text.replace("<script src=\"/console.js\" defer></script>", "");
        for wrong in ["<script", "<img", "onerror=alert(2)>-->", "</textarea>\\u"] {
            assert!(!text.contains(wrong), "{name}: {wrong} in {page}");
        }
        assert_eq!(text.matches("</textarea>").count(), usize::from(name == "edit"), "{name}");
        let acts = |c: char| {
            (c.is_control() && c != '\n')
                || holdfast_proto::text::reorders(c)
                || holdfast_proto::text::separates_lines(c)
                || matches!(c, '\u{200b}' | '\u{feff}')
        };
        let found: Vec<char> = page.chars().filter(|c| acts(*c)).collect();
        assert!(found.is_empty(), "{name}: {found:?}");
        // Its letters are there.
        assert!(page.contains("alert(1)"), "{name}");
        let title =
            page.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).expect("a title").0;
        assert_eq!(title, "Test · Holdfast");
    }
}

/// Where values are not to be shown, nothing of key, headers or value is, and it is said how much there is.
#[test]
fn what_is_not_to_be_shown_is_not() {
    let secret = |text: &str| pb::DeadLetter {
        topic: topic::ORDER_CREATED.to_owned(),
        key: Some(text.as_bytes().to_vec()),
        headers: vec![pb::RecordHeader { name: "ce_id".to_owned(), value: text.as_bytes().to_vec() }],
        value: holdfast_operator::schema::encode(
            topic::ORDER_CREATED,
            &serde_json::json!({ "deliveryAddress": text }).to_string(),
        )
        .ok(),
        edited_key: Some(text.as_bytes().to_vec()),
        ..pb::DeadLetter::default()
    };
    let page = |payloads| {
        let view = letter::View::of(Frame::default(), "order", &secret("1 Quay Street"), payloads, now());
        askama::Template::render(&view.expect("shown")).expect("rendered")
    };
    assert_eq!(page(Payloads::Full).matches("1 Quay Street").count(), 6);
    // Also not in hexadecimal.
    let hidden = ["Quay", "51756179"];
    for (payloads, expected) in [
        (Payloads::Masked, ["text, 13 bytes", "text, 13 characters"]),
        (Payloads::Off, ["13 bytes", "Its value is an event of this topic"]),
    ] {
        let page = page(payloads);
        assert!(hidden.iter().all(|text| !page.contains(text)), "{page}");
        assert!(expected.iter().all(|text| page.contains(text)), "{page}");
    }
}

/// The same of messages: on the page of one, and in lists.
#[test]
fn what_is_not_to_be_shown_of_messages_is_not() {
    let secret = "1 Quay Street";
    let event = serde_json::json!({ "deliveryAddress": secret }).to_string();
    let event = holdfast_operator::schema::encode(topic::ORDER_CREATED, &event).expect("an event");
    let record = || Record {
        topic: topic::ORDER_CREATED.to_owned(),
        key: Some(secret.into()),
        headers: vec![Header::new("ce_subject", secret)],
        value: Some(event.clone().into()),
        ..Record::default()
    };
    let pages = |payloads| {
        let frame = Frame::default;
        let one = message::View::of(frame(), &record(), (0, 1), payloads, now()).expect("shown");
        let scan = || Scan { found: vec![record()], looked: Vec::new() };
        let topic = TopicSeen { name: topic::ORDER_CREATED.to_owned(), partitions: Vec::new() };
        let question =
            Question { topic: topic.name.clone(), partition: None, start: Start::Newest, which: Which::All };
        let seen = Seen { topic, scan: scan() };
        let wanted = topic_page::Wanted::newest(None);
        let all = topic_page::View::of(frame(), &wanted, &question, seen, payloads, now()).expect("shown");
        let order = OrderSeen { scan: scan(), missing: Vec::new() };
        let order = order_messages::View::of(frame(), Uuid::nil(), order, payloads, now()).expect("shown");
        [
            askama::Template::render(&one).expect("rendered"),
            askama::Template::render(&all).expect("rendered"),
            askama::Template::render(&order).expect("rendered"),
        ]
    };
    for page in pages(Payloads::Full) {
        assert!(page.contains("Quay"), "{page}");
    }
    for (payloads, expected) in [(Payloads::Masked, "text, 13 bytes"), (Payloads::Off, "13 bytes")] {
        for page in pages(payloads) {
            assert!(!page.contains("Quay") && !page.contains("51756179"), "{page}");
            assert!(page.contains(expected), "{page}");
        }
    }
}

/// A page has an end, however much there is to show; and it says that there is more.
#[test]
fn a_page_has_an_end() {
    for rows in [0, 1, 10_000] {
        for (name, page) in pages(rows) {
            assert!(page.len() < PAGE_BYTES_MAX, "{name} with {rows} rows has {} bytes", page.len());
            assert!(page.ends_with("</html>\n") || page.ends_with("</html>"), "{name}");
            let most = page.matches("<tr>").count();
            assert!(most <= 3 * (ROWS_MAX + 1) + 1, "{name} with {rows} rows has {most}");
        }
    }
}

/// Links and forms lead to the console only, and each works without a script.
#[test]
fn links_stay_in_the_console() {
    for (name, page) in pages(1) {
        for attribute in ["href=\"", "action=\"", "src=\""] {
            for target in page.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                let is_ours = target.is_empty()
                    || target == "#main"
                    || (target.starts_with('/') && !target.starts_with("//"));
                assert!(is_ours, "{name}: {attribute}{target}");
            }
        }
        for wrong in ["javascript:", " onclick", " style=", "http://", "https://"] {
            assert!(!page.contains(wrong), "{name}: {wrong}");
        }
    }
}
