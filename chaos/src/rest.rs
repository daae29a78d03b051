//! A client of the REST interface.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use holdfast_certs::{Claims, TokenIssuer};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::events::EventStream;

/// Longer than the gateway's deadline: an answer that comes at all is seen.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Between two requests of a patient client.
const PAUSE: Duration = Duration::from_millis(200);
const TOKEN_LIFE: Duration = Duration::from_secs(6 * 3600);
/// Everything that a user may do.
const USER_SCOPES: &str = "orders:read orders:write accounts:read";
const TREASURY_SCOPES: &str = "accounts:credit";

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its head.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Talks to the gateways in turn; clones share the connections.
#[derive(Clone)]
pub struct Rest {
    base_urls: Arc<[String]>,
    /// Whose turn it is.
    turn: Arc<AtomicUsize>,
    client: Client<HttpConnector, Full<Bytes>>,
    issuer: Arc<TokenIssuer>,
    /// For how long a refusal that says when to come back is not taken for an answer.
    patience: Duration,
    /// How long an answer may take.
    answer_time_max: Duration,
}

impl Rest {
    /// A client of one gateway, with at most `connections` idle connections.
    #[must_use]
    pub fn new(base_url: String, issuer: TokenIssuer, connections: usize) -> Self {
        Self::of_all(vec![base_url], issuer, connections)
    }

    /// A client of several gateways, each of which gets its share of the requests. One that does not take a connection is passed
    /// over, as a load balancer does; nothing was sent to it then.
    #[must_use]
    pub fn of_all(base_urls: Vec<String>, issuer: TokenIssuer, connections: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(connections)
            .build(connector);
        let (issuer, turn) = (Arc::new(issuer), Arc::default());
        let (patience, answer_time_max) = (Duration::ZERO, ANSWER_TIME_MAX);
        Self { base_urls: base_urls.into(), turn, client, issuer, patience, answer_time_max }
    }

    /// The same, but an answer may take this long: for gateways whose deadline is a longer one.
    #[must_use]
    pub fn answered_within(mut self, time: Duration) -> Self {
        self.answer_time_max = time;
        self
    }

    /// The same, but a 503 that says when to come back is asked again for up to this time, as a client does who wants an
    /// answer: an overloaded machine refuses now and then. It also waits that long for an answer.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self.answered_within(patience)
    }

    /// A token for `user`.
    pub fn token(&self, user: &str, scopes: &str) -> Result<String> {
        Ok(self.issuer.sign(&Claims::new(user, scopes, TOKEN_LIFE)?)?)
    }

    /// A user's session.
    pub fn user(&self, user: &str) -> Result<Session> {
        let token = self.token(user, USER_SCOPES)?;
        Ok(Session { rest: self.clone(), user: user.to_owned(), token })
    }

    /// Sends a request as it is.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let begin = Instant::now();
        loop {
            let answer = self.exchange(request.clone()).await?;
            if !self.comes_back(answer.status, &answer.headers, begin) {
                return Ok(answer);
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether an answer is a refusal that a patient client does not take for one.
    fn comes_back(&self, status: StatusCode, headers: &HeaderMap, begin: Instant) -> bool {
        status == StatusCode::SERVICE_UNAVAILABLE
            && headers.contains_key(header::RETRY_AFTER)
            && begin.elapsed() < self.patience
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let exchange = async {
            let (parts, body) = self.responded(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, anyhow::Error>(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(self.answer_time_max, exchange).await.context("no answer in time")?
    }

    /// The response of the gateway that a request is for, or of the next one that takes a connection.
    async fn responded(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let meant = request.uri().to_string();
        let first =
            self.base_urls.iter().position(|base_url| meant.starts_with(base_url)).unwrap_or_default();
        let path = request.uri().path_and_query().cloned().context("a request has a path")?;
        for turn in first + 1..first + self.base_urls.len() {
            match self.client.request(request.clone()).await {
                Err(error) if error.is_connect() => {
                    let next = &self.base_urls[turn % self.base_urls.len()];
                    *request.uri_mut() = format!("{next}{path}").parse()?;
                }
                result => return Ok(result?),
            }
        }
        Ok(self.client.request(request).await?)
    }

    /// A request with a token, a body and whatever other headers.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base_urls[turn % self.base_urls.len()]))
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        self.send(request.body(Full::new(body))?).await
    }

    /// Pays `amount` into the account of `user`; an error unless it is there then.
    pub async fn credit(&self, user: &str, amount: &str, key: &str) -> Result<()> {
        let answer = self.send_credit(user, amount, key).await?;
        if answer.status != StatusCode::CREATED {
            bail!("credit of {user} was answered {}: {:?}", answer.status, answer.body);
        }
        Ok(())
    }

    /// `POST /api/accounts/{user}/credits`.
    pub async fn send_credit(&self, user: &str, amount: &str, key: &str) -> Result<Answer> {
        let token = self.token("treasury", TREASURY_SCOPES)?;
        let body: Value = serde_json::from_str(&format!("{{\"amount\": {amount}}}"))?;
        let path = format!("/api/accounts/{user}/credits");
        self.call(Method::POST, &path, &token, &[("idempotency-key", key)], Some(&body)).await
    }

    /// Opens a stream of events at the first gateway; its head must come in time, the rest when it comes.
    pub async fn events(&self, path: &str, token: &str, last_event_id: Option<&str>) -> Result<EventStream> {
        let mut request = Request::get(format!("{}{path}", self.base_url()))
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let request = request.body(Full::default())?;
        let begin = Instant::now();
        let response = loop {
            let response = self.client.request(request.clone());
            let response =
                tokio::time::timeout(self.answer_time_max, response).await.context("no answer in time")??;
            if !self.comes_back(response.status(), response.headers(), begin) {
                break response;
            }
            sleep(PAUSE).await;
        };
        let (parts, body) = response.into_parts();
        Ok(EventStream::new(parts.status, parts.headers, body.map_err(anyhow::Error::from).boxed()))
    }

    /// The address of the first gateway.
    #[must_use]
    pub fn base_url(&self) -> &str {
        self.base_urls.first().map_or("", String::as_str)
    }
}

/// One user with a token.
#[derive(Clone)]
pub struct Session {
    rest: Rest,
    /// Whose session it is.
    pub user: String,
    /// Their token.
    pub token: String,
}

impl Session {
    /// `POST /api/orders`.
    pub async fn create_order(&self, order: &Value, key: Option<&str>) -> Result<Answer> {
        let headers: Vec<_> = key.iter().map(|key| ("idempotency-key", *key)).collect();
        self.rest.call(Method::POST, "/api/orders", &self.token, &headers, Some(order)).await
    }

    /// `GET` of any path.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.rest.call(Method::GET, path, &self.token, &[], None).await
    }

    /// The stream of an order, or of all orders if none is named; an error if it is refused.
    pub async fn watch(&self, order_id: Option<&str>) -> Result<EventStream> {
        let path = order_id.map_or("/api/orders/events".to_owned(), |id| format!("/api/orders/{id}/events"));
        let stream = self.rest.events(&path, &self.token, None).await?;
        if stream.status != StatusCode::OK {
            bail!("{path} was answered {}", stream.status);
        }
        Ok(stream)
    }

    /// The order as it is now.
    pub async fn order(&self, order_id: &str) -> Result<Value> {
        let answer = self.get(&format!("/api/orders/{order_id}")).await?;
        if answer.status != StatusCode::OK {
            bail!("order {order_id} was answered {}", answer.status);
        }
        Ok(answer.json())
    }
}

/// An order of one line.
#[must_use]
pub fn sample_order(address: &str, cents: u32) -> Value {
    // Built from text: an amount is never a float, not here either.
    let price = format!("{}.{:02}", cents / 100, cents % 100);
    let price: Value = serde_json::from_str(&price).unwrap_or_default();
    json!({"delivery_address": address, "items": [{"product_id": "tea-100g", "quantity": 1, "price": price}]})
}

/// Whether nothing can happen to an order any more.
#[must_use]
pub fn is_terminal(order: &Value) -> bool {
    order["status"].as_str().is_some_and(|status| has_ended(status, order["delivery_status"].as_str()))
}

/// The same, by its status and delivery status.
#[must_use]
pub fn has_ended(status: &str, delivery_status: Option<&str>) -> bool {
    match status {
        "INSUFFICIENT_FUNDS" | "REFUNDED" => true,
        "PAID" => delivery_status == Some("DELIVERED"),
        _ => false,
    }
}
