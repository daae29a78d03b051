//! What decides, without a database or a broker: the part of a consumer that `chaos/sim` runs over a broker and databases in
//! memory. The rest of the consumer carries it out.

pub use super::{
    group::check,
    inbox::{Counts, Entry, Place, Position},
    search::{Attempt, Search, refuse},
    sort::{NewLetter, Seen, Sorted, Verdicts, compare, place_of, sort},
    verdict::{Keep, Verdict},
};
