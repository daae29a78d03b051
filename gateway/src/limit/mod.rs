//! Limits on clients: requests per second and requests in progress, of each address before its token is looked at and of
//! each subject afterwards. A client that is over one gets 429, and the others do not notice. With Redis, all gateways share the
//! requests per second; requests in progress are those of one gateway.

mod address;
mod bucket;
mod headers;
mod hold_back;
mod in_flight;
pub(crate) mod overload;
mod quota;
mod shared;
mod store;
mod turns;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request},
    http::{HeaderMap, Method, StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
};
use holdfast_common::{health::PeriodicTask, http::network_of, metric, stop::sleep_unless_stopped};
use holdfast_proto::UserId;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use self::{bucket::Standing, hold_back::HoldBack, in_flight::InFlight, quota::Quota, turns::Turns};
pub(crate) use self::{in_flight::Place, turns::Turn};
use crate::{
    config::{LimitsConfig, ProxyConfig},
    problem::{Problem, ProblemType},
    redis::Redis,
};

const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// A sweep only returns memory, so it may be late.
pub(crate) const SWEEP_SUCCESS_EVERY_MAX: Duration = Duration::from_secs(60);

/// All limits; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    enabled: bool,
    proxies: ProxyConfig,
    exempt: Vec<IpNet>,
    address: Quota,
    reads: Quota,
    writes: Quota,
    address_in_flight: InFlight,
    subject_in_flight: InFlight,
    hold_back: HoldBack,
    turns: Turns,
}

/// What is known of a request's subject: written where the token is checked, read where the response leaves.
#[derive(Debug, Clone, Default)]
struct Subject(Arc<SubjectStanding>);

#[derive(Debug, Default)]
struct SubjectStanding {
    /// How it stands.
    standing: OnceLock<Standing>,
    /// Who it is, if it is over a limit.
    refused: OnceLock<UserId>,
}

/// Who is limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Client {
    Address(IpAddr),
    Subject(UserId),
}

impl Limits {
    /// With `redis`, all gateways share the limits; while it is away, each has its own.
    pub(crate) fn new(config: &LimitsConfig, redis: Option<&Redis>) -> Self {
        Self(Arc::new(Inner {
            enabled: config.enabled,
            proxies: config.proxies.clone(),
            exempt: config.exempt.clone(),
            address: Quota::new("address", config.address, redis),
            reads: Quota::new("reads", config.reads, redis),
            writes: Quota::new("writes", config.writes, redis),
            address_in_flight: InFlight::new(config.in_flight_per_address.get()),
            subject_in_flight: InFlight::new(config.in_flight_per_subject.get()),
            hold_back: HoldBack::default(),
            turns: Turns::default(),
        }))
    }

    /// Whether anything is limited at all.
    pub(crate) fn are_enabled(&self) -> bool {
        self.0.enabled
    }

    /// Counts a request of this subject, until the place is dropped, or refuses it. `None` if nothing is limited.
    pub(crate) async fn enter_subject(
        &self,
        user_id: &UserId,
        parts: &Parts,
    ) -> Result<Option<Place>, Problem> {
        if !self.0.enabled {
            return Ok(None);
        }
        let subject = parts.extensions.get::<Subject>().map(|subject| &*subject.0);
        let place = self.count_subject(user_id, &parts.method, subject).await;
        if let (Err(_), Some(subject)) = (&place, subject) {
            // Set once, like its standing: each request has one subject.
            let _ = subject.refused.set(user_id.clone());
        }
        Ok(Some(place?))
    }

    async fn count_subject(
        &self,
        user_id: &UserId,
        method: &Method,
        subject: Option<&SubjectStanding>,
    ) -> Result<Place, Refused> {
        let is_read = method == Method::GET || method == Method::HEAD;
        let quota = if is_read { &self.0.reads } else { &self.0.writes };
        let standing = quota.take(user_id).await;
        if let Some(subject) = subject {
            let _ = subject.standing.set(standing.unwrap_or_else(|refused| refused));
        }
        standing.map_err(Refused::Rate)?;
        self.0.subject_in_flight.enter(user_id).ok_or(Refused::InFlight("subject-in-flight"))
    }

    /// Waits until a large answer may be made for this user; `None` if nothing is limited.
    pub(crate) async fn turn(&self, user_id: &UserId) -> Option<Turn> {
        if self.0.enabled { Some(self.0.turns.take(user_id).await) } else { None }
    }

    /// What a request's address is counted as; `None` if it has no limits.
    fn network(&self, client: SocketAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let address = address::client_of(client, headers, &self.0.proxies);
        let is_exempt = self.0.exempt.iter().any(|network| network.contains(&address));
        (!is_exempt).then(|| network_of(address))
    }

    /// Counts a request of this address and refuses it if the address is over its limits.
    async fn enter_address(&self, network: IpAddr) -> Result<Place, Refused> {
        self.0.address.take(network).await.map_err(Refused::Rate)?;
        self.0.address_in_flight.enter(network).ok_or(Refused::InFlight("address-in-flight"))
    }

    /// Tells a client how it stands.
    fn write(&self, headers: &mut HeaderMap, standing: &Standing) {
        let quotas = [&self.0.reads, &self.0.writes, &self.0.address];
        if let Some(quota) = quotas.into_iter().find(|quota| quota.policy() == standing.policy) {
            headers::write(headers, quota.header.clone(), standing);
        }
    }

    /// Returns the memory of clients that have gone, until `stop`.
    pub(crate) async fn sweep(self, task: PeriodicTask, stop: CancellationToken) {
        while sleep_unless_stopped(&stop, SWEEP_EVERY).await.is_continue() {
            for quota in [&self.0.address, &self.0.reads, &self.0.writes] {
                #[expect(clippy::cast_precision_loss, reason = "the number of keys is bounded")]
                metrics::gauge!(metric::RATE_LIMIT_KEYS, "limit" => quota.policy()).set(quota.sweep() as f64);
            }
            task.succeeded();
        }
    }
}

/// Refuses an address that is over its limits, tells clients how they stand, and answers those who are over a limit a moment later.
pub(crate) async fn limit<F: Future<Output = Response>>(
    limits: &Limits,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    if !limits.0.enabled {
        return next(request).await;
    }
    let Some(&ConnectInfo(client)) = request.extensions().get() else {
        return Problem::internal().into_response();
    };
    let network = limits.network(client, request.headers());
    let subject = Subject::default();
    let response = answer(limits, network, &subject, request, next).await;
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        let refused = subject.0.refused.get().cloned().map(Client::Subject);
        limits.0.hold_back.hold(refused.or(network.map(Client::Address))).await;
    }
    response
}

async fn answer<F: Future<Output = Response>>(
    limits: &Limits,
    network: Option<IpAddr>,
    subject: &Subject,
    mut request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let _place = match network {
        None => None,
        Some(network) => match limits.enter_address(network).await {
            Ok(place) => Some(place),
            Err(refused) => {
                let mut response = Problem::from(refused).into_response();
                if let Refused::Rate(standing) = refused {
                    limits.write(response.headers_mut(), &standing);
                }
                return response;
            }
        },
    };
    request.extensions_mut().insert(subject.clone());
    let mut response = next(request).await;
    if let Some(standing) = subject.0.standing.get() {
        limits.write(response.headers_mut(), standing);
    }
    response
}

/// Which limit a request is over.
#[derive(Debug, Clone, Copy)]
enum Refused {
    /// A quota, and how the client stands.
    Rate(Standing),
    /// Requests in progress, by the name of that limit.
    InFlight(&'static str),
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let limit = match refused {
            Refused::Rate(standing) => standing.policy,
            Refused::InFlight(limit) => limit,
        };
        metrics::counter!(metric::REQUESTS_LIMITED_TOTAL, "limit" => limit).increment(1);
        match refused {
            Refused::Rate(Standing { burst, window, reset, .. }) => {
                let rate = f64::from(burst) / window.as_secs_f64();
                let detail = format!("more than {rate} requests a second, after a burst of {burst}");
                Self::new(ProblemType::RateLimited, detail).retry_after(headers::seconds(reset).max(1))
            }
            Refused::InFlight(_) => {
                let detail = "too many requests are in progress already";
                Self::new(ProblemType::TooManyInFlight, detail).retry_after(1)
            }
        }
    }
}

#[cfg(test)]
mod memory;

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        num::{NonZeroU32, NonZeroUsize},
    };

    use axum::{
        Router,
        body::Body,
        middleware::{Next, from_fn},
        routing::get,
    };
    use holdfast_common::http::{Limits as ConnectionLimits, Server};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::{ForwardedBy, QuotaConfig};

    const BURST: u32 = 3;

    fn router(proxies: ProxyConfig, handler: axum::routing::MethodRouter) -> Router {
        let number = |number| NonZeroU32::new(number).expect("not 0");
        let address = QuotaConfig { per_second: number(1), burst: number(BURST) };
        let in_flight_per_address = NonZeroUsize::new(2).expect("not 0");
        let config = LimitsConfig { address, in_flight_per_address, proxies, ..LimitsConfig::default() };
        let limits = Limits::new(&config, None);
        Router::new().route("/", handler).layer(from_fn(move |request, next: Next| {
            let limits = limits.clone();
            async move { limit(&limits, request, |request| next.run(request)).await }
        }))
    }

    async fn get_from(router: &Router, client: [u8; 4], forwarded: &str) -> Response {
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((Ipv4Addr::from(client), 9))));
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().expect("a value"));
        router.clone().oneshot(request).await.expect("infallible")
    }

    /// An address that is over its quota is refused before any work, whatever it claims to be; others are served.
    #[tokio::test(start_paused = true)]
    async fn an_address_over_its_quota_is_refused() {
        let router = router(ProxyConfig::default(), get(|| async { "done" }));
        for claim in 0..BURST {
            let response = get_from(&router, [192, 0, 2, 1], &format!("198.51.100.{claim}")).await;
            assert_eq!(response.status(), 200);
        }
        let refused = get_from(&router, [192, 0, 2, 1], "198.51.100.99").await;
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["ratelimit"], "\"address\";r=0;t=1");
        assert_eq!(get_from(&router, [192, 0, 2, 2], "198.51.100.99").await.status(), 200);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(get_from(&router, [192, 0, 2, 1], "").await.status(), 200);
    }

    /// Behind a trusted proxy each of its clients has a quota of its own.
    #[tokio::test(start_paused = true)]
    async fn clients_of_a_trusted_proxy_are_told_apart() {
        let trusted = vec!["10.0.0.0/8".parse().expect("a network")];
        let proxies = ProxyConfig { trusted, forwarded: ForwardedBy::XForwardedFor };
        let router = router(proxies, get(|| async { "done" }));
        for client in 0..=BURST {
            let response = get_from(&router, [10, 0, 0, 1], &format!("198.51.100.{client}")).await;
            assert_eq!(response.status(), 200);
        }
        let hops = "203.0.113.1, 198.51.100.77";
        for _ in 0..BURST {
            assert_eq!(get_from(&router, [10, 0, 0, 1], hops).await.status(), 200);
        }
        assert_eq!(get_from(&router, [10, 0, 0, 1], "203.0.113.2, 198.51.100.77").await.status(), 429);
    }

    /// Sends a request through a proxy that says whose it is, and returns the answer's status.
    async fn status_through(proxy: SocketAddr, client: &str) -> String {
        let mut connection = TcpStream::connect(proxy).await.expect("connected");
        let text = format!(
            "PROXY TCP4 {client} 10.0.0.1 4711 443\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        connection.write_all(text.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("answered");
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Behind a proxy that speaks the PROXY protocol each of its clients has a quota of its own.
    #[tokio::test]
    async fn clients_of_a_proxy_protocol_are_told_apart() {
        let trusted = vec!["127.0.0.0/8".parse().expect("a network")];
        let proxies = ProxyConfig { trusted, forwarded: ForwardedBy::ProxyProtocol };
        let server = Server {
            name: "test",
            limits: ConnectionLimits::default(),
            tls: None,
            proxies: proxies.of_connections(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(server.serve(
            listener,
            router(proxies, get(|| async { "done" })),
            CancellationToken::new(),
        ));
        for request in 0.. {
            match status_through(address, "192.0.2.7").await.as_str() {
                "200" => assert!(request < 100, "never refused"),
                status => {
                    assert_eq!(status, "429");
                    assert!(request >= BURST, "refused after {request}");
                    break;
                }
            }
        }
        assert_eq!(status_through(address, "192.0.2.8").await, "200");
    }

    /// Requests of one address that do not end keep later ones out, until they are given up.
    #[tokio::test(start_paused = true)]
    async fn requests_in_progress_of_an_address_are_bounded() {
        let router = router(ProxyConfig::default(), get(std::future::pending::<&'static str>));
        let client = [192, 0, 2, 1];
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let router = router.clone();
                tokio::spawn(async move { get_from(&router, client, "").await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(get_from(&router, client, "").await.status(), 429);
        for request in waiting {
            request.abort();
            assert!(request.await.is_err_and(|error| error.is_cancelled()));
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        let free = tokio::time::timeout(Duration::from_millis(1), get_from(&router, client, "")).await;
        assert!(free.is_err(), "it is in progress, not refused");
    }
}
