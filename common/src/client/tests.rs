//! The whole column over endpoints that follow a script, on a paused clock.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::{
    task::JoinSet,
    time::{Instant, advance, sleep},
};
use tonic::{Code, GrpcMethod, metadata::MetadataValue};
use tower::{Layer as _, Service, ServiceExt as _};

use super::*;
use crate::{
    deadline::{Deadline, grpc_timeout},
    grpc::shed::ShedLayer,
    identity::connector::CONNECT_TIME_MAX,
};

/// What an endpoint does with a call.
#[derive(Debug, Clone, Copy)]
enum Does {
    Answer,
    Say(Code),
    /// `RESOURCE_EXHAUSTED` with this pushback.
    PushBack(&'static str),
    /// A status behind a message.
    SayInTrailers(Code),
    Hang,
    Refuse,
    /// A host that is gone: the connection is neither accepted nor refused.
    Swallow,
    Slow(Duration),
}

/// An endpoint that follows a script: number of the call to what it does.
#[derive(Clone)]
struct Scripted {
    script: Arc<dyn Fn(usize) -> Does + Send + Sync>,
    heads: Arc<Mutex<Vec<(Instant, HeaderMap)>>>,
}

impl Scripted {
    fn new(script: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), heads: Arc::default() }
    }

    fn calls(&self) -> usize {
        self.heads.lock().expect("no panic").len()
    }
}

impl Service<Request<Body>> for Scripted {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Response<Body>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut heads = self.heads.lock().expect("no panic");
        heads.push((Instant::now(), request.headers().clone()));
        let does = (self.script)(heads.len() - 1);
        drop(heads);
        Box::pin(async move {
            let message = || Full::new(Bytes::from_static(b"answer"));
            match does {
                Does::Answer => {}
                Does::Say(code) => return Ok(Status::new(code, "said so").into_http()),
                Does::PushBack(pause) => {
                    let mut status = Status::resource_exhausted("full");
                    status.metadata_mut().insert(PUSHBACK_MS, MetadataValue::from_static(pause));
                    return Ok(status.into_http());
                }
                Does::SayInTrailers(code) => {
                    let mut trailers = HeaderMap::new();
                    Status::new(code, "said late").add_header(&mut trailers).expect("a header");
                    let body = message().with_trailers(async move { Some(Ok(trailers)) });
                    return Ok(Response::new(Body::new(body)));
                }
                Does::Hang => std::future::pending().await,
                Does::Refuse => return Err(io::ErrorKind::ConnectionRefused.into()),
                Does::Swallow => {
                    sleep(CONNECT_TIME_MAX).await;
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Does::Slow(time) => sleep(time).await,
            }
            Ok(Response::new(Body::new(message())))
        })
    }
}

fn stack<S>(calls: &CallsConfig, endpoints: &[&S]) -> Destination
where
    S: Service<Request<Body>, Response = Response<Body>, Error = io::Error> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let all = endpoints.iter().enumerate().map(|(number, endpoint)| {
        let breaker = Breaker::new(&calls.breaker, "test", &number.to_string());
        let address = ([127, 0, 0, 1], u16::try_from(number).expect("few")).into();
        let attempt = Attempt { inner: (*endpoint).clone(), time_max: calls.attempt_timeout, address };
        Arc::new(Endpoint::new(number.to_string(), breaker, attempt))
    });
    let known = Arc::new(Endpoints::unknown());
    known.set(all.collect());
    let balance = Balance { endpoints: known, known_within: calls.attempt_timeout };
    column(balance, policy(calls), "test", |_, method| method != "Once")
}

fn policy(calls: &CallsConfig) -> RetryPolicy {
    RetryPolicy::new(calls.attempts_max, Arc::new(RetryBudget::new(calls)), "test")
}

fn request(method: &'static str, deadline: Duration) -> Request<Body> {
    let mut request = Request::new(Body::new(Full::new(Bytes::from_static(b"question"))));
    request.extensions_mut().insert(GrpcMethod::new("test.Service", method));
    request.extensions_mut().insert(Deadline::after(deadline));
    request
}

async fn send(destination: &Destination, method: &'static str) -> Result<Bytes, Status> {
    let answer = destination.clone().oneshot(request(method, Duration::from_secs(3))).await?;
    Ok(answer.into_body().collect().await?.to_bytes())
}

fn without_breaker() -> CallsConfig {
    let never =
        BreakerConfig { consecutive_failures: u32::MAX, requests_min: u32::MAX, ..BreakerConfig::default() };
    CallsConfig { breaker: never, ..CallsConfig::default() }
}

/// UNAVAILABLE is tried again, at most twice, and each attempt says how many came before and how much time is left.
#[tokio::test(start_paused = true)]
async fn unavailable_is_tried_again() {
    let endpoint = Scripted::new(|call| match call {
        0 => Does::Say(Code::Unavailable),
        1 => Does::Refuse,
        _ => Does::Answer,
    });
    let destination = stack(&CallsConfig::default(), &[&endpoint]);
    assert_eq!(send(&destination, "Get").await.expect("answered"), "answer");
    let heads = endpoint.heads.lock().expect("no panic").clone();
    let previous: Vec<_> = heads.iter().map(|(_, head)| head.get(PREVIOUS_ATTEMPTS).cloned()).collect();
    assert_eq!(previous, [None, Some(1.into()), Some(2.into())]);
    for (_, head) in &heads {
        assert_eq!(grpc_timeout(head), Ok(Some(Duration::from_secs(1))), "an attempt's time");
    }

    let endpoint = Scripted::new(|_| Does::Refuse);
    let destination = stack(&without_breaker(), &[&endpoint]);
    let status = send(&destination, "Get").await.expect_err("refused");
    assert_eq!((status.code(), endpoint.calls()), (Code::Unavailable, 3));
}

/// No call that is not idempotent and no answer that is final is ever repeated.
#[tokio::test(start_paused = true)]
async fn nothing_else_is_ever_repeated() {
    for number in 1..=16 {
        let code = Code::from_i32(number);
        // The service's own DEADLINE_EXCEEDED is the end of an attempt: the deadline of the call is further away.
        let over = [Code::Unavailable, Code::DeadlineExceeded].contains(&code);
        for (method, expected) in [("Once", 1), ("Get", if over { 3 } else { 1 })] {
            let endpoint = Scripted::new(move |_| Does::Say(code));
            let destination = stack(&without_breaker(), &[&endpoint]);
            let answered = send(&destination, method).await.expect_err("refused").code();
            assert_eq!(answered, if over { Code::Unavailable } else { code });
            assert_eq!(endpoint.calls(), expected, "{method} {code:?}");
        }
    }
    let endpoint = Scripted::new(|_| Does::Refuse);
    let destination = stack(&CallsConfig::default(), &[&endpoint]);
    assert_eq!(send(&destination, "Once").await.expect_err("refused").code(), Code::Unavailable);
    assert_eq!(endpoint.calls(), 1);
}

/// A service that notices first that an attempt has timed out leaves time for the next attempt.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_service_ends_is_tried_again() {
    let endpoint = Scripted::new(|call| match call {
        0 => Does::Say(Code::DeadlineExceeded),
        _ => Does::Answer,
    });
    let destination = stack(&CallsConfig::default(), &[&endpoint]);
    assert_eq!(send(&destination, "Get").await.expect("answered"), "answer");
    assert_eq!(endpoint.calls(), 2);
}

/// A status in the trailers of a unary answer is as good as one in its head.
#[tokio::test(start_paused = true)]
async fn a_status_in_the_trailers_is_seen() {
    let endpoint = Scripted::new(|call| match call {
        0 => Does::SayInTrailers(Code::Unavailable),
        _ => Does::SayInTrailers(Code::Ok),
    });
    let destination = stack(&CallsConfig::default(), &[&endpoint]);
    assert_eq!(send(&destination, "Get").await.expect("answered"), "answer");
    assert_eq!(endpoint.calls(), 2);
}

/// A server that is full is asked again after the pause it names, and never if it names none or says "don't".
#[tokio::test(start_paused = true)]
async fn pushback_is_honoured() {
    let endpoint = Scripted::new(|call| if call == 0 { Does::PushBack("70") } else { Does::Answer });
    let destination = stack(&CallsConfig::default(), &[&endpoint]);
    let begin = Instant::now();
    send(&destination, "Get").await.expect("answered");
    assert!(begin.elapsed() >= Duration::from_millis(70), "{:?}", begin.elapsed());
    for refusal in [Does::PushBack("-1"), Does::PushBack("soon"), Does::Say(Code::ResourceExhausted)] {
        let endpoint = Scripted::new(move |_| refusal);
        let destination = stack(&CallsConfig::default(), &[&endpoint]);
        assert_eq!(send(&destination, "Get").await.expect_err("refused").code(), Code::ResourceExhausted);
        assert_eq!(endpoint.calls(), 1, "{refusal:?}");
    }
}

/// While a destination is down for a minute under load, attempts stay within 1.25 times the requests; without the
/// breaker the budget alone keeps them near it.
#[tokio::test(start_paused = true)]
async fn an_outage_is_not_answered_with_more_load() {
    const REQUESTS: usize = 6000;
    for (calls, attempts_max) in [
        (CallsConfig::default(), REQUESTS * 5 / 4),
        // 20 % of nothing (failures add nothing to the budget), and 3 per second.
        (without_breaker(), REQUESTS + 3 * 60 + 3 * 10),
    ] {
        let endpoint = Scripted::new(|_| Does::Refuse);
        let destination = stack(&calls, &[&endpoint]);
        let mut running = JoinSet::new();
        for _ in 0..REQUESTS {
            let destination = destination.clone();
            running.spawn(async move { send(&destination, "Get").await.is_err() });
            sleep(Duration::from_millis(10)).await;
        }
        assert!(running.join_all().await.into_iter().all(|failed| failed));
        println!("{} attempts for {REQUESTS} requests", endpoint.calls());
        assert!(endpoint.calls() <= attempts_max, "{} attempts", endpoint.calls());
    }
}

/// An endpoint that accepts and never answers: the breaker opens within five calls, refuses at once while it is open,
/// and is closed again within two seconds after the endpoint recovers.
#[tokio::test(start_paused = true)]
async fn a_hanging_endpoint_is_left_alone_until_it_recovers() {
    let healthy = Arc::new(AtomicU32::new(0));
    let endpoint = Scripted::new({
        let healthy = healthy.clone();
        move |_| if healthy.load(Ordering::SeqCst) == 1 { Does::Answer } else { Does::Hang }
    });
    let destination = stack(&CallsConfig::default(), &[&endpoint]);
    let mut calls = 0;
    loop {
        calls += 1;
        let status = send(&destination, "Get").await.expect_err("nobody answers");
        if is_breaker_open(&status) {
            break;
        }
        assert!(calls <= 5, "open within five calls");
    }
    // Ten seconds of callers: all but the probes are refused at once.
    let (begin, before) = (Instant::now(), endpoint.calls());
    let mut slow = 0;
    while begin.elapsed() < Duration::from_secs(10) {
        let asked = Instant::now();
        send(&destination, "Get").await.expect_err("nobody answers");
        slow += u32::from(asked.elapsed() > Duration::ZERO);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(endpoint.calls() - before <= 20, "{} probes", endpoint.calls() - before);
    assert!(slow <= 20, "{slow} callers waited");

    healthy.store(1, Ordering::SeqCst);
    let recovered = Instant::now();
    while send(&destination, "Get").await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(recovered.elapsed() <= Duration::from_secs(2), "{:?}", recovered.elapsed());
}

/// A call ends at its deadline, whatever its attempts do, and no attempt begins without time left.
#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline() {
    for does in [Does::Hang, Does::Slow(Duration::from_millis(999)), Does::Say(Code::Unavailable)] {
        let endpoint = Scripted::new(move |_| does);
        let destination = stack(&without_breaker(), &[&endpoint]);
        let begin = Instant::now();
        let time = Duration::from_millis(500);
        let answer = destination.clone().oneshot(request("Get", time)).await;
        assert!(begin.elapsed() <= time, "{does:?}: {:?}", begin.elapsed());
        if matches!(does, Does::Say(_)) {
            assert_eq!(answer.expect_err("refused").code(), Code::Unavailable);
        } else {
            assert_eq!(answer.expect_err("too late").code(), Code::DeadlineExceeded, "{does:?}");
            assert_eq!(endpoint.calls(), 1);
        }
        for (at, head) in endpoint.heads.lock().expect("no panic").iter() {
            let named = grpc_timeout(head).expect("well-formed").expect("named");
            assert!(at.duration_since(begin) + named <= time, "the deadline shrinks");
        }
    }
}

/// Calls spread over healthy endpoints; a slow one gets fewer; a dead one gets nothing but probes, and no caller notices.
#[tokio::test(start_paused = true)]
async fn calls_go_where_they_are_answered() {
    let fast = Scripted::new(|_| Does::Slow(Duration::from_millis(10)));
    let other = Scripted::new(|_| Does::Slow(Duration::from_millis(10)));
    let slow = Scripted::new(|_| Does::Slow(Duration::from_millis(500)));
    let dead = Scripted::new(|_| Does::Refuse);
    let destination = stack(&CallsConfig::default(), &[&fast, &other, &slow, &dead]);
    let mut running = JoinSet::new();
    for _ in 0..4000 {
        let destination = destination.clone();
        running.spawn(async move { send(&destination, "Get").await });
        sleep(Duration::from_millis(2)).await;
    }
    for answer in running.join_all().await {
        answer.expect("a retry finds an endpoint that answers");
    }
    let counts = [fast.calls(), other.calls(), slow.calls()];
    assert!(counts[0].abs_diff(counts[1]) < 600, "{counts:?}");
    assert!(counts[2] * 3 < counts[0], "{counts:?}");
    // Five to trip it, then a probe for each pause of half a second or more.
    assert!((5..=5 + 2 * 10).contains(&dead.calls()), "{} calls to the dead one", dead.calls());
}

/// A host that is gone costs a call the time of one connection, never an attempt, and not for long.
#[tokio::test(start_paused = true)]
async fn a_black_hole_costs_one_connection() {
    let live = Scripted::new(|_| Does::Slow(Duration::from_millis(10)));
    let gone = Scripted::new(|_| Does::Swallow);
    let destination = stack(&CallsConfig::default(), &[&live, &gone]);
    // The pause before a retry is at most 50 ms.
    let most = CONNECT_TIME_MAX + Duration::from_millis(50 + 10);
    let mut slow = 0;
    for _ in 0..1_000 {
        let begin = Instant::now();
        send(&destination, "Get").await.expect("the other one answers");
        assert!(begin.elapsed() <= most, "{:?}", begin.elapsed());
        slow += u32::from(begin.elapsed() >= CONNECT_TIME_MAX);
    }
    // Five until its breaker opens, then its probes.
    assert!((5..=5 + 2 * 10).contains(&slow), "{slow} callers waited for it");
}

/// Far more load than a service can handle: callers are asked to come back, and no breaker opens, so that the service
/// keeps working at its full rate (pitfalls P48). Without the bound on the time in line all attempts would time out.
#[tokio::test(start_paused = true)]
async fn overload_never_opens_a_breaker() {
    const WORK: Duration = Duration::from_millis(50);
    const PLACES: usize = 4;
    const TIME: Duration = Duration::from_secs(20);
    let endpoint = Scripted::new(|_| Does::Slow(WORK));
    let service = ShedLayer::new(PLACES).layer(endpoint.clone());
    let destination = stack(&CallsConfig::default(), &[&service]);
    let begin = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..128 {
        let destination = destination.clone();
        running.spawn(async move {
            let mut answered = 0;
            while begin.elapsed() < TIME {
                match send(&destination, "Get").await {
                    Ok(_) => answered += 1,
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                        assert!(!is_breaker_open(&status));
                    }
                }
            }
            answered
        });
    }
    let answered: u128 = running.join_all().await.into_iter().sum();
    let possible = TIME.as_millis() / WORK.as_millis() * PLACES as u128;
    println!("{answered} of {possible} possible");
    assert!(answered * 10 >= possible * 9, "{answered} of {possible}");
}

/// When all endpoints are ejected each of them is still probed, and the first that recovers is used.
#[tokio::test(start_paused = true)]
async fn never_all_ejected_without_trying() {
    let healthy = Arc::new(AtomicU32::new(u32::MAX));
    let endpoints: Vec<_> =
        (0..3)
            .map(|number| {
                let healthy = healthy.clone();
                Scripted::new(move |_| {
                    if healthy.load(Ordering::SeqCst) == number { Does::Answer } else { Does::Refuse }
                })
            })
            .collect();
    let destination = stack(&CallsConfig::default(), &endpoints.iter().collect::<Vec<_>>());
    for _ in 0..20 {
        send(&destination, "Get").await.expect_err("nobody answers");
    }
    let before: Vec<_> = endpoints.iter().map(Scripted::calls).collect();
    for _ in 0..300 {
        send(&destination, "Get").await.expect_err("nobody answers");
        advance(Duration::from_millis(10)).await;
    }
    for (endpoint, before) in endpoints.iter().zip(before) {
        assert!(endpoint.calls() > before, "each is probed");
    }
    healthy.store(2, Ordering::SeqCst);
    let begin = Instant::now();
    while send(&destination, "Get").await.is_err() {
        advance(Duration::from_millis(10)).await;
    }
    assert!(begin.elapsed() <= Duration::from_secs(2), "{:?}", begin.elapsed());
}

/// A health check reaches an endpoint whose breaker is open, and changes nothing about the breaker.
#[tokio::test(start_paused = true)]
async fn health_is_asked_past_the_breaker() {
    let endpoint = Scripted::new(|call| if call < 5 { Does::Refuse } else { Does::Answer });
    let destination = stack(&CallsConfig::default(), &[&endpoint]);
    for _ in 0..5 {
        send(&destination, "Once").await.expect_err("refused");
    }
    assert!(is_breaker_open(&send(&destination, "Once").await.expect_err("open")));
    let mut unguarded = request("Once", Duration::from_secs(1));
    unguarded.extensions_mut().insert(Unguarded);
    destination.clone().oneshot(unguarded).await.expect("answered");
    assert!(is_breaker_open(&send(&destination, "Once").await.expect_err("still open")));
}

/// A destination whose name is not resolved yet makes its callers wait for a moment, then says so.
#[tokio::test(start_paused = true)]
async fn an_unresolved_name_is_reported() {
    let calls = CallsConfig::default();
    let endpoints: Arc<Endpoints<Attempt<Scripted>>> = Arc::new(Endpoints::unknown());
    let balance = Balance { endpoints, known_within: calls.attempt_timeout };
    let destination = column(balance, policy(&calls), "test", |_, _| false);
    let status = send(&destination, "Get").await.expect_err("nowhere to go");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("resolved"), "{status}");
}
