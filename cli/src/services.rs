//! The services, called as the operator.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, bail};
use holdfast_common::{
    client::{self, CallsConfig, Destination, DestinationConfig},
    deadline::Deadline,
    grpc::code_name,
};
use holdfast_native::layout::participant_names;
use holdfast_proto::ops::v1::{
    self as pb, dead_letter_service_client::DeadLetterServiceClient,
    outbox_service_client::OutboxServiceClient, reconcile_service_client::ReconcileServiceClient,
};
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use crate::{
    output::{Outcome, say, without_numbers},
    target::Target,
};

/// An operator waits longer than an API client.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// Leaves time for a second attempt, while a service starts or fails over.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(5);
/// Responses hold whole records.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a service has not done what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// It was not reached, or has not answered in time.
    Away {
        service: &'static str,
        address: String,
        why: String,
        /// The command that shows how it is.
        hint: String,
    },
    /// It does not let this caller in.
    NotAllowed { service: &'static str, why: String, hint: String },
    /// It was reached, and has refused.
    Refused { service: &'static str, code: Code, why: String },
}

impl CallError {
    /// The service can't be asked now; others can.
    pub(crate) const fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { service, address, why, hint } => {
                write!(f, "{service} cannot be reached at {address} ({why}); see {hint}")
            }
            Self::NotAllowed { service, why, hint } => {
                write!(f, "{service} does not accept the operator's certificate ({why}); see {hint}")
            }
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

/// One service, over all its replicas.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    address: String,
    destination: Destination,
    hints: Hints,
}

/// Commands to type for the same services.
#[derive(Debug, Clone)]
struct Hints {
    /// When one does not answer.
    status: String,
    /// When one lets nobody in.
    certificates: String,
}

impl Service {
    pub(crate) fn dead_letters(&self) -> DeadLetterServiceClient<Destination> {
        DeadLetterServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn outbox(&self) -> OutboxServiceClient<Destination> {
        OutboxServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn reconcile(&self) -> ReconcileServiceClient<Destination> {
        ReconcileServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    #[expect(clippy::unused_self, reason = "reads as what it is: a request to this service")]
    pub(crate) fn request<M>(&self, message: M) -> Result<Request<M>> {
        Ok(Deadline::after(CALL_TIME_MAX).request(message)?)
    }

    /// What it has answered, or why it has not.
    pub(crate) fn answer<M>(&self, answer: Result<Response<M>, Status>) -> Result<M, CallError> {
        answer.map(Response::into_inner).map_err(|status| self.error(&status))
    }

    /// What a status means to an operator.
    pub(crate) fn error(&self, status: &Status) -> CallError {
        error_of(self.name, &self.address, &self.hints, status)
    }
}

fn error_of(service: &'static str, address: &str, hints: &Hints, status: &Status) -> CallError {
    let (address, why) = (address.to_owned(), in_words(status));
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            CallError::Away { service, address, why, hint: hints.status.clone() }
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            CallError::NotAllowed { service, why, hint: hints.certificates.clone() }
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

/// The services that were asked for.
pub(crate) struct Services {
    pub(crate) all: Vec<Service>,
}

/// Answers of those services that could be asked.
pub(crate) struct Answers<'s, T> {
    pub(crate) each: Vec<(&'s Service, T)>,
    any_away: bool,
}

impl<T> Answers<'_, T> {
    /// Whether a service could not be asked.
    pub(crate) const fn any_away(&self) -> bool {
        self.any_away
    }

    /// How a command ended that would have ended with `outcome` if every service had answered.
    pub(crate) const fn outcome(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Done | Outcome::NothingMatched if self.any_away => Outcome::Partly,
            outcome => outcome,
        }
    }
}

impl Services {
    /// Those of the target, or the one that is named.
    pub(crate) fn connect(target: &Target, only: Option<&str>) -> Result<Self> {
        let (addresses, identity) = target.find(only)?;
        let hints = Hints { status: target.hint("status")?, certificates: target.hint("certs status")? };
        let mut all = Vec::new();
        for name in participant_names() {
            let Some(address) = addresses.get(name) else { continue };
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let calls = CallsConfig { attempt_timeout: ATTEMPT_TIME_MAX, ..CallsConfig::default() };
            let config = DestinationConfig { address: address.clone(), name: name.to_owned(), calls };
            let destination = client::destination(&config, &identity, holdfast_proto::is_idempotent);
            let destination = destination.map_err(|error| anyhow::anyhow!("{error}"))?;
            all.push(Service { name, address: address.clone(), destination, hints: hints.clone() });
        }
        if all.is_empty() {
            bail!("the stack runs no services");
        }
        Ok(Self { all })
    }

    /// Asks each service. One that is away is said and left out; an error only if all are.
    pub(crate) async fn ask<T>(&self, ask: impl AsyncFn(&Service) -> Result<T>) -> Result<Answers<'_, T>> {
        let mut each = Vec::new();
        let mut away = Vec::new();
        for service in &self.all {
            match ask(service).await {
                Ok(answer) => each.push((service, answer)),
                Err(error) if error.downcast_ref::<CallError>().is_some_and(CallError::is_away) => {
                    away.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        if each.is_empty()
            && let Some(last) = away.pop()
        {
            for error in &away {
                say!("{error:#}");
            }
            return Err(last);
        }
        for error in &away {
            say!("not asked: {error:#}");
        }
        Ok(Answers { each, any_away: !away.is_empty() })
    }

    /// Returns the letter and the service that has it; `None` if all were asked and none has it. The others are asked before it
    /// matters that one is away.
    pub(crate) async fn find(&self, id: Uuid) -> Result<Option<(&Service, pb::DeadLetter)>> {
        let mut away = None;
        for service in &self.all {
            let request = service.request(pb::GetDeadLetterRequest { id: id.to_string() })?;
            match service.answer(service.dead_letters().get_dead_letter(request).await) {
                Ok(answer) => {
                    let letter = answer.dead_letter.context("a response without a letter")?;
                    return Ok(Some((service, letter)));
                }
                Err(CallError::Refused { code: Code::NotFound, .. }) => {}
                Err(error) if error.is_away() => away = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        match away {
            Some(error) => Err(error).with_context(|| format!("no other service has a dead letter {id}")),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error is a sentence that names the service, the reason and the next command, without words of a library.
    #[test]
    fn errors_are_in_words() {
        let hints = Hints {
            status: "`holdfast status`".to_owned(),
            certificates: "`holdfast certs status`".to_owned(),
        };
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
                "payment does not accept the operator's certificate (not open to order); see `holdfast certs status`",
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
