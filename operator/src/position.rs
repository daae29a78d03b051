//! How far a reader is with a partition, by its own database and by the broker. Pure.

use holdfast_proto::ops::v1 as pb;

/// Records that wait; `None` until the service has seen the broker.
#[must_use]
pub fn lag(position: &pb::ConsumerPosition) -> Option<i64> {
    let pb::ConsumerPosition { position: next, committed, first, end, .. } = *position;
    let from = match (next, first, end) {
        // Not the log that was read before: reading begins at its oldest record. What is committed may belong to this one.
        (Some(next), Some(first), Some(end)) if next > end => {
            committed.filter(|committed| (first..=end).contains(committed)).or(Some(first))
        }
        (Some(next), Some(first), _) if next < first => Some(first),
        (next, first, _) => next.or(first),
    };
    end.zip(from).map(|(end, from)| end - from)
}

/// How database and broker contradict each other; empty if they don't.
#[must_use]
pub fn gap(position: &pb::ConsumerPosition) -> &'static str {
    let pb::ConsumerPosition { position: next, committed, first, end, .. } = *position;
    match (next, first, end) {
        (Some(next), _, Some(end)) if next > end => "the log ends before the position",
        (Some(next), Some(first), _) if next < first => "records were deleted unread",
        _ if committed.unwrap_or_default() > next.unwrap_or_default() => "committed ahead of the position",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each way in which database and broker can disagree is named; agreement is not. What waits is counted from where reading goes on.
    #[test]
    fn disagreements_are_named() {
        for (position, committed, first, end, expected_gap, expected_lag) in [
            (Some(5), Some(5), Some(0), Some(9), "", Some(4)),
            (Some(5), Some(3), Some(0), Some(9), "", Some(4)),
            (None, None, Some(0), Some(9), "", Some(9)),
            (Some(5), None, None, None, "", None),
            (Some(5), Some(9), Some(0), Some(9), "committed ahead of the position", Some(4)),
            (None, Some(9), Some(0), Some(9), "committed ahead of the position", Some(9)),
            (Some(5), Some(5), Some(7), Some(9), "records were deleted unread", Some(2)),
            (Some(12), Some(5), Some(0), Some(9), "the log ends before the position", Some(4)),
            (Some(12), Some(12), Some(2), Some(9), "the log ends before the position", Some(7)),
        ] {
            let position =
                pb::ConsumerPosition { position, committed, first, end, ..pb::ConsumerPosition::default() };
            assert_eq!(gap(&position), expected_gap, "{position:?}");
            assert_eq!(lag(&position), expected_lag, "{position:?}");
        }
    }
}
