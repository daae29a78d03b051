//! Errors of any type: how they are passed on, printed, and searched for their causes.

use std::{error::Error, fmt::Write as _};

use rdkafka::error::KafkaError;
use tonic::Status;

use crate::{grpc::code_name, kafka};

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

/// The error with all its causes, on one line. A gRPC status is the last of them: its own text is for programmers, and its message
/// says what its causes would. So is an error of Kafka's client, which is said in words.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        if !text.is_empty() {
            text.push_str(": ");
        }
        // Writing to a String can't fail.
        if let Some(status) = cause.downcast_ref::<Status>() {
            let _ = write!(text, "{}: {}", code_name(status.code()), status.message());
            break;
        }
        if let Some(error) = cause.downcast_ref::<KafkaError>() {
            text.push_str(&kafka::in_words(error));
            break;
        }
        let _ = write!(text, "{cause}");
    }
    text
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode;

    use super::*;

    /// A status is its code and its message, without the words of a programming language.
    #[test]
    fn a_status_is_shown_for_people() {
        let mut status = Status::unavailable("Connection refused");
        status.set_source(std::sync::Arc::new(std::io::Error::other("Os { code: 111 }")));
        assert_eq!(chain(&status), "UNAVAILABLE: Connection refused");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot be published")]
    struct Unpublished(#[source] KafkaError);

    /// So is an error of Kafka's client, and once.
    #[test]
    fn an_error_of_kafka_is_shown_for_people() {
        let error = Unpublished(KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure));
        assert_eq!(chain(&error), "cannot be published: Meta data fetch error: Broker transport failure");
        let error = KafkaError::MessageProduction(RDKafkaErrorCode::NotLeaderForPartition);
        assert_eq!(chain(&error), "Message production error: Not leader for partition");
        assert_eq!(chain(&KafkaError::Canceled), "KafkaError (Client dropped)");
    }

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
