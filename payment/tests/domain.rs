//! Accounts and payments under any sequence of operations.

use std::collections::HashMap;

use holdfast_payment::domain::{Account, Entry, EntryKind, Payment, Status, Violation, check_repeated};
use holdfast_proto::{Currency, Money, OrderId, UserId};
use proptest::prelude::*;
use time::OffsetDateTime;
use uuid::Uuid;

fn eur(minor_units: i64) -> Money {
    Money::new(minor_units, Currency::EUR)
}

fn user() -> UserId {
    UserId::parse("user-1").expect("valid")
}

fn order(number: u8) -> OrderId {
    OrderId::from(Uuid::from_u128(u128::from(number) + 1))
}

#[derive(Debug, Clone)]
enum Operation {
    Credit(i64),
    Charge(u8, i64),
    Refund(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (-10i64..50_000).prop_map(Operation::Credit),
        (0u8..12, -10i64..60_000).prop_map(|(order, amount)| Operation::Charge(order, amount)),
        (0u8..12).prop_map(Operation::Refund),
    ]
}

proptest! {
    /// Whatever happens, and however often: the balance is never negative, the ledger explains it to the cent, an order
    /// is charged at most once and refunded at most once and only if it was charged.
    #[test]
    fn the_ledger_explains_the_balance(operations in prop::collection::vec(operation(), 0..60)) {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut account = Account::empty(user(), Currency::EUR);
        let mut payments: HashMap<OrderId, Payment> = HashMap::new();
        let mut ledger: Vec<Entry> = Vec::new();
        for operation in operations {
            let before = account.clone();
            let entry = match operation {
                Operation::Credit(amount) => account.credit(EntryKind::Credit, eur(amount), now).map(Some),
                // As in the consumer: an existing payment decides.
                Operation::Charge(number, amount) => match payments.get(&order(number)) {
                    Some(payment) => check_repeated(payment, &user(), eur(amount)).map(|()| None),
                    None => match account.charge(Uuid::now_v7(), order(number), eur(amount), now) {
                        Ok((payment, entry)) => {
                            prop_assert_eq!(entry.is_some(), payment.status == Status::Success);
                            prop_assert_eq!(entry.is_some(), amount <= before.balance.minor_units);
                            payments.insert(payment.order_id, payment);
                            Ok(entry)
                        }
                        Err(violation) => Err(violation),
                    },
                },
                Operation::Refund(number) => match payments.get_mut(&order(number)) {
                    Some(payment) => account.refund(payment, now),
                    None => Err(Violation::NeverCharged),
                },
            };
            if let Ok(Some(entry)) = entry {
                prop_assert_eq!(entry.balance_after, account.balance);
                ledger.push(entry);
            } else { prop_assert_eq!(&account, &before) }
            prop_assert!(account.balance.minor_units >= 0);
            let sum: i64 = ledger.iter().map(|entry| entry.amount.minor_units).sum();
            prop_assert_eq!(sum, account.balance.minor_units);
        }
        for (order_id, payment) in &payments {
            let count = |kind| ledger.iter().filter(|entry| entry.kind == kind).count();
            let charges = count(EntryKind::Charge(*order_id));
            let refunds = count(EntryKind::Refund(*order_id));
            let expected = match payment.status {
                Status::Success => (1, 0),
                Status::InsufficientFunds => (0, 0),
                Status::Refunded => (1, 1),
            };
            prop_assert_eq!((charges, refunds), expected);
        }
    }
}

/// Each violation is refused with an error of its own.
#[test]
fn violations_are_named() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let mut account = Account::empty(user(), Currency::EUR);
    let usd = Money::new(5, Currency::parse("USD").expect("a code"));
    assert_eq!(account.credit(EntryKind::Credit, usd, now), Err(Violation::Currency));
    assert_eq!(account.credit(EntryKind::Credit, eur(0), now), Err(Violation::CreditAmount));
    assert_eq!(account.credit(EntryKind::Credit, eur(100_000_001), now), Err(Violation::CreditAmount));
    assert_eq!(account.credit(EntryKind::Opening, eur(1_000_000_000_000_000), now).map(drop), Ok(()));
    assert_eq!(account.credit(EntryKind::Credit, eur(1), now), Err(Violation::BalanceLimit));
    assert_eq!(account.charge(Uuid::nil(), order(1), eur(-5), now), Err(Violation::Amount));
    assert_eq!(account.charge(Uuid::nil(), order(1), usd, now), Err(Violation::Currency));
}
