//! A service, called as the operator.

use std::{fmt, time::Duration};

use anyhow::Result;
use holdfast_common::{
    client::{self, Addresses, CallsConfig, Destination, DestinationConfig},
    deadline::Deadline,
    error::BoxError,
    grpc::code_name,
    identity::Identity,
};
use holdfast_proto::ops::v1::{
    dead_letter_service_client::DeadLetterServiceClient, outbox_service_client::OutboxServiceClient,
    reconcile_service_client::ReconcileServiceClient,
};
use tonic::{Code, Request, Response, Status};

use crate::text::without_numbers;

/// Responses hold whole records.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a service has not done what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// It was not reached, or has not answered in time.
    Away {
        /// Its name.
        service: &'static str,
        /// Where it was looked for.
        address: String,
        /// In words.
        why: String,
        /// The command that shows how it is.
        hint: String,
    },
    /// It does not let this caller in.
    NotAllowed {
        /// Its name.
        service: &'static str,
        /// Who is not let in.
        caller: Caller,
        /// In words.
        why: String,
        /// The command that shows the certificates.
        hint: String,
    },
    /// It was reached, and has refused.
    Refused {
        /// Its name.
        service: &'static str,
        /// Which kind of refusal.
        code: Code,
        /// In words.
        why: String,
    },
}

impl CallError {
    /// The service can't be asked now; others can.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }

    /// What only it knows stays unknown: it is away, lets this caller not in, or is of a version that does not know the question.
    #[must_use]
    pub const fn is_unasked(&self) -> bool {
        matches!(
            self,
            Self::Away { .. } | Self::NotAllowed { .. } | Self::Refused { code: Code::Unimplemented, .. }
        )
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { service, address, why, hint } => {
                write!(f, "{service} cannot be reached at {address} ({why}); see {hint}")
            }
            Self::NotAllowed { service, caller: Caller::Command, why, hint } => {
                write!(f, "{service} does not accept this certificate ({why}); see {hint}")
            }
            Self::NotAllowed { service, caller: Caller::Console, why, hint } => write!(
                f,
                "{service} refuses the console ({why}): it is of an earlier version, which does not know the console, or the console's \
                 certificate is another one's; see {hint}, and use `holdfast` for what {service} has until it is upgraded"
            ),
            Self::Refused { service, code: Code::Internal | Code::Unknown, why } => {
                write!(f, "{service} has failed ({why}); see its log")
            }
            Self::Refused { service, code: Code::Unimplemented, .. } => {
                write!(f, "{service} is of a version that cannot do this")
            }
            Self::Refused { service, why, .. } => write!(f, "{service}: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

/// How long the operator waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a whole call, retries included.
    pub call_time_max: Duration,
    /// For one attempt of it.
    pub attempt_time_max: Duration,
}

/// One service, over all its replicas.
#[derive(Clone)]
pub struct Service {
    /// Its name.
    pub name: &'static str,
    addresses: Addresses,
    destination: Destination,
    patience: Patience,
    hints: Hints,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who asks, and so what it means to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A command, with the operator's certificate.
    Command,
    /// The console, with its own, which services of earlier versions do not know.
    Console,
}

/// Who asks, and commands to type for the same services.
#[derive(Debug, Clone)]
pub struct Hints {
    /// Who asks.
    pub caller: Caller,
    /// When one does not answer.
    pub status: String,
    /// When one lets nobody in.
    pub certificates: String,
}

impl Service {
    /// The service `name` at `address`: `host:port`, or several of them separated by commas. Nothing is connected before the first
    /// call. An error if the address is none.
    pub fn new(
        name: &'static str,
        address: &str,
        identity: &Identity,
        patience: Patience,
        hints: Hints,
    ) -> Result<Self> {
        let config = config(name, address, patience);
        let destination = |addresses: &Addresses| {
            client::destination_at(addresses, &config, identity, holdfast_proto::is_idempotent)
        };
        let addresses = Addresses::of(&config).map_err(|error| anyhow::anyhow!("{error}"))?;
        let destination = destination(&addresses).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { name, addresses, destination, patience, hints })
    }

    /// What [`Service::move_to`] takes. An error if the address is none.
    pub fn addresses_at(&self, address: &str) -> Result<Addresses, BoxError> {
        Addresses::of(&config(self.name, address, self.patience))
    }

    /// Calls it at these addresses from now on. Returns whether they are others than before.
    #[must_use]
    pub fn move_to(&self, addresses: &Addresses) -> bool {
        self.addresses.become_those_of(addresses)
    }

    /// The same service, given so much time for a call.
    #[must_use]
    pub const fn within(mut self, call_time_max: Duration) -> Self {
        self.patience.call_time_max = call_time_max;
        self
    }

    /// Its dead letters and positions.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetterServiceClient<Destination> {
        DeadLetterServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Its outbox.
    #[must_use]
    pub fn outbox(&self) -> OutboxServiceClient<Destination> {
        OutboxServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// What it has written and handled.
    #[must_use]
    pub fn reconcile(&self) -> ReconcileServiceClient<Destination> {
        ReconcileServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// A request to it, with the deadline of its patience.
    pub fn request<M>(&self, message: M) -> Result<Request<M>> {
        self.request_within(message, self.patience.call_time_max)
    }

    /// The same with a deadline of its own: for streams that take longer.
    pub fn request_within<M>(&self, message: M, time_max: Duration) -> Result<Request<M>> {
        Ok(Deadline::after(time_max).request(message)?)
    }

    /// What it has answered, or why it has not.
    pub fn answer<M>(&self, answer: Result<Response<M>, Status>) -> Result<M, CallError> {
        answer.map(Response::into_inner).map_err(|status| self.error(&status))
    }

    /// What a status means to an operator.
    #[must_use]
    pub fn error(&self, status: &Status) -> CallError {
        error_of(self.name, &self.addresses.text(), &self.hints, status)
    }
}

fn config(name: &str, address: &str, patience: Patience) -> DestinationConfig {
    let calls = CallsConfig { attempt_timeout: patience.attempt_time_max, ..CallsConfig::default() };
    DestinationConfig { address: address.to_owned(), name: name.to_owned(), calls }
}

fn error_of(service: &'static str, address: &str, hints: &Hints, status: &Status) -> CallError {
    let (address, why) = (address.to_owned(), in_words(status));
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            CallError::Away { service, address, why, hint: hints.status.clone() }
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            CallError::NotAllowed { service, caller: hints.caller, why, hint: hints.certificates.clone() }
        }
        code => CallError::Refused { service, code, why },
    }
}

/// The message of a status without what only its programmers need, or its code where it has none.
fn in_words(status: &Status) -> String {
    let message = status.message();
    let message = message.strip_prefix("endpoint cannot be reached: ").unwrap_or(message);
    if message.is_empty() { code_name(status.code()).to_owned() } else { without_numbers(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error is a sentence that names the service, the reason and the next command, without words of a library.
    #[test]
    fn errors_are_in_words() {
        let hints = |caller| Hints {
            caller,
            status: "`holdfast status`".to_owned(),
            certificates: "`holdfast certs status`".to_owned(),
        };
        let denied = Status::permission_denied("this identity may not call this method");
        let console = error_of("payment", "127.0.0.1:50052", &hints(Caller::Console), &denied).to_string();
        assert!(
            console.starts_with(
                "payment refuses the console (this identity may not call this method): it is of an earlier version, "
            ),
            "{console}"
        );
        assert!(
            console.contains("`holdfast certs status`") && console.contains("use `holdfast`"),
            "{console}"
        );
        let hints = hints(Caller::Command);
        for (status, expected) in [
            (
                Status::unavailable("endpoint cannot be reached: Connection refused (os error 111)"),
                "payment cannot be reached at 127.0.0.1:50052 (Connection refused); see `holdfast status`",
            ),
            (
                Status::deadline_exceeded("deadline has elapsed"),
                "payment cannot be reached at 127.0.0.1:50052 (deadline has elapsed); see `holdfast status`",
            ),
            (
                Status::permission_denied("not open to order"),
                "payment does not accept this certificate (not open to order); see `holdfast certs status`",
            ),
            (
                Status::failed_precondition("the dead letter is not parked"),
                "payment: the dead letter is not parked",
            ),
            (Status::internal(""), "payment has failed (INTERNAL); see its log"),
            (Status::unimplemented("x"), "payment is of a version that cannot do this"),
        ] {
            assert_eq!(error_of("payment", "127.0.0.1:50052", &hints, &status).to_string(), expected);
        }
    }
}
