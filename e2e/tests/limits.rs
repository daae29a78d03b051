//! What one client may send, on a stack of its own whose limits are low: who is over them gets 429, and nobody else notices.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_chaos::{
    fault::Fault,
    rest::{Answer, sample_order},
};
use holdfast_e2e::{PATIENCE, World, eventually, id};
use holdfast_native::layout::Scope;
use holdfast_testkit::stack::TestStack;
use http::Method;
use tokio::time::{Instant, sleep};

const BURST: u32 = 20;
const IN_FLIGHT_MAX: usize = 4;

async fn world() -> World {
    let environment = [
        // Requests are late on a starved machine, and that is not what is looked at here.
        ("HOLDFAST__GATEWAY__DEADLINE", "8s"),
        ("HOLDFAST__LIMITS__ENABLED", "true"),
        ("HOLDFAST__LIMITS__READS__PER_SECOND", "1"),
        ("HOLDFAST__LIMITS__READS__BURST", "20"),
        ("HOLDFAST__LIMITS__IN_FLIGHT_PER_SUBJECT", "4"),
        // No proxy is trusted, so nobody may claim to be somebody else.
        ("HOLDFAST__LIMITS__PROXIES__FORWARDED", "x-forwarded-for"),
    ];
    let stack = tokio::task::spawn_blocking(move || TestStack::start(Scope::Everything, &[], &environment));
    World::of(Box::leak(Box::new(stack.await.expect("it starts"))))
}

fn problem_of(answer: &Answer) -> String {
    let uri = answer.json()["type"].as_str().unwrap_or_default().to_owned();
    uri.rsplit('/').next().unwrap_or_default().to_owned()
}

fn header(answer: &Answer, name: &str) -> String {
    answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// See the file.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_a_limit_is_refused_and_nobody_else() {
    let world = world().await;
    a_burst_is_refused_until_its_time_has_come(&world).await;
    requests_in_progress_are_bounded(&world).await;
}

async fn a_burst_is_refused_until_its_time_has_come(world: &World) {
    let (greedy, modest) = (world.user("greedy", "100.00").await, world.user("modest", "100.00").await);
    let order = world.create(&greedy, "1 Quay Street", 100).await;
    let path = format!("/api/orders/{}", id(&order));

    let until = Instant::now() + PATIENCE;
    let mut allowed = 0;
    let refused = loop {
        // Another address each time: a claim gains nothing.
        let claim = format!("198.51.100.{}", allowed % 250);
        let headers = [("x-forwarded-for", claim.as_str())];
        let answer =
            world.rest.call(Method::GET, &path, &greedy.token, &headers, None).await.expect("answered");
        if answer.status != 200 {
            break answer;
        }
        assert_eq!(header(&answer, "ratelimit-policy"), format!("\"reads\";q={BURST};w={BURST}"));
        assert!(header(&answer, "ratelimit").starts_with("\"reads\";r="), "{:?}", answer.headers);
        allowed += 1;
        assert!(Instant::now() < until, "{allowed} requests and no refusal");
    };
    assert!(allowed >= BURST, "{allowed} were allowed, a burst is {BURST}");
    assert_eq!((refused.status.as_u16(), problem_of(&refused).as_str()), (429, "rate-limited"));
    assert_eq!(header(&refused, "content-type"), "application/problem+json");
    assert!(header(&refused, "ratelimit").starts_with("\"reads\";r=0;t="), "{:?}", refused.headers);

    // The others, and this one's writes, have quotas of their own.
    assert_eq!(modest.get("/api/orders").await.expect("answered").status, 200);
    world.create(&greedy, "1 Quay Street", 100).await;

    // Who waits as it was told to is served. More requests would use up what comes back, so there is one only.
    sleep(Duration::from_secs(header(&refused, "retry-after").parse().expect("seconds"))).await;
    assert_eq!(greedy.get(&path).await.expect("answered").status, 200);
    assert!(world.metric("gateway", "holdfast_requests_limited_total", &["limit=\"reads\""]).await >= 1.0);
}

/// While the database stalls, one subject's requests take their few places and no more, so that it can't take a service from
/// the others (`security.md` S3).
async fn requests_in_progress_are_bounded(world: &World) {
    let (greedy, modest) = (world.user("greedy", "100.00").await, world.user("modest", "100.00").await);
    world.apply(Fault::Stall, "orders-db");
    let order = sample_order("1 Quay Street", 100);
    let attempts = (0..5 * IN_FLIGHT_MAX).map(|_| greedy.create_order(&order, None));
    let others = async {
        let limited = || async {
            world.metric("gateway", "holdfast_requests_limited_total", &["limit=\"subject-in-flight\""]).await
        };
        eventually("one is refused", || async { limited().await >= 1.0 }).await;
        modest.create_order(&order, None).await.expect("answered")
    };
    let (answers, other) = tokio::join!(join_all(attempts), others);
    world.heal(Fault::Stall, "orders-db");

    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("answered")).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    // Places that became free meanwhile were taken again, so there may be more than the first few.
    assert!(refused.len() >= IN_FLIGHT_MAX, "{} of {} were refused", refused.len(), answers.len());
    for answer in &refused {
        assert_eq!(
            (problem_of(answer).as_str(), header(answer, "retry-after").as_str()),
            ("too-many-in-flight", "1")
        );
    }
    assert_ne!(other.status, 429, "another subject has places of its own");
    eventually("orders are taken again", || async {
        greedy.create_order(&order, None).await.is_ok_and(|answer| answer.status == 201)
    })
    .await;
    world.invariants_hold().await;
}
