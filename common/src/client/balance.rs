//! Spreads calls over all endpoints of a destination: of two at random, the one with less to do ("power of two
//! choices"). An endpoint whose breaker is not closed gets no calls but its probes.
//!
//! Written here rather than taken from `tower::balance`, which needs a task and a queue in front of it to be shared,
//! and asks endpoints whether they are ready before there is a call: asking a breaker must not be a promise to call
//! (`docs/adr/0006-client-column.md`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::watch;
use tonic::{Status, body::Body};
use tower::Service;

use super::{
    breaker::{Breaker, Outcome, Permit, Readiness, Rejected},
    replay::{Attempts, Message},
};

/// Put into a request whose answer must not depend on breakers, and must not touch them: a health check.
#[derive(Debug, Clone, Copy)]
pub struct Unguarded;

/// One address of a destination.
#[derive(Debug)]
pub(super) struct Endpoint<S> {
    /// Never 0, which stands for "none".
    id: u64,
    pub(super) address: String,
    breaker: Breaker,
    in_flight: AtomicUsize,
    service: S,
}

impl<S> Endpoint<S> {
    pub(super) fn new(address: String, breaker: Breaker, service: S) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { id, address, breaker, in_flight: AtomicUsize::new(0), service }
    }
}

/// Counts a call while it lasts, however it ends.
struct InFlight<S>(Arc<Endpoint<S>>);

impl<S> InFlight<S> {
    fn begin(endpoint: Arc<Endpoint<S>>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl<S> Drop for InFlight<S> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The endpoints of a destination, as far as they are known.
#[derive(Debug)]
pub(super) struct Endpoints<S> {
    all: ArcSwap<Vec<Arc<Endpoint<S>>>>,
    /// True once the name was resolved for the first time.
    known: watch::Sender<bool>,
}

impl<S> Endpoints<S> {
    pub(super) fn unknown() -> Self {
        Self { all: ArcSwap::default(), known: watch::Sender::new(false) }
    }

    pub(super) fn all(&self) -> Arc<Vec<Arc<Endpoint<S>>>> {
        self.all.load_full()
    }

    pub(super) fn set(&self, endpoints: Vec<Arc<Endpoint<S>>>) {
        self.all.store(Arc::new(endpoints));
        self.known.send_replace(true);
    }

    async fn known(&self) {
        if !*self.known.borrow() {
            // Fails only if the sender is gone, and it is in `self`.
            let _ = self.known.subscribe().wait_for(|known| *known).await;
        }
    }

    /// Chooses an endpoint and takes its permit.
    fn pick(&self, last: u64) -> Result<(Arc<Endpoint<S>>, Permit), Rejected> {
        let all = self.all.load();
        let acquire = |endpoint: &Arc<Endpoint<S>>| {
            endpoint.breaker.try_acquire().map(|permit| (endpoint.clone(), permit))
        };
        let (mut closed, mut due) = (Vec::with_capacity(all.len()), Vec::new());
        for endpoint in all.iter() {
            match endpoint.breaker.readiness() {
                Readiness::Closed => closed.push(endpoint),
                Readiness::ProbeDue => due.push(endpoint),
                Readiness::Shut => {}
            }
        }
        // A call that has failed once goes to a healthy endpoint if there is one; a first attempt may be the probe.
        if (last == 0 || closed.is_empty())
            && let Some(picked) = due.iter().find_map(|endpoint| acquire(endpoint).ok())
        {
            return Ok(picked);
        }
        if closed.len() > 1 {
            closed.retain(|endpoint| endpoint.id != last);
        }
        let preferred = less_loaded(&closed).map(acquire);
        match preferred {
            Some(Ok(picked)) => Ok(picked),
            // It tripped a moment ago: any other will do.
            _ => closed.iter().find_map(|endpoint| acquire(endpoint).ok()).ok_or_else(|| {
                all.iter().for_each(|endpoint| endpoint.breaker.count_rejected());
                Rejected
            }),
        }
    }

    /// Any endpoint; those whose breaker is closed are preferred.
    fn pick_unguarded(&self) -> Option<Arc<Endpoint<S>>> {
        let all = self.all.load();
        let closed: Vec<_> =
            all.iter().filter(|endpoint| endpoint.breaker.readiness() == Readiness::Closed).collect();
        let among = if closed.is_empty() { all.iter().collect() } else { closed };
        less_loaded(&among).cloned()
    }
}

/// Of two at random, the one with fewer calls in flight.
fn less_loaded<'a, S>(among: &[&'a Arc<Endpoint<S>>]) -> Option<&'a Arc<Endpoint<S>>> {
    match among {
        [] => None,
        [one] => Some(one),
        _ => {
            let first = fastrand::usize(..among.len());
            // Another one: skip over the first.
            let second = (first + fastrand::usize(1..among.len())) % among.len();
            let load = |index: usize| among[index].in_flight.load(Ordering::Relaxed);
            Some(if load(second) < load(first) { among[second] } else { among[first] })
        }
    }
}

/// The layer; clones share the endpoints.
#[derive(Debug)]
pub(super) struct Balance<S> {
    pub(super) endpoints: Arc<Endpoints<S>>,
    pub(super) known_within: Duration,
}

impl<S> Clone for Balance<S> {
    fn clone(&self) -> Self {
        Self { endpoints: self.endpoints.clone(), known_within: self.known_within }
    }
}

impl<S> Service<Request<Message>> for Balance<S>
where
    S: Service<Request<Message>, Response = Response<Body>, Error = Status> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    /// An endpoint is chosen when there is a call, not when a caller asks whether it may call.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Message>) -> Self::Future {
        let (endpoints, known_within) = (self.endpoints.clone(), self.known_within);
        Box::pin(async move {
            let known = tokio::time::timeout(known_within, endpoints.known()).await;
            known.map_err(|_| Status::unavailable("name of the destination cannot be resolved"))?;
            if request.extensions().get::<Unguarded>().is_some() {
                let endpoint = endpoints.pick_unguarded();
                let endpoint = endpoint.ok_or_else(|| Status::unavailable("destination has no endpoint"))?;
                return endpoint.service.clone().call(request).await;
            }
            let attempts = request.extensions().get::<Attempts>().cloned().unwrap_or_default();
            let picked = endpoints.pick(attempts.last.load(Ordering::Relaxed));
            let (endpoint, permit) = picked.map_err(|rejected| {
                let mut status = Status::unavailable(rejected.to_string());
                status.set_source(Arc::new(rejected));
                status
            })?;
            attempts.last.store(endpoint.id, Ordering::Relaxed);
            let in_flight = InFlight::begin(endpoint);
            let answer = in_flight.0.service.clone().call(request).await;
            permit.record(Outcome::of(&answer));
            answer
        })
    }
}
