//! Services that could not be asked.

use std::collections::BTreeSet;

use anyhow::Result;
use holdfast_native::layout::participant_names;

use crate::{
    output::{Outcome, say},
    services::{CallError, Service, Services},
};

/// Those that are away; they are not asked again.
#[derive(Debug, Default)]
pub(crate) struct Away(BTreeSet<&'static str>);

impl Away {
    /// Those that the target does not have.
    pub(crate) fn of(services: &Services) -> Self {
        let is_there = |name: &&str| services.all.iter().any(|service| service.name == *name);
        let away: BTreeSet<&'static str> = participant_names().filter(|name| !is_there(name)).collect();
        for name in &away {
            say!("not asked: {name} has no address here");
        }
        Self(away)
    }

    #[cfg(test)]
    pub(crate) fn these(names: &[&'static str]) -> Self {
        Self(names.iter().copied().collect())
    }

    /// Whether this service is away.
    pub(crate) fn has(&self, service: &str) -> bool {
        self.0.contains(service)
    }

    /// Whether all could be asked.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.iter().copied().collect()
    }

    /// Asks a service. `None` if it is away, which is said once; an error if all are.
    pub(crate) async fn ask<T>(
        &mut self,
        services: &Services,
        service: &Service,
        question: impl Future<Output = Result<T>>,
    ) -> Result<Option<T>> {
        if self.has(service.name) {
            return Ok(None);
        }
        match question.await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.downcast_ref::<CallError>().is_some_and(CallError::is_away) => {
                self.0.insert(service.name);
                if services.all.iter().all(|service| self.has(service.name)) {
                    return Err(error);
                }
                say!("not asked: {error:#}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How a command ended that would have ended with `outcome` if all had answered.
    pub(crate) fn outcome(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Done | Outcome::NothingMatched if !self.0.is_empty() => Outcome::Partly,
            outcome => outcome,
        }
    }
}
