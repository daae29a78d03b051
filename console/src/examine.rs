//! The examination of orders: the same that `holdfast reconcile` makes, and so one that waits until each reader that lacks an event has
//! looked at the broker again. There is one at a time, of a bounded number of orders, with a deadline.

use std::{slice, time::Duration};

use anyhow::Result;
use holdfast_operator::{
    examine::{Away, Examination, Missing, Orders, Scope, examine},
    reemit::{Consent, reemit},
    service::Service,
    verdict::Reach,
};
use holdfast_proto::OrderId;
use time::OffsetDateTime;
use tokio::{sync::Semaphore, time::timeout};

use crate::state::Console;

/// Unfinished orders of one examination; the next one goes on after them.
pub(crate) const ORDERS_MAX: u32 = 200;
/// Of a whole examination; the deadline of a page is longer.
const EXAMINATION_TIME_MAX: Duration = Duration::from_secs(12);
/// Of one question, about many orders at once.
const CALL_TIME_MAX: Duration = Duration::from_secs(2);
/// For a reader to look at the broker.
const VIEW_TIME_MAX: Duration = Duration::from_secs(6);

/// Which orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// This one, whether it has ended or not.
    Order(OrderId),
    /// Those that have not ended and began before then, after the token of another page.
    Unfinished { before: OffsetDateTime, after: String },
}

/// Why there is no examination.
#[derive(Debug)]
pub(crate) enum NotExamined {
    /// Another one is under way.
    Busy,
    TooSlow,
    /// A service has failed, or refuses.
    Failed(anyhow::Error),
}

/// There is one examination at a time.
#[derive(Debug)]
pub(crate) struct Examiner(Semaphore);

impl Default for Examiner {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Console {
    /// Examines orders. Services that can't be asked are named in what was found.
    pub(crate) async fn examine(&self, which: &Which) -> Result<Examination, NotExamined> {
        let _turn = self.examiner.0.try_acquire().map_err(|_| NotExamined::Busy)?;
        let services = patient(&self.services);
        let orders = match which {
            Which::Order(order) => Orders::These(slice::from_ref(order)),
            Which::Unfinished { before, after } => {
                Orders::Page { before: *before, token: after, orders_max: ORDERS_MAX }
            }
        };
        let scope = Scope { orders, writer: None, view_time_max: VIEW_TIME_MAX };
        let examined = timeout(EXAMINATION_TIME_MAX, examine(&services, &scope, Away::default())).await;
        examined.map_err(|_| NotExamined::TooSlow)?.map_err(NotExamined::Failed)
    }

    /// Has these events re-emitted, and returns them as they are then.
    pub(crate) async fn reemit(
        &self,
        mut events: Vec<Missing>,
        reach: Reach,
        consent: Consent<'_>,
    ) -> Result<Vec<Missing>> {
        reemit(&patient(&self.services), &mut events, reach, consent).await?;
        Ok(events)
    }
}

fn patient(services: &[Service]) -> Vec<Service> {
    services.iter().map(|service| service.clone().within(CALL_TIME_MAX)).collect()
}

#[cfg(test)]
impl Console {
    /// Nobody else examines anything while this is held.
    pub(crate) fn examining(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.examiner.0.try_acquire().expect("nobody examines anything")
    }
}
