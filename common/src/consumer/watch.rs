//! A member of a consumer group that watches itself (pitfalls P38). A membership can end, or a client can stop reading,
//! unreported by librdkafka: the member owns nothing, or owns partitions and reads nothing, and looks healthy. So what
//! the member believes is compared with what an observer sees at the broker ([`super::observer`]), and what stays wrong
//! for longer than a bound ends the membership: the runtime joins again with a new client.
//!
//! Pure: time and views come in, a finding comes out.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::{inbox::Place, observer::GroupView};

/// How long something may look wrong before the membership is ended. A rebalance, or a broker that is back after a
/// restart, needs a few seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// While the group is being formed, which takes up to the session timeout (10 s) after a member has died, and no new
/// membership makes it quicker.
const PATIENCE_WHILE_REBALANCING: Duration = Duration::from_secs(30);
/// Each membership that ended without success doubles the patience with the next, up to this factor.
const PATIENCE_FACTOR_MAX: u32 = 8;
/// A view that is older is useless: the broker does not answer the observer either.
const VIEW_AGE_MAX: Duration = Duration::from_secs(8);

/// What is wrong; the label of `holdfast_consumer_memberships_lost_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Partitions that no member of the group owns.
    Unowned,
    /// A partition of ours has records, and none arrives.
    Silent,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unowned => "unowned",
            Self::Silent => "silent",
        }
    }
}

/// The result of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// All is well.
    Well,
    /// The broker does not answer the observer: nothing is known, and a new membership would not help.
    Blind,
    /// Something is wrong, but not for long yet.
    Waiting(String),
    /// It has been wrong for too long: join again.
    Stalled(Reason, String),
    /// These can't be read at this offset, not even by a new client: joining again does not help, an operator must act.
    Unreadable(Vec<(Place, i64)>),
}

/// What the member knows of a partition of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// The next offset that it waits for.
    pub(super) next_offset: i64,
    /// How far librdkafka says that it has fetched. Markers of transactions are fetched and never arrive.
    pub(super) fetched_offset: i64,
    /// How long it has been listening since something arrived, or could first have arrived.
    pub(super) listened: Duration,
}

/// See the module. Lives longer than a membership.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Since when partitions have had no owner.
    unowned_since: Option<Instant>,
    /// Memberships that were ended since all was last well.
    in_vain: u32,
    /// Where a partition was silent when a membership was ended for it.
    silent_at: HashMap<Place, i64>,
}

impl Watch {
    /// Compares. `reading` holds the partitions that the member owns.
    pub(super) fn look(
        &mut self,
        now: Instant,
        view: Option<&GroupView>,
        reading: &HashMap<Place, Reading>,
    ) -> Finding {
        let Some(view) = view.filter(|view| now.duration_since(view.at) <= VIEW_AGE_MAX) else {
            self.unowned_since = None;
            return Finding::Blind;
        };
        let unowned = view.unowned();
        let silent = silent(view, reading);
        self.silent_at
            .retain(|place, offset| reading.get(place).is_some_and(|reading| reading.next_offset == *offset));
        let (unreadable, silent): (Vec<_>, Vec<_>) =
            silent.into_iter().partition(|(place, offset, _)| self.silent_at.get(place) == Some(offset));

        if unowned.is_empty() {
            self.unowned_since = None;
        } else {
            let since = *self.unowned_since.get_or_insert(now);
            let text = format!(
                "{} of {} partitions have no owner, the group is {}",
                unowned.len(),
                view.partitions.len(),
                view.state
            );
            let settled = ["Stable", "Empty", "Dead"].contains(&view.state.as_str());
            let patience = if settled { self.patience() } else { PATIENCE_WHILE_REBALANCING };
            if now.duration_since(since) < patience {
                return Finding::Waiting(text);
            }
            self.unowned_since = None;
            self.in_vain += 1;
            return Finding::Stalled(Reason::Unowned, text);
        }
        if let Some((place, offset, listened)) = silent.iter().max_by_key(|(.., listened)| *listened) {
            let end = view.partitions.get(place).map(|partition| partition.end);
            let (topic, partition, seconds) = (&place.0, place.1, listened.as_secs());
            let text = match end.filter(|end| end < offset) {
                None => format!(
                    "{topic}-{partition} has records from offset {offset} on, and none arrives since {seconds} s"
                ),
                Some(end) => format!(
                    "{topic}-{partition} ends at offset {end}, before the position {offset}, and is not read again since \
                     {seconds} s"
                ),
            };
            if *listened < self.patience() {
                // Fetching is never instant, so it is reported only after half of the patience.
                if *listened < PATIENCE / 2 {
                    return Finding::Well;
                }
                return Finding::Waiting(text);
            }
            for (place, offset, _) in silent {
                self.silent_at.insert(place, offset);
            }
            self.in_vain += 1;
            return Finding::Stalled(Reason::Silent, text);
        }
        if let Some((place, offset, _)) = unreadable.iter().find(|(.., listened)| *listened < PATIENCE) {
            return Finding::Waiting(format!(
                "{}-{} is read again from offset {offset} on",
                place.0, place.1
            ));
        }
        if !unreadable.is_empty() {
            let unreadable = unreadable.into_iter().map(|(place, offset, _)| (place, offset)).collect();
            return Finding::Unreadable(unreadable);
        }
        self.in_vain = 0;
        Finding::Well
    }

    fn patience(&self) -> Duration {
        PATIENCE * 2u32.saturating_pow(self.in_vain).min(PATIENCE_FACTOR_MAX)
    }
}

/// Partitions that have records behind what was taken and fetched, or that end before it and are not read again: the next offset, and
/// for how long nothing has arrived.
fn silent(view: &GroupView, reading: &HashMap<Place, Reading>) -> Vec<(Place, i64, Duration)> {
    let owned: BTreeSet<&Place> = reading.keys().collect();
    owned
        .into_iter()
        .filter_map(|place| {
            let (reading, partition) = (reading.get(place)?, view.partitions.get(place)?);
            let has_records = partition.first < partition.end;
            let waits = reading.next_offset.max(reading.fetched_offset) < partition.end;
            // The log was truncated or recreated. librdkafka mostly finds its way by itself; it does not if the leader's epoch
            // went back (a recreated topic begins with epoch 0), which it takes for old news.
            let is_astray =
                reading.next_offset > partition.end && !(0..=partition.end).contains(&reading.fetched_offset);
            let waits = has_records && (waits || is_astray);
            waits.then(|| (place.clone(), reading.next_offset, reading.listened))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::consumer::observer::PartitionView;

    fn place(partition: i32) -> Place {
        ("t".to_owned(), partition)
    }

    fn view(state: &str, owned: &[i32], ends: &[i64]) -> GroupView {
        let partitions: BTreeMap<Place, PartitionView> = (0..)
            .zip(ends)
            .map(|(partition, end)| {
                (place(partition), PartitionView { end: *end, ..PartitionView::default() })
            })
            .collect();
        let owned = owned.iter().copied().map(place).collect();
        GroupView { at: Instant::now(), state: state.to_owned(), owned, partitions }
    }

    fn reads(partitions: &[(i32, i64, u64)]) -> HashMap<Place, Reading> {
        partitions
            .iter()
            .map(|(partition, next_offset, listened_s)| {
                let listened = Duration::from_secs(*listened_s);
                (place(*partition), Reading { next_offset: *next_offset, fetched_offset: 0, listened })
            })
            .collect()
    }

    async fn after(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    /// An empty group whose partitions nobody owns ends the membership after the bound, and not before.
    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_gone_joins_again() {
        let mut watch = Watch::default();
        let mut look = |state, owned: &[i32]| {
            watch.look(Instant::now(), Some(&view(state, owned, &[0, 0])), &HashMap::new())
        };
        assert!(matches!(look("Empty", &[]), Finding::Waiting(_)));
        after(9).await;
        assert!(matches!(look("Empty", &[]), Finding::Waiting(_)));
        after(1).await;
        assert!(matches!(look("Empty", &[]), Finding::Stalled(Reason::Unowned, _)));
        // It did not help: the next one gets twice the time.
        assert!(matches!(look("Empty", &[]), Finding::Waiting(_)));
        after(19).await;
        assert!(matches!(look("Empty", &[]), Finding::Waiting(_)));
        after(1).await;
        assert!(matches!(look("Empty", &[]), Finding::Stalled(..)));
        assert_eq!(look("Stable", &[0, 1]), Finding::Well, "owned, by whoever it is");
    }

    /// A member that owns nothing because the group is larger than its topics is well.
    #[tokio::test(start_paused = true)]
    async fn a_surplus_member_is_well() {
        let mut watch = Watch::default();
        for _ in 0..100 {
            let finding = watch.look(Instant::now(), Some(&view("Stable", &[0, 1], &[5, 5])), &reads(&[]));
            assert_eq!(finding, Finding::Well);
            after(1).await;
        }
    }

    /// A partition that appeared after the subscription, and that nobody reads, ends the membership too.
    #[tokio::test(start_paused = true)]
    async fn a_partition_that_nobody_knows_is_found() {
        let mut watch = Watch::default();
        let look = |watch: &mut Watch| {
            watch.look(Instant::now(), Some(&view("Stable", &[0], &[5, 5])), &reads(&[(0, 5, 0)]))
        };
        look(&mut watch);
        after(10).await;
        assert!(matches!(look(&mut watch), Finding::Stalled(Reason::Unowned, _)));
    }

    /// A group that is being formed gets the time of a session.
    #[tokio::test(start_paused = true)]
    async fn a_rebalance_gets_its_time() {
        let mut watch = Watch::default();
        let rebalancing = || view("PreparingRebalance", &[], &[5]);
        watch.look(Instant::now(), Some(&rebalancing()), &HashMap::new());
        after(29).await;
        let finding = watch.look(Instant::now(), Some(&rebalancing()), &HashMap::new());
        assert!(matches!(finding, Finding::Waiting(_)), "{finding:?}");
        after(1).await;
        let finding = watch.look(Instant::now(), Some(&rebalancing()), &HashMap::new());
        assert!(matches!(finding, Finding::Stalled(..)), "{finding:?}");
    }

    /// While the broker does not answer there is nothing to find, and the time before does not count.
    #[tokio::test(start_paused = true)]
    async fn an_absent_broker_is_no_finding() {
        let mut watch = Watch::default();
        let old = view("Empty", &[], &[5]);
        watch.look(Instant::now(), Some(&old), &HashMap::new());
        after(9).await;
        assert_eq!(watch.look(Instant::now(), Some(&old), &HashMap::new()), Finding::Blind);
        assert_eq!(watch.look(Instant::now(), None, &HashMap::new()), Finding::Blind);
        after(2).await;
        let finding = watch.look(Instant::now(), Some(&view("Empty", &[], &[5])), &HashMap::new());
        assert!(matches!(finding, Finding::Waiting(_)), "{finding:?}");
    }

    /// A partition with records of which none arrives ends the membership; if the next one can't read it either, at the
    /// same offset, it is unreadable and ends no more memberships. A record that arrives resets everything.
    #[tokio::test(start_paused = true)]
    async fn a_silent_partition_is_read_again_once() {
        let mut watch = Watch::default();
        let mut look = |offset, listened_s| {
            let view = view("Stable", &[0, 1], &[9, 9]);
            watch.look(Instant::now(), Some(&view), &reads(&[(0, 9, 99), (1, offset, listened_s)]))
        };
        assert_eq!(look(4, 1), Finding::Well);
        assert!(matches!(look(4, 6), Finding::Waiting(_)));
        assert!(matches!(look(4, 10), Finding::Stalled(Reason::Silent, _)));
        assert!(matches!(look(4, 0), Finding::Waiting(_)));
        assert_eq!(look(4, 10), Finding::Unreadable(vec![(place(1), 4)]));
        assert_eq!(look(4, 100), Finding::Unreadable(vec![(place(1), 4)]));
        assert_eq!(look(5, 0), Finding::Well, "it was read after all");
        assert_eq!(look(9, 100), Finding::Well, "nothing more is there");
    }

    /// Markers of a foreign transaction are fetched and never arrive: nothing waits.
    #[tokio::test(start_paused = true)]
    async fn what_was_fetched_and_never_arrives_is_no_record() {
        let mut watch = Watch::default();
        let mut reading = reads(&[(0, 8, 100)]);
        reading.insert(
            place(0),
            Reading { next_offset: 8, fetched_offset: 9, listened: Duration::from_secs(100) },
        );
        assert_eq!(watch.look(Instant::now(), Some(&view("Stable", &[0], &[9])), &reading), Finding::Well);
    }

    /// A log that ends before the position is read again by librdkafka itself, or the membership is ended. One without records
    /// has nothing to read.
    #[tokio::test(start_paused = true)]
    async fn a_log_that_ends_before_the_position_is_read_again() {
        let mut watch = Watch::default();
        let mut look = |end, fetched_offset, listened_s| {
            let listened = Duration::from_secs(listened_s);
            let reading = HashMap::from([(place(0), Reading { next_offset: 9, fetched_offset, listened })]);
            watch.look(Instant::now(), Some(&view("Stable", &[0], &[end])), &reading)
        };
        assert_eq!(look(0, 9, 100), Finding::Well, "it has no records");
        assert_eq!(look(3, 3, 100), Finding::Well, "it was truncated to what was read");
        assert_eq!(look(3, 9, 4), Finding::Well);
        assert!(matches!(look(3, 9, 6), Finding::Waiting(text) if text.contains("ends at offset 3")));
        assert!(matches!(look(3, i64::MIN, 10), Finding::Stalled(Reason::Silent, _)));
    }
}
