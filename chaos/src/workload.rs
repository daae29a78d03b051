//! What the users of a run do: orders with keys that are sent again until they are answered, known amounts, some that must fail,
//! reads during the storm, looks at what is somebody else's, and clients that give up in the middle. Everything goes into
//! the journal.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use http::header::RETRY_AFTER;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    journal::{Facts, Journal, Operation, Stage},
    rest::{Answer, Rest, Session, has_ended, sample_order},
};

/// Users with money for all their orders, and users without an account.
///
/// So many that none comes near the gateway's limits for one subject, and so few that the treasury's credits do not either.
const RICH_USERS: usize = 90;
const POOR_USERS: usize = 18;
/// In euros and cents: far more than a user of the longest run spends.
const CREDIT: (&str, i64) = ("1000000.00", 100_000_000);
/// Of 100 orders: those of users without money, and those that can't be delivered.
const POOR_SHARE: u32 = 10;
const UNDELIVERABLE_SHARE: u32 = 6;
/// Of 100 orders: those whose client goes away before it is answered, and never asks again.
const IMPATIENT_SHARE: u32 = 3;
/// Of 100 orders: those that are followed by each of these.
const WATCH_SHARE: u32 = 30;
const FOREIGN_SHARE: u32 = 5;
const ACCOUNT_SHARE: u32 = 5;
const LIST_SHARE: u32 = 3;
/// A careful client asks again for this long.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE_MIN_MS: u64 = 100;
const PAUSE_MAX_MS: u64 = 2_000;
/// A client waits longer than the gateway's deadline, so that an answer that comes at all is seen.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(8);
/// Most looks at an order.
const LOOKS_MAX: u32 = 8;

/// Part of every address and key of a run: neither may appear in a log.
pub const SENTINEL: &str = "hfsentinel";

/// An address that begins like this can't be delivered to, in the native stack.
const UNDELIVERABLE: &str = "UNDELIVERABLE";

/// An order that a client wants.
#[derive(Debug, Clone)]
pub struct Wish {
    user: usize,
    key: String,
    address: String,
    cents: u32,
}

/// The users and what they know.
pub struct Workload {
    users: Vec<Session>,
    journal: Journal,
    calls: AtomicU64,
    seed: u64,
    /// Orders by user, the newest last, for looks at what is somebody else's.
    orders: Mutex<Vec<(usize, String)>>,
    /// Keys whose outcome nobody knows.
    open: Mutex<Vec<Wish>>,
}

impl Workload {
    /// Opens the accounts of the users of a run.
    pub async fn open(rest: &Rest, journal: Journal, run: &str, seed: u64) -> Result<Arc<Self>> {
        let mut users = Vec::with_capacity(RICH_USERS + POOR_USERS);
        for number in 0..RICH_USERS + POOR_USERS {
            let kind = if number < RICH_USERS { "rich" } else { "poor" };
            users.push(rest.user(&format!("{run}-{kind}-{number}"))?);
        }
        let workload = Self {
            users,
            journal,
            calls: AtomicU64::new(0),
            seed,
            orders: Mutex::default(),
            open: Mutex::default(),
        };
        for user in &workload.users[..RICH_USERS] {
            workload.credit_surely(rest, &user.user).await?;
        }
        Ok(Arc::new(workload))
    }

    /// Sends a credit again until it is answered: a stack that has just started may refuse the first ones.
    async fn credit_surely(&self, rest: &Rest, user: &str) -> Result<()> {
        let asked = Facts { user: user.to_owned(), cents: Some(CREDIT.1), ..Facts::default() };
        let begin = Instant::now();
        loop {
            let request = rest.send_credit(user, CREDIT.0, user);
            let (stage, facts) =
                self.call(Operation::Credit, &asked, ANSWER_TIME_MAX, request, |_, _| {}).await?;
            if stage == Stage::Ok {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "the account of {user} could not be opened: {facts:?}");
            sleep(Duration::from_millis(PAUSE_MIN_MS)).await;
        }
    }

    /// Names of the users.
    pub fn user_names(&self) -> impl Iterator<Item = &str> {
        self.users.iter().map(|user| user.user.as_str())
    }

    /// Their tokens, which may appear in no log.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.users.iter().map(|user| user.token.as_str())
    }

    /// Microseconds since the run began.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.journal.now()
    }

    /// The youngest order of a user, and the user's name.
    #[must_use]
    pub fn youngest_order(&self) -> Option<(String, String)> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.last().map(|(user, order)| (self.users[*user].user.clone(), order.clone()))
    }

    /// How many orders were accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What one client does: an order, and sometimes more.
    pub async fn client(self: Arc<Self>, number: u64) -> Result<()> {
        let mut rng =
            fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
        let mut share = |of_100: u32| rng.u32(..100) < of_100;
        let (poor, undeliverable, impatient) =
            (share(POOR_SHARE), share(UNDELIVERABLE_SHARE), share(IMPATIENT_SHARE));
        let (watches, foreign, account, list) =
            (share(WATCH_SHARE), share(FOREIGN_SHARE), share(ACCOUNT_SHARE), share(LIST_SHARE));
        let user = if poor { RICH_USERS + rng.usize(..POOR_USERS) } else { rng.usize(..RICH_USERS) };
        let street = format!("{SENTINEL} street {number}");
        let wish = Wish {
            user,
            key: format!("{SENTINEL}-{}-{number}", self.seed),
            address: if undeliverable { format!("{UNDELIVERABLE} {street}") } else { street },
            cents: rng.u32(1..=500),
        };
        if impatient {
            let gone_after = Duration::from_millis(rng.u64(1..=150));
            if self.create(&wish, gone_after).await?.is_none() {
                self.open.lock().unwrap_or_else(PoisonError::into_inner).push(wish);
            }
            return Ok(());
        }
        let Some(order) = self.create_surely(&wish, &mut rng).await? else { return Ok(()) };
        if foreign {
            self.look_at_another(user).await?;
        }
        if account {
            self.account(user).await?;
        }
        if list {
            self.list(user).await?;
        }
        if watches {
            self.watch(user, &order, &mut rng).await?;
        }
        Ok(())
    }

    /// Sends a key again until it is answered. `None` after [`PATIENCE`]; the key is resolved at the end of the run.
    async fn create_surely(&self, wish: &Wish, rng: &mut fastrand::Rng) -> Result<Option<String>> {
        let begin = Instant::now();
        let mut pause_ms = PAUSE_MIN_MS;
        loop {
            if let Some(order) = self.create(wish, ANSWER_TIME_MAX).await? {
                return Ok(Some(order));
            }
            if begin.elapsed() > PATIENCE {
                self.open.lock().unwrap_or_else(PoisonError::into_inner).push(wish.clone());
                return Ok(None);
            }
            sleep(Duration::from_millis(rng.u64(pause_ms / 2..=pause_ms))).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }

    /// Sends every key again whose outcome nobody knows. Returns how many there were; an error if one has no outcome after
    /// [`PATIENCE`].
    pub async fn resolve(&self) -> Result<usize> {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rng = fastrand::Rng::with_seed(self.seed);
        for wish in &open {
            let resolved = self.create_surely(wish, &mut rng).await?;
            resolved.with_context(|| format!("no outcome for the key {} at rest", wish.key))?;
        }
        Ok(open.len())
    }

    /// Reads the list of each user to its last page.
    pub async fn read_everything(&self) -> Result<()> {
        for user in 0..self.users.len() {
            self.list(user).await?;
        }
        Ok(())
    }

    async fn create(&self, wish: &Wish, time_max: Duration) -> Result<Option<String>> {
        let session = &self.users[wish.user];
        let asked = Facts {
            user: session.user.clone(),
            key: Some(wish.key.clone()),
            address: Some(wish.address.clone()),
            cents: Some(i64::from(wish.cents)),
            ..Facts::default()
        };
        let order = sample_order(&wish.address, wish.cents);
        let request = session.create_order(&order, Some(&wish.key));
        let (_, facts) = self.call(Operation::Create, &asked, time_max, request, fill_order).await?;
        if let Some(order_id) = facts.order_id.clone() {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.push((wish.user, order_id));
        }
        Ok(facts.order_id)
    }

    /// Looks at an order now and then, until nothing can happen to it any more.
    async fn watch(&self, user: usize, order: &str, rng: &mut fastrand::Rng) -> Result<()> {
        for _ in 0..LOOKS_MAX {
            sleep(Duration::from_millis(rng.u64(1..=1_500))).await;
            let asked = self.about(user, Some(order));
            let path = format!("/api/orders/{order}");
            let request = self.users[user].get(&path);
            let (_, facts) = self.call(Operation::Read, &asked, ANSWER_TIME_MAX, request, fill_order).await?;
            if facts.status.is_some_and(|status| has_ended(&status, facts.delivery_status.as_deref())) {
                break;
            }
        }
        Ok(())
    }

    async fn look_at_another(&self, user: usize) -> Result<()> {
        let order = {
            let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.iter().rev().find(|(owner, _)| *owner != user).map(|(_, order)| order.clone())
        };
        let Some(order) = order else { return Ok(()) };
        let asked = self.about(user, Some(&order));
        let path = format!("/api/orders/{order}");
        self.call(Operation::Foreign, &asked, ANSWER_TIME_MAX, self.users[user].get(&path), |_, _| {})
            .await?;
        Ok(())
    }

    async fn account(&self, user: usize) -> Result<()> {
        let asked = self.about(user, None);
        let path = format!("/api/accounts/{}", asked.user);
        let fill = |facts: &mut Facts, body: &Value| facts.cents = cents_of(&body["balance"]);
        self.call(Operation::Account, &asked, ANSWER_TIME_MAX, self.users[user].get(&path), fill).await?;
        Ok(())
    }

    async fn list(&self, user: usize) -> Result<()> {
        let asked = self.about(user, None);
        let since = self.now();
        let (mut path, mut listed) = ("/api/orders?limit=100".to_owned(), Vec::new());
        loop {
            let mut next = None;
            let fill = |facts: &mut Facts, body: &Value| {
                let ids = body["orders"].as_array().into_iter().flatten();
                listed.extend(ids.filter_map(|order| order["order_id"].as_str()).map(str::to_owned));
                next =
                    body["next_cursor"].as_str().map(|next| format!("/api/orders?limit=100&cursor={next}"));
                if next.is_none() {
                    facts.orders = std::mem::take(&mut listed);
                    facts.complete_since = Some(since);
                }
            };
            let request = self.users[user].get(&path);
            self.call(Operation::List, &asked, ANSWER_TIME_MAX, request, fill).await?;
            match next {
                Some(next) => path = next,
                None => return Ok(()),
            }
        }
    }

    fn about(&self, user: usize, order: Option<&str>) -> Facts {
        let user = self.users[user].user.clone();
        Facts { user, order_id: order.map(str::to_owned), ..Facts::default() }
    }

    /// One call, with its beginning and its end in the journal.
    async fn call(
        &self,
        op: Operation,
        asked: &Facts,
        time_max: Duration,
        request: impl Future<Output = Result<Answer>>,
        fill: impl FnOnce(&mut Facts, &Value),
    ) -> Result<(Stage, Facts)> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        self.journal.write(number, Stage::Invoke, op, asked)?;
        let mut facts = asked.clone();
        let stage = match timeout(time_max, request).await {
            Ok(Ok(answer)) => {
                facts.http = Some(answer.status.as_u16());
                facts.retry_after = answer.headers.contains_key(RETRY_AFTER);
                let stage = stage_of(op, answer.status.as_u16());
                if stage == Stage::Ok {
                    fill(&mut facts, &answer.json());
                }
                stage
            }
            Ok(Err(error)) => {
                facts.error = Some(format!("{error:#}"));
                unanswered(op)
            }
            Err(_) => {
                facts.error = Some(format!("the client went away after {time_max:?}"));
                unanswered(op)
            }
        };
        self.journal.write(number, stage, op, &facts)?;
        Ok((stage, facts))
    }
}

/// Whether a call of this kind had an effect, by its answer.
const fn stage_of(op: Operation, http: u16) -> Stage {
    match (op, http) {
        (Operation::Create | Operation::Credit, 201) | (_, 200) => Stage::Ok,
        (Operation::Create | Operation::Credit, 400..=408 | 410..=499) => Stage::Fail,
        (Operation::Create | Operation::Credit, _) => Stage::Info,
        _ => Stage::Fail,
    }
}

const fn unanswered(op: Operation) -> Stage {
    match op {
        Operation::Create | Operation::Credit => Stage::Info,
        _ => Stage::Fail,
    }
}

fn fill_order(facts: &mut Facts, order: &Value) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    facts.order_id = text(&order["order_id"]);
    facts.version = order["version"].as_i64();
    facts.status = text(&order["status"]);
    facts.delivery_status = text(&order["delivery_status"]);
}

/// Cents of an amount with at most two decimals.
fn cents_of(amount: &Value) -> Option<i64> {
    let text = amount.to_string();
    let (euros, cents) = text.split_once('.').unwrap_or((&text, "0"));
    let cents = format!("{cents:0<2}");
    Some(euros.parse::<i64>().ok()? * 100 + cents.get(..2)?.parse::<i64>().ok()?)
}

/// How an order must end, by its user and its address: status and delivery status.
#[must_use]
pub fn ends_as(user: &str, address: &str) -> (&'static str, Option<&'static str>) {
    if user.contains("-poor-") {
        ("INSUFFICIENT_FUNDS", None)
    } else if address.starts_with(UNDELIVERABLE) {
        ("REFUNDED", Some("FAILED"))
    } else {
        ("PAID", Some("DELIVERED"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is unknown is never called a failure: the order may exist.
    #[test]
    fn an_answer_says_what_is_known() {
        assert_eq!(stage_of(Operation::Create, 201), Stage::Ok);
        assert_eq!(stage_of(Operation::Create, 422), Stage::Fail);
        for unknown in [409, 500, 503, 504] {
            assert_eq!(stage_of(Operation::Create, unknown), Stage::Info, "{unknown}");
        }
        assert_eq!(stage_of(Operation::Read, 503), Stage::Fail);
        for (json, cents) in [("12.30", 1230), ("0.05", 5), ("7", 700), ("1000000.0", 100_000_000)] {
            assert_eq!(cents_of(&serde_json::from_str(json).expect("JSON")), Some(cents), "{json}");
        }
    }
}
