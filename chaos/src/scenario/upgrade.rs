//! The order of upgrades: nothing can be rolled back that was not upgraded, so it is not drawn like that of other faults.

use std::collections::BTreeMap;

use holdfast_native::layout::service_of;

use super::{Action, PlannedFault};

/// Upgrades everything, in any order. Then, of each service, one component that may be rolled back is, and is upgraded again: at the
/// end everything is new. Spread over `storm_ms`.
pub(super) fn rolls(cells: &[(Action, &str)], storm_ms: u64, rng: &mut fastrand::Rng) -> Vec<PlannedFault> {
    let of = |action| cells.iter().filter(move |(other, _)| *other == action).map(|(_, target)| *target);
    let mut rolls: Vec<(Action, &str)> =
        of(Action::Upgrade).map(|target| (Action::Upgrade, target)).collect();
    rng.shuffle(&mut rolls);
    let mut services: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for target in of(Action::RollBack) {
        services.entry(service_of(target).unwrap_or(target)).or_default().push(target);
    }
    let mut back: Vec<&str> = services.values().filter_map(|targets| rng.choice(targets).copied()).collect();
    rng.shuffle(&mut back);
    rolls.extend(back.into_iter().flat_map(|target| [(Action::RollBack, target), (Action::Upgrade, target)]));

    let gap = storm_ms / u64::try_from(rolls.len()).unwrap_or(u64::MAX).max(1);
    let mut due = 0;
    rolls
        .into_iter()
        .map(|(action, target)| {
            // Not in step with anything that is periodic in the system.
            let at_ms = due + rng.u64(0..=gap * 3 / 10);
            due += gap;
            PlannedFault { at_ms, action, target: target.to_owned(), length_ms: 0 }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COMPONENTS: [&str; 7] =
        ["order", "order-2", "payment", "payment-2", "delivery", "delivery-2", "gateway"];

    /// Whatever the seed is: only what is old is upgraded, only what is new is rolled back, one of each service is, and in the
    /// end everything is new.
    #[test]
    fn everything_ends_upgraded() {
        let cells: Vec<(Action, &str)> = [Action::Upgrade, Action::RollBack]
            .into_iter()
            .flat_map(|action| COMPONENTS.map(|target| (action, target)))
            .collect();
        let mut plans = BTreeSet::new();
        for seed in 0..100 {
            let plan = rolls(&cells, 180_000, &mut fastrand::Rng::with_seed(seed));
            assert_eq!(plan.len(), 7 + 4 * 2);
            assert!(
                plan.is_sorted_by_key(|fault| fault.at_ms) && plan.iter().all(|fault| fault.at_ms < 180_000)
            );
            let (mut new, mut back) = (BTreeSet::new(), BTreeSet::new());
            for fault in &plan {
                let target = fault.target.as_str();
                if fault.action == Action::Upgrade {
                    assert!(new.insert(target), "{target} is new already");
                } else {
                    assert_eq!(new.len(), COMPONENTS.len(), "the others are new");
                    assert!(new.remove(target), "{target} is old already");
                    back.insert(service_of(target));
                }
            }
            assert_eq!((new.len(), back.len()), (COMPONENTS.len(), 4));
            plans.insert(plan.into_iter().map(|fault| fault.target).collect::<Vec<_>>());
        }
        assert!(plans.len() > 90, "seeds make different plans: {}", plans.len());
    }
}
