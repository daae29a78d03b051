//! The events that the rows of this service prove.

use holdfast_common::{
    database::DatabaseError,
    reconcile::{Fact, Facts},
};
use holdfast_proto::{OrderId, topic};
use sqlx::PgConnection;

use crate::{
    domain::{Payment, Status},
    event::{completed, refunded},
    store,
};

/// The rows of payments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PaymentFacts;

#[tonic::async_trait]
impl Facts for PaymentFacts {
    async fn events(
        &self,
        connection: &mut PgConnection,
        subjects: &[String],
    ) -> Result<Vec<Fact>, DatabaseError> {
        let ids: Vec<OrderId> = subjects.iter().filter_map(|subject| OrderId::parse(subject).ok()).collect();
        let payments = store::payments_with_addresses(connection, &ids).await?;
        Ok(payments.iter().flat_map(|(payment, address)| written(payment, address.as_deref())).collect())
    }
}

fn written(payment: &Payment, address: Option<&str>) -> Vec<Fact> {
    let mut written = vec![match address {
        Some(address) => Fact::Event(completed(payment, address)),
        None => Fact::Unprovable {
            topic: topic::PAYMENT_COMPLETED,
            subject: payment.order_id.to_string(),
            time: payment.created_at,
            why: "the payment was decided by a version that did not keep the address",
        },
    }];
    if payment.status == Status::Refunded {
        written.push(Fact::Event(refunded(payment)));
    }
    written
}

#[cfg(test)]
mod tests {
    use holdfast_proto::{Currency, Money, UserId};
    use uuid::Uuid;

    use super::*;
    use crate::domain::Account;

    fn id_of(fact: &Fact) -> Option<Uuid> {
        match fact {
            Fact::Event(event) => Some(event.id),
            Fact::Unprovable { .. } => None,
        }
    }

    /// The row of a refunded payment proves both events, the same that were written at the time; without the address the first
    /// can't be rebuilt.
    #[test]
    fn a_refunded_payment_proves_both_its_events() {
        let user = UserId::parse("alice").expect("an id");
        let mut account =
            Account { user_id: user, balance: Money { minor_units: 100, currency: Currency::EUR } };
        let now = holdfast_common::clock::now();
        let amount = Money { minor_units: 70, currency: Currency::EUR };
        let (mut payment, _) =
            account.charge(Uuid::now_v7(), OrderId::generate(), amount, now).expect("enough money");
        let first = completed(&payment, "1 Quay Street");
        assert_eq!(
            written(&payment, Some("1 Quay Street")).iter().filter_map(id_of).collect::<Vec<_>>(),
            [first.id]
        );
        account.refund(&mut payment, now + time::Duration::seconds(2)).expect("refunded");
        let second = refunded(&payment);
        let ids: Vec<_> = written(&payment, Some("1 Quay Street")).iter().map(id_of).collect();
        assert_eq!(ids, [Some(first.id), Some(second.id)]);
        let ids: Vec<_> = written(&payment, None).iter().map(id_of).collect();
        assert_eq!(ids, [None, Some(second.id)]);
    }
}
