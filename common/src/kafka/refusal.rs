//! What the brokers refuse us: the certificate, a topic, a group. librdkafka tries all of it again and again and reports no more than
//! an absent broker, so the reason is kept here for readiness, which says it until something succeeds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};

/// What is refused; the label of `holdfast_kafka_refusals_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// One side does not accept the other's certificate, or the broker has no TLS.
    Certificate,
    /// We may not read, write or see the topic.
    Topic,
    /// We may not read in the name of the group.
    Group,
    /// We may not do this to the brokers themselves.
    Cluster,
}

impl Refusal {
    /// Whether an error is one; `reason` is librdkafka's explanation, or empty.
    #[must_use]
    pub fn of(error: &KafkaError, reason: &str) -> Option<Self> {
        match error.rdkafka_error_code()? {
            // In TLS 1.3 a broker refuses our certificate when the handshake is over for us. librdkafka takes that for any broken
            // connection, and only its text says what OpenSSL has read.
            RDKafkaErrorCode::BrokerTransportFailure if reason.contains("SSL alert number") => {
                Some(Self::Certificate)
            }
            RDKafkaErrorCode::SSL | RDKafkaErrorCode::Authentication => Some(Self::Certificate),
            RDKafkaErrorCode::TopicAuthorizationFailed => Some(Self::Topic),
            RDKafkaErrorCode::GroupAuthorizationFailed => Some(Self::Group),
            RDKafkaErrorCode::ClusterAuthorizationFailed => Some(Self::Cluster),
            _ => None,
        }
    }

    /// In the metric.
    pub(crate) fn count(self) {
        metrics::counter!(crate::metric::KAFKA_REFUSALS_TOTAL, "reason" => self.name()).increment(1);
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Topic => "topic",
            Self::Group => "group",
            Self::Cluster => "cluster",
        }
    }
}

/// The last refusals that the clients of one component have met; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    own: Last,
    /// Of the certificate, which all clients of a process show: some of them may only see that a connection has ended.
    certificate: Last,
}

type Last = Arc<Mutex<Option<String>>>;

impl Refusals {
    /// For another component of the same process.
    #[must_use]
    pub(super) fn of_another(&self) -> Self {
        Self { own: Last::default(), certificate: self.certificate.clone() }
    }

    /// Remembers `error` if it is a refusal; `reason` is librdkafka's explanation, or empty. Logged once per distinct text.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        let Some(refusal) = Refusal::of(error, reason) else { return };
        refusal.count();
        let code = error.rdkafka_error_code().map(|code| code.to_string()).unwrap_or_default();
        // Without what differs each time: which connection it was, and how long it lasted.
        let reason = reason.split_once(": ").map_or(reason, |(_, what)| what);
        let reason = reason.split(" (after ").next().unwrap_or_default();
        let text = if reason.is_empty() { code } else { reason.to_owned() };
        let mut last = match refusal {
            Refusal::Certificate => locked(&self.certificate),
            Refusal::Topic | Refusal::Group | Refusal::Cluster => locked(&self.own),
        };
        if last.as_ref() != Some(&text) {
            tracing::warn!(refused = refusal.name(), error = text, "refused by Kafka");
            *last = Some(text);
        }
    }

    /// Something succeeded that would have been refused too.
    pub fn forget(&self) {
        *locked(&self.own) = None;
        *locked(&self.certificate) = None;
    }

    /// `text`, with the refusal that is its likely cause.
    #[must_use]
    pub fn explain(&self, text: impl Into<String>) -> String {
        let text = text.into();
        let refusal = locked(&self.certificate).clone().or_else(|| locked(&self.own).clone());
        refusal.map_or_else(|| text.clone(), |refusal| format!("{text}: {refusal}"))
    }
}

fn locked(last: &Last) -> MutexGuard<'_, Option<String>> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused is told from what is only away, and said until something succeeds.
    #[test]
    fn a_refusal_is_said_until_something_succeeds() {
        let refusals = Refusals::default();
        refusals.note(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "connection refused");
        assert_eq!(refusals.explain("no answer"), "no answer");
        let alert = "Receive failed: error:0A000415:SSL routines::sslv3 alert certificate expired: SSL alert number 45";
        let varying = format!("ssl://localhost:9092/1: {alert} (after 5ms in state APIVERSION_QUERY)");
        refusals.note(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), &varying);
        let another = refusals.of_another();
        assert_eq!(another.explain("no answer"), format!("no answer: {alert}"));
        assert_eq!(refusals.explain("no answer"), format!("no answer: {alert}"));
        another.note(&KafkaError::Global(RDKafkaErrorCode::SSL), "certificate verify failed");
        assert_eq!(refusals.explain("no answer"), "no answer: certificate verify failed");
        another.forget();
        refusals.note(&KafkaError::MessageConsumption(RDKafkaErrorCode::GroupAuthorizationFailed), "");
        let text = refusals.explain("no answer");
        assert!(text.contains("Group authorization failed"), "{text}");
        assert_eq!(another.explain("no answer"), "no answer");
        refusals.forget();
        assert_eq!(refusals.explain("no answer"), "no answer");
    }
}
