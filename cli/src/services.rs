//! The services of a target, called as the operator.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_native::layout::participant_names;
pub(crate) use holdfast_operator::service::{CallError, Service};
use holdfast_operator::service::{Caller, Hints, Patience};
use holdfast_proto::ops::v1 as pb;
use tonic::Code;
use uuid::Uuid;

use crate::{
    output::{Outcome, say},
    target::Target,
};

/// An operator waits longer than an API client, and a service that starts or fails over has time for a second attempt.
const PATIENCE: Patience =
    Patience { call_time_max: Duration::from_secs(10), attempt_time_max: Duration::from_secs(5) };

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

    /// " elsewhere" if a service could not be asked, which is said before: for words about what there is.
    pub(crate) const fn elsewhere(&self) -> &'static str {
        if self.any_away { " elsewhere" } else { "" }
    }

    /// How a command ended that would have ended with `outcome` if every service had answered.
    pub(crate) const fn outcome(&self, outcome: Outcome) -> Outcome {
        outcome.unless_away(self.any_away)
    }
}

impl Services {
    /// Those of the target, or the one that is named.
    pub(crate) fn connect(target: &Target, only: Option<&str>) -> Result<Self> {
        let (addresses, identity) = target.find(only)?;
        let hints = Hints {
            caller: Caller::Command,
            status: target.hint("status")?,
            certificates: target.hint("certs status")?,
        };
        let mut all = Vec::new();
        for name in participant_names() {
            let Some(address) = addresses.get(name) else { continue };
            if only.is_some_and(|only| only != name) {
                continue;
            }
            all.push(Service::new(name, address, &identity, PATIENCE, hints.clone())?);
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
