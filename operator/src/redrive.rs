//! Redrives as their services know them, whoever has begun them. Pure.

use std::time::Duration;

use holdfast_proto::{OPERATORS, from_timestamp, ops::v1 as pb};
use time::OffsetDateTime;

/// A command whose service has died, or that has lost its connection, comes back within this time, or never.
pub const COMES_BACK_WITHIN: Duration = Duration::from_secs(600);

/// A state as people and programs read it.
#[must_use]
pub const fn state_name(state: pb::RedriveState) -> &'static str {
    match state {
        pb::RedriveState::Unspecified => "unknown",
        pb::RedriveState::Running => "running",
        pb::RedriveState::Finished => "finished",
        pb::RedriveState::Cancelled => "cancelled",
        pb::RedriveState::Interrupted => "interrupted",
        pb::RedriveState::Failed => "failed",
        pb::RedriveState::Abandoned => "abandoned",
    }
}

/// Whether it is under way, or its command may be about to continue it.
#[must_use]
pub fn may_go_on(redrive: &pb::Redrive, now: OffsetDateTime) -> bool {
    match redrive.state() {
        pb::RedriveState::Running => true,
        pb::RedriveState::Interrupted | pb::RedriveState::Failed | pb::RedriveState::Abandoned => {
            from_timestamp(redrive.ended_at.as_ref()).is_some_and(|ended| now - ended < COMES_BACK_WITHIN)
        }
        pb::RedriveState::Finished | pb::RedriveState::Cancelled | pb::RedriveState::Unspecified => false,
    }
}

/// Letters that were selected and not tried yet.
#[must_use]
pub const fn left(redrive: &pb::Redrive) -> u64 {
    let done = redrive.redriven + redrive.failed + redrive.refused + redrive.behind;
    redrive.dead_letters.saturating_sub(done)
}

/// Its author, without the identity in front, which many share.
#[must_use]
pub fn author(actor: &str) -> &str {
    let (identity, author) = actor.split_once(" (").unwrap_or_default();
    let author = author.strip_suffix(')').filter(|_| OPERATORS.contains(&identity));
    author.unwrap_or(actor)
}

#[cfg(test)]
mod tests {
    use holdfast_proto::to_timestamp;

    use super::*;

    /// What goes on, or may, can be cancelled: not what has ended long ago.
    #[test]
    fn what_may_go_on_can_be_cancelled() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let (before, long_ago) = (now - Duration::from_secs(60), now - COMES_BACK_WITHIN);
        for (state, ended, goes_on) in [
            (pb::RedriveState::Running, None, true),
            (pb::RedriveState::Abandoned, Some(before), true),
            (pb::RedriveState::Interrupted, Some(before), true),
            (pb::RedriveState::Failed, Some(long_ago), false),
            (pb::RedriveState::Finished, Some(before), false),
            (pb::RedriveState::Cancelled, Some(before), false),
        ] {
            let redrive = pb::Redrive {
                state: state.into(),
                ended_at: ended.map(to_timestamp),
                ..pb::Redrive::default()
            };
            assert_eq!(may_go_on(&redrive, now), goes_on, "{state:?}");
        }
    }

    /// The author is named without the identity that many share; what is not of that form stays.
    #[test]
    fn an_author_is_named() {
        assert_eq!(author("operator (alice)"), "alice");
        assert_eq!(author("console (bob via console: mended (twice))"), "bob via console: mended (twice)");
        for other in ["operator", "order (alice)", "operator (alice", ""] {
            assert_eq!(author(other), other);
        }
    }
}
