//! Deliveries under any sequence of visits by their workers.

use std::time::Duration;

use holdfast_delivery::domain::{Delivery, Plan, Status, check_repeated};
use holdfast_proto::{OrderId, UserId};
use proptest::prelude::*;
use time::OffsetDateTime;
use uuid::Uuid;

const STEP: Duration = Duration::from_secs(2);

fn plan(fail_prefix: &str, fail_per_million: u64) -> Plan {
    Plan { step: STEP, fail_prefix: fail_prefix.to_owned(), fail_per_million }
}

fn at(ms: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(ms)
}

fn delivery(address: &str, plan: &Plan) -> Delivery {
    let user = UserId::parse("user-1").expect("valid");
    Delivery::create(Uuid::now_v7(), OrderId::generate(), user, address.to_owned(), plan, at(0))
}

proptest! {
    /// However often and whenever workers look: each step happens once, none before its time, and the delivery ends as
    /// planned.
    #[test]
    fn each_step_is_taken_once(
        visits in prop::collection::vec(0i64..3_000, 0..60),
        unreachable in any::<bool>(),
    ) {
        let address = if unreachable { "UNDELIVERABLE lane" } else { "1 Quay Street" };
        let mut delivery = delivery(address, &plan("UNDELIVERABLE", 0));
        let mut seen = vec![delivery.status];
        let mut now_ms = 0;
        for wait_ms in visits.into_iter().chain([2_000; 4]) {
            now_ms += wait_ms;
            let due = delivery.due_at;
            if delivery.advance(STEP, at(now_ms)) {
                prop_assert!(due.expect("only what is due moves") <= at(now_ms));
                seen.push(delivery.status);
            } else {
                prop_assert!(due.is_none_or(|due| due > at(now_ms)));
            }
            prop_assert_eq!(delivery.due_at.is_none(), delivery.status.is_terminal());
        }
        // The last four visits, a step apart, bring it to its end at the latest.
        let end = if unreachable { Status::Failed } else { Status::Delivered };
        prop_assert_eq!(seen, [Status::Pending, Status::InTransit, Status::OutForDelivery, end]);
    }

    /// The share that fails is the share that was set, and the same order always gets the same answer.
    #[test]
    fn the_failing_share_is_the_one_set(fail_per_million in prop::sample::select(vec![0u64, 250_000, 1_000_000])) {
        let plan = plan("", fail_per_million);
        let orders: Vec<OrderId> = (0..2_000).map(|_| OrderId::from(Uuid::new_v4())).collect();
        let failing = orders.iter().filter(|order| plan.will_fail(**order, "x")).count() as u64;
        let again = orders.iter().filter(|order| plan.will_fail(**order, "x")).count() as u64;
        prop_assert_eq!(failing, again);
        // Eight standard deviations of 2,000 draws.
        let expected = fail_per_million * 2_000 / 1_000_000;
        prop_assert!(failing.abs_diff(expected) <= 160, "{} of 2,000", failing);
    }
}

/// Without a prefix no address fails by its text, and a second payment of another user or address is refused.
#[test]
fn prefixes_and_repeats() {
    assert!(!delivery("UNDELIVERABLE lane", &plan("", 0)).will_fail);
    let delivery = delivery("1 Quay Street", &plan("UNDELIVERABLE", 0));
    let other = UserId::parse("user-2").expect("valid");
    assert_eq!(check_repeated(&delivery, &delivery.user_id, "1 Quay Street"), Ok(()));
    assert!(check_repeated(&delivery, &other, "1 Quay Street").is_err());
    assert!(check_repeated(&delivery, &delivery.user_id, "2 Quay Street").is_err());
}
