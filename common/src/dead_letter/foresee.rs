//! The dry run of a redrive: what would become of each letter, as far as that can be known without its effects.

use std::collections::{HashMap, HashSet};

use futures_util::FutureExt as _;
use sqlx::PgConnection;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    Summary,
    redrive::{
        BYTES_PER_TRANSACTION_MAX, Ended, Exhausted, LETTERS_PER_TRANSACTION_MAX, Line, Outcome, Redrive,
        RedriveError, Redriver, Step, count, id_is_taken, report, retried,
    },
    store::{self, Parked, RedriveGroup},
};
use crate::{
    consumer::{Handler, Poison, inbox},
    database::{BACKGROUND_TIME_MAX, DatabaseError},
    deadline::Deadline,
};

impl<H: Handler> Redriver<H> {
    /// Says of each letter of these groups what would become of it, as many as may be redriven.
    pub(super) async fn foresee(
        &self,
        groups: &[(RedriveGroup, i64)],
        request: &Redrive,
        steps: &mpsc::Sender<Step>,
    ) -> Result<Ended, RedriveError> {
        let mut left = request.letters_max.unwrap_or(u64::MAX);
        for together in groups_together(groups) {
            if left == 0 {
                break;
            }
            if steps.is_closed() {
                return Ok(Ended::CallerGone);
            }
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let outcomes =
                retried(|| self.foresee_together(together, most, request.exhausted).boxed()).await?;
            left = left.saturating_sub(outcomes.len() as u64);
            count(&outcomes);
            report(outcomes, steps).await;
        }
        Ok(Ended::Done)
    }

    /// The same for a few groups, at most so many letters.
    async fn foresee_together(
        &self,
        groups: &[(RedriveGroup, i64)],
        most: usize,
        exhausted: Exhausted,
    ) -> Result<Vec<(Summary, Outcome)>, DatabaseError> {
        let (redriver, groups) = (self.clone(), groups.iter().map(|(group, _)| group.clone()).collect());
        let deadline = Deadline::after(BACKGROUND_TIME_MAX);
        self.group
            .database
            .read(deadline, move |connection| {
                async move { redriver.foresee_in(connection, groups, most, exhausted).await }.boxed()
            })
            .await
    }

    async fn foresee_in(
        &self,
        connection: &mut PgConnection,
        groups: Vec<RedriveGroup>,
        most: usize,
        exhausted: Exhausted,
    ) -> Result<Vec<(Summary, Outcome)>, DatabaseError> {
        let mut parked = store::parked(connection, self.group.name, &groups).await?;
        parked.truncate(most);
        let mut lines: Vec<Line> = groups.iter().map(|_| Line::new(exhausted)).collect();
        let mut outcomes = Vec::with_capacity(parked.len());
        for letters in letters_together(&parked) {
            // Those behind one that would fail are not looked at: they may have megabytes.
            let asked = letters.iter().filter(|letter| !lines[letter.group].is_stopped());
            let asked: Vec<Uuid> = asked.map(|letter| letter.summary.id).collect();
            let mut wrong = self.wrong_with(connection, &asked).await?;
            for letter in letters {
                let line = &mut lines[letter.group];
                let outcome = line.stopped_at(letter.summary.redrive_count).unwrap_or_else(|| {
                    match line.passed(wrong.remove(&letter.summary.id).map_or(Ok(()), Err)) {
                        Outcome::Failed(poison) => Outcome::WouldFail(poison),
                        _ => Outcome::Planned,
                    }
                });
                outcomes.push((letter.summary.clone(), outcome));
            }
        }
        Ok(outcomes)
    }

    /// What can be known to be wrong with these letters: that headers, key or value are not what the service can handle, or that the
    /// event's id was used for another event.
    async fn wrong_with(
        &self,
        connection: &mut PgConnection,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, Poison>, DatabaseError> {
        let (mut wrong, mut renamed) = (HashMap::new(), HashMap::new());
        // One that is no longer there was redriven since; then there is nothing wrong with it.
        for letter in store::letters(connection, self.group.name, ids).await? {
            match self.group.check(&letter.effective_record()) {
                Err(poison) => drop(wrong.insert(letter.id, poison)),
                Ok(accepted) if accepted.metadata.id != letter.event_id => {
                    renamed.insert(letter.id, accepted.metadata.id);
                }
                Ok(_) => {}
            }
        }
        let used: Vec<Uuid> = renamed.values().copied().collect();
        let used: HashSet<Uuid> = inbox::known(connection, self.group.name, &used).await?;
        renamed.retain(|_, event| used.contains(event));
        wrong.extend(renamed.into_keys().map(|letter| (letter, id_is_taken())));
        Ok(wrong)
    }
}

/// Groups that are looked at together: as many as have the letters of a transaction, and at least one.
fn groups_together(groups: &[(RedriveGroup, i64)]) -> Vec<&[(RedriveGroup, i64)]> {
    pieces(groups, |(_, letters)| *letters, LETTERS_PER_TRANSACTION_MAX)
}

/// Letters that are in memory at the same time: those of a transaction, by their number and by their bytes.
fn letters_together(letters: &[Parked]) -> Vec<&[Parked]> {
    let most = usize::try_from(LETTERS_PER_TRANSACTION_MAX).unwrap_or(usize::MAX);
    letters
        .chunks(most)
        .flat_map(|letters| pieces(letters, |letter| letter.bytes, BYTES_PER_TRANSACTION_MAX))
        .collect()
}

/// Cuts `all` into pieces of at most so much weight; what is heavier is a piece of its own.
fn pieces<T>(all: &[T], weight: impl Fn(&T) -> i64, most: i64) -> Vec<&[T]> {
    let (mut pieces, mut begin, mut sum) = (Vec::new(), 0, 0_i64);
    for (place, one) in all.iter().enumerate() {
        let with_it = sum.saturating_add(weight(one));
        if place > begin && with_it > most {
            pieces.push(&all[begin..place]);
            (begin, sum) = (place, weight(one));
        } else {
            sum = with_it;
        }
    }
    pieces.extend((begin < all.len()).then(|| &all[begin..]));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of it is in one piece or another, in order, and no piece is heavier than it may be unless it is a single one.
    #[test]
    fn pieces_are_as_large_as_they_may_be() {
        fn cut(all: &[i64]) -> Vec<&[i64]> {
            pieces(all, |weight| *weight, 100)
        }
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[60, 40, 1, 500, 0, 100, 1]), [&[60, 40][..], &[1], &[500], &[0, 100], &[1]]);
        assert_eq!(cut(&[i64::MAX, i64::MAX]), [[i64::MAX], [i64::MAX]]);
    }
}
