//! Money (I5): in every snapshot of the run, and in the end against what the clients know they paid in and ordered.

use std::collections::HashMap;

use super::Finding;
use crate::{
    evidence::Evidence,
    journal::{Operation, Stage},
};

pub(super) fn adds_up(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    for sample in &evidence.samples {
        let Some(wrong) = &sample.money else { continue };
        finding.check(wrong.is_empty(), &format!("{} s", sample.time / 1_000_000), || wrong.join("; "));
    }
    let mut credited: HashMap<&str, i64> = HashMap::new();
    let credits =
        evidence.calls.iter().filter(|call| call.op == Operation::Credit && call.stage == Stage::Ok);
    for call in credits {
        *credited.entry(&call.facts.user).or_default() += call.facts.cents.unwrap_or(0);
    }
    let mut spent: HashMap<&str, i64> = HashMap::new();
    for order in evidence.state.orders.iter().filter(|order| order.status == "PAID") {
        *spent.entry(&order.user_id).or_default() += order.total_minor;
    }
    for account in &evidence.state.accounts {
        let user = account.user_id.as_str();
        let explained = account.credited_minor - account.charged_minor + account.refunded_minor;
        finding.check(account.balance_minor == explained && explained >= 0, user, || {
            format!("the balance is {} cents, the ledger says {explained}", account.balance_minor)
        });
        let paid_in = credited.get(user).copied().unwrap_or(0);
        finding.check(account.credited_minor == paid_in, user, || {
            format!("{} cents were credited, {paid_in} were paid in", account.credited_minor)
        });
        // What is on its way is charged before its order knows.
        if evidence.info.settled.is_some() {
            let expected = paid_in - spent.get(user).copied().unwrap_or(0);
            finding.check(account.balance_minor == expected, user, || {
                format!("the balance is {} cents, the orders say {expected}", account.balance_minor)
            });
        }
    }
    finding
}
