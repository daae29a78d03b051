//! A whole stack for a test file, seen from outside: REST, databases, topics, processes.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::must_use_candidate,
    clippy::new_without_default,
    clippy::missing_panics_doc,
    reason = "for the tests of this crate only"
)]

pub mod browser;
pub mod certificates;
pub mod collector;
pub mod events;
pub mod interrupt;
pub mod log_collection;
pub mod openapi;
pub mod operator;
pub mod orders;
pub mod terminal;
pub mod transcript;

use std::{collections::HashMap, sync::OnceLock};

use holdfast_certs::TokenIssuer;
use holdfast_chaos::{
    admin,
    fault::{Fault, links::Links},
    invariant::{self, Violation},
    rest::{Answer, Rest, Session, sample_order},
};
use holdfast_native::layout::{Scope, participant_names};
use holdfast_testkit::stack::{self, TestStack, binary};
pub use holdfast_testkit::{PATIENCE, eventually, reaches, skipped};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

/// The stack and a client of it.
pub struct World {
    pub stack: &'static TestStack,
    pub rest: Rest,
}

impl World {
    pub fn new() -> Self {
        Self::of(stack::everything())
    }

    /// The same, with clients that come back after a 503 that says when: for tests of everything but refusals.
    pub fn patient() -> Self {
        let Self { stack, rest } = Self::new();
        Self { stack, rest: rest.patient(PATIENCE) }
    }

    /// The same with a second replica of order, shared by all tests of this process. Its gateway gives requests and calls far more
    /// time than usual, except for calls of the services that are `timed` as usual: that a slow machine is late is not what these
    /// tests look at, so a request that fails there failed for the reason that its test is about.
    pub fn with_two_order_replicas(timed: &[&str]) -> Self {
        static STACK: OnceLock<TestStack> = OnceLock::new();
        let Self { stack, rest } = Self::of(STACK.get_or_init(|| {
            let mut environment = vec![
                ("HOLDFAST__DELIVERY__STEP".to_owned(), "50ms"),
                ("HOLDFAST__GATEWAY__DEADLINE".to_owned(), "30s"),
            ];
            for service in participant_names().filter(|service| !timed.contains(service)) {
                let upper = service.to_uppercase();
                environment.push((format!("HOLDFAST__UPSTREAM__{upper}__CALLS__ATTEMPT_TIMEOUT"), "15s"));
            }
            let environment: Vec<_> =
                environment.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            TestStack::start(Scope::Everything, &["order=2"], &environment)
        }));
        Self { stack, rest: rest.answered_within(PATIENCE) }
    }

    /// For a stack that a test file has started for itself.
    pub fn of(stack: &'static TestStack) -> Self {
        let rest = Rest::new(stack.layout.gateway_url(), Self::issuer(stack), 64);
        Self { stack, rest }
    }

    /// Runs the proxies of a stack with links, and waits until it is ready.
    pub async fn linked(stack: &'static TestStack) -> (Self, Links) {
        let links = Links::start(stack.links()).await.expect("the ports are free");
        tokio::task::spawn_blocking(|| stack.wait_until_ready()).await.expect("ready");
        (Self::of(stack), links)
    }

    pub fn issuer(stack: &TestStack) -> TokenIssuer {
        TokenIssuer::load_or_create(&stack.layout.pki_dir()).expect("created at the start")
    }

    /// A new user of this test, with money. See [`insist`].
    pub async fn user(&self, name: &str, balance: &str) -> Session {
        let user = format!("{name}-{}", Uuid::now_v7().simple());
        let answer = insist(|| self.rest.send_credit(&user, balance, &user)).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        self.rest.user(&user).expect("a token")
    }

    /// Creates one order and returns it. See [`insist`].
    pub async fn create(&self, session: &Session, address: &str, cents: u32) -> Value {
        let (order, key) = (sample_order(address, cents), Uuid::now_v7().to_string());
        let answer = insist(|| session.create_order(&order, Some(&key))).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        answer.json()
    }

    pub async fn connect(&self, service: &str) -> PgConnection {
        PgConnection::connect(&self.stack.database_url(service)).await.expect("the database is there")
    }

    pub async fn count(&self, service: &str, sql: &'static str, parameter: &str) -> i64 {
        let mut connection = self.connect(service).await;
        sqlx::query(sql).bind(parameter).fetch_one(&mut connection).await.expect("counted").get(0)
    }

    /// A page of a component's admin port.
    async fn page(&self, component: &str, path: &str) -> Option<Answer> {
        admin::page(&self.rest, &self.stack.layout.admin_url(component), path).await.ok()
    }

    /// `/readyz` of a service's admin port.
    pub async fn readyz(&self, service: &str) -> (u16, Value) {
        let answer = self.page(service, "/readyz").await;
        answer.map_or((0, Value::Null), |answer| (answer.status.as_u16(), answer.json()))
    }

    /// What `holdfast status` says about each component, by name.
    pub async fn status(&self) -> HashMap<String, Value> {
        let mut command = std::process::Command::new(binary());
        command.args(["status", "-o", "json", "--data-dir"]).arg(&self.stack.layout.data_dir);
        let output =
            tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("runs");
        let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let components = document["components"].as_array().expect("a list").iter();
        components
            .map(|component| (component["name"].as_str().expect("a name").to_owned(), component.clone()))
            .collect()
    }

    /// Whether a service is ready and nothing is wrong with it.
    pub async fn is_well(&self, service: &str) -> bool {
        let (status, body) = self.readyz(service).await;
        status == 200 && body["degraded"] == false
    }

    /// The status of `/healthz` of a service's admin port.
    pub async fn healthz(&self, service: &str) -> u16 {
        self.page(service, "/healthz").await.map_or(0, |answer| answer.status.as_u16())
    }

    /// A metric of a component's admin port: the sum over all series whose line has all of these parts.
    pub async fn metric(&self, component: &str, name: &str, parts: &[&str]) -> f64 {
        let answer = self.page(component, "/metrics").await;
        answer.map_or(0.0, |answer| admin::metric(&String::from_utf8_lossy(&answer.body), name, parts))
    }

    /// Kills a component, and waits until the supervisor has started it again.
    pub async fn restart(&self, component: &str) {
        let before = self.stack.pid(component);
        self.kill(component);
        eventually(&format!("{component} is back"), || async {
            let pid = self.stack.pid(component);
            pid.is_some() && pid != before
        })
        .await;
    }

    pub fn apply(&self, fault: Fault, component: &str) {
        fault.apply(self.stack.pid(component).expect("it runs")).expect("applied");
    }

    pub fn heal(&self, fault: Fault, component: &str) {
        fault.heal(self.stack.pid(component).expect("it runs")).expect("healed");
    }

    pub fn kill(&self, component: &str) {
        self.apply(Fault::Kill, component);
    }

    /// Kills a component that may be dead already.
    pub fn kill_what_is_left(&self, component: &str) {
        let Some(pid) = self.stack.pid(component) else { return };
        // Fails if it died since.
        let _ = Fault::Kill.apply(pid);
    }

    /// All violations of the invariants in the whole stack.
    pub async fn violations(&self) -> Vec<Violation> {
        let mut connections = Vec::new();
        for service in participant_names() {
            connections.push((service, self.connect(service).await));
        }
        invariant::violations(&mut connections.into_iter().collect()).await.expect("the databases answer")
    }

    /// Waits until all invariants hold; fails with the violations that remain.
    pub async fn invariants_hold(&self) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let violations = self.violations().await;
            if violations.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "{violations:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

/// Asks again while nobody answers, or 503 or 504: for what a test needs and does not look at, because a machine that is slow for a moment
/// says nothing about the rest. `ask` has a key, so that all its requests are one.
pub async fn insist<F: Future<Output = anyhow::Result<Answer>>>(mut ask: impl FnMut() -> F) -> Answer {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        let may_come = answer.as_ref().map_or(true, |answer| [503, 504].contains(&answer.status.as_u16()));
        if !may_come || tokio::time::Instant::now() >= until {
            return answer.expect("answered");
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

pub fn id(order: &Value) -> String {
    order["order_id"].as_str().expect("an id").to_owned()
}
