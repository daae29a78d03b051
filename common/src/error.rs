//! Errors of any type: how they are passed on, printed, and searched for their causes.

use std::{error::Error, fmt::Write as _};

/// An error that stops a process. The text is for the operator.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error and what caused it, outermost first.
pub fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// Whether an error is of type `E`, or was caused by one.
#[must_use]
pub fn is_caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(<dyn Error>::is::<E>)
}

/// The error with all its causes, on one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        // Writing to a String can't fail.
        let _ = write!(text, ": {cause}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Outer(#[source] std::io::Error);

    /// All causes are on one line and are found by their type.
    #[test]
    fn causes_are_printed_and_found() {
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(chain(&error), "cannot read the file: disk full");
        assert!(is_caused_by::<std::io::Error>(&error) && is_caused_by::<Outer>(&error));
        assert!(!is_caused_by::<std::fmt::Error>(&error));
    }
}
