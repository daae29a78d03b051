//! The order's state machine under any order of events, repeated.

use holdfast_order::domain::{
    Change, DeliveryStatus, Draft, DraftError, Event, Item, Order, Status, Violation,
};
use holdfast_proto::{Currency, Money, OrderId, UserId};
use proptest::prelude::*;
use time::OffsetDateTime;

fn eur(minor_units: i64) -> Money {
    Money::new(minor_units, Currency::parse("EUR").expect("a code"))
}

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000 + second).expect("in range")
}

fn item(quantity: u32, price_minor: i64) -> Item {
    Item { product_id: "tea".to_owned(), quantity, price: eur(price_minor) }
}

fn draft(items: Vec<Item>) -> Result<Draft, DraftError> {
    Draft::new(UserId::parse("user-1").expect("valid"), "1 Quay Street".to_owned(), items)
}

fn order() -> Order {
    Order::create(OrderId::generate(), draft(vec![item(2, 250)]).expect("valid"), at(0))
}

const TOTAL: i64 = 500;

/// All events that the other services send for one order, by how it ends.
fn story(ending: Status) -> Vec<Event> {
    use DeliveryStatus::{Delivered, Failed, InTransit, OutForDelivery, Pending};
    let way = |end| [Pending, InTransit, OutForDelivery, end].map(Event::Delivery).to_vec();
    match ending {
        Status::Pending => Vec::new(),
        Status::InsufficientFunds => vec![Event::Declined],
        Status::Paid => [vec![Event::Charged(eur(TOTAL))], way(Delivered)].concat(),
        Status::Refunded => {
            [vec![Event::Charged(eur(TOTAL))], way(Failed), vec![Event::Refunded(eur(TOTAL))]].concat()
        }
    }
}

fn rank(status: Status) -> u8 {
    match status {
        Status::Pending => 0,
        Status::Paid => 1,
        Status::Refunded | Status::InsufficientFunds => 2,
    }
}

proptest! {
    /// Any order of a story's events, each repeated any number of times, leads to the same end; on the way statuses
    /// only rise, the version grows exactly with each change, and time never runs backwards.
    #[test]
    fn any_order_of_events_ends_the_same(
        ending in prop::sample::select(vec![Status::InsufficientFunds, Status::Paid, Status::Refunded]),
        picks in prop::collection::vec((any::<prop::sample::Index>(), -5i64..1000), 0..40),
    ) {
        let story = story(ending);
        let mut order = order();
        let all = story.iter().enumerate().map(|(i, _)| (i, 0));
        let extra = picks.iter().map(|(index, second)| (index.index(story.len()), *second));
        // The random picks first, then everything once: all events arrive at least once.
        for (index, second) in extra.chain(all) {
            let before = order.clone();
            let change = order.apply(story[index], at(second)).expect("no event of a true story is refused");
            prop_assert!(rank(order.status) >= rank(before.status));
            prop_assert!(order.updated_at >= before.updated_at);
            prop_assert_eq!(order.version, before.version + i64::from(change == Change::Changed));
            if order.delivery_status.is_some() {
                prop_assert!(order.status != Status::Pending, "a delivery is seen before its payment");
            }
            if before.is_terminal() {
                prop_assert_eq!(&order, &before);
            }
        }
        prop_assert!(order.is_terminal());
        prop_assert_eq!(order.status, ending);
        let delivery = match ending {
            Status::Paid => Some(DeliveryStatus::Delivered),
            Status::Refunded => Some(DeliveryStatus::Failed),
            _ => None,
        };
        prop_assert_eq!(order.delivery_status, delivery);
    }

    /// The total is the exact sum, and no quantity or price can break the arithmetic.
    #[test]
    fn totals_are_exact_sums(lines in prop::collection::vec((0u32..20_000, -5i64..200_000_000), 0..120)) {
        let items: Vec<Item> = lines.iter().map(|(quantity, price)| item(*quantity, *price)).collect();
        let valid = (1..=100).contains(&lines.len())
            && lines.iter().all(|(q, p)| (1..=10_000).contains(q) && (1..=100_000_000).contains(p));
        match draft(items) {
            Ok(draft) => {
                prop_assert!(valid);
                let sum: i128 = lines.iter().map(|(q, p)| i128::from(*q) * i128::from(*p)).sum();
                prop_assert_eq!(i128::from(draft.total.minor_units), sum);
            }
            Err(_) => prop_assert!(!valid),
        }
    }
}

/// Events that contradict the order are refused and change nothing.
#[test]
fn contradictions_are_refused() {
    let charged = Event::Charged(eur(TOTAL));
    let delivered = Event::Delivery(DeliveryStatus::Delivered);
    let failed = Event::Delivery(DeliveryStatus::Failed);
    for (first, second, expected) in [
        (Event::Declined, charged, Violation::PaymentDecided),
        (Event::Declined, delivered, Violation::PaymentDecided),
        (charged, Event::Declined, Violation::PaymentDecided),
        (delivered, Event::Declined, Violation::PaymentDecided),
        (delivered, failed, Violation::DeliveryEnded),
        (failed, delivered, Violation::DeliveryEnded),
        (delivered, Event::Refunded(eur(TOTAL)), Violation::DeliveryEnded),
        (charged, Event::Charged(eur(TOTAL + 1)), Violation::Amount),
        (charged, Event::Refunded(eur(1)), Violation::Amount),
    ] {
        let mut order = order();
        order.apply(first, at(1)).expect("the first is fine");
        let before = order.clone();
        assert_eq!(order.apply(second, at(2)), Err(expected), "{first:?} then {second:?}");
        assert_eq!(order, before);
    }
}

/// Moving characters between fields never gives two different requests the same fingerprint.
#[test]
fn canonical_bytes_are_unambiguous() {
    let of = |address: &str, product: &str| {
        let item = Item { product_id: product.to_owned(), quantity: 1, price: eur(1) };
        let user = UserId::parse("user-1").expect("valid");
        Draft::new(user, address.to_owned(), vec![item]).expect("valid").canonical_bytes()
    };
    assert_ne!(of("ab", "c"), of("a", "bc"));
    assert_eq!(of("ab", "c"), of("ab", "c"));
}

/// A price in another currency is refused, because it could never be paid.
#[test]
fn prices_are_in_the_currency_of_accounts() {
    let price = Money::new(100, Currency::parse("USD").expect("a code"));
    let in_dollars = Item { price, ..item(1, 100) };
    let refused = draft(vec![item(1, 100), in_dollars]).expect_err("nobody has an account in it");
    assert_eq!(refused, DraftError::Currency(1));
    assert_eq!(refused.to_string(), "items[1].price must be in EUR");
}

/// An address has something to read in it and nothing that changes how it is displayed.
#[test]
fn addresses_are_readable() {
    let try_address = |address: &str| {
        Draft::new(UserId::parse("u").expect("valid"), address.to_owned(), vec![item(1, 1)]).map(drop)
    };
    assert_eq!(try_address("12 Żółta, 00-001 Warszawa, שדרות"), Ok(()));
    assert_eq!(try_address(&"ü".repeat(500)), Ok(()));
    let unreadable = ["", "   ", "\u{a0}\u{3000}", "\u{200b}\u{feff}", "\u{ad}", "\u{2800}\u{3164}"];
    let misleading = ["a\0b", "a\nb", "a\u{202e}b", "a\u{2066}b", "a\u{2028}b", &"a".repeat(501)];
    for bad in unreadable.into_iter().chain(misleading) {
        assert_eq!(try_address(bad), Err(DraftError::Address), "{bad:?}");
    }
}
