//! Services that could not be asked.

use anyhow::Result;
use futures_util::future::join_all;

use crate::service::{CallError, Service};

/// Those that are away, each with why; they are not asked again.
#[derive(Debug, Default)]
pub struct Away {
    whys: Vec<(&'static str, Why)>,
    tell: Option<fn(&str)>,
}

#[derive(Debug)]
enum Why {
    NoAddress,
    Call(CallError),
}

impl Why {
    fn text(&self, service: &str) -> String {
        match self {
            Self::NoAddress => format!("{service} has no address here"),
            Self::Call(error) => error.to_string(),
        }
    }
}

impl Away {
    /// Nobody yet. Why a service was not asked goes to `tell` once, when it shows, unless none is left then: that is the error of
    /// [`Away::unless_all`].
    #[must_use]
    pub fn telling(tell: fn(&str)) -> Self {
        Self { whys: Vec::new(), tell: Some(tell) }
    }

    /// These have no address where all `services` are.
    #[must_use]
    pub fn without(mut self, services: &[Service], names: impl IntoIterator<Item = &'static str>) -> Self {
        for name in names {
            if services.iter().all(|service| service.name != name) {
                self.note(services, name, Why::NoAddress);
            }
        }
        self
    }

    /// For tests: these are away.
    #[must_use]
    pub fn these(names: &[&'static str]) -> Self {
        Self { whys: names.iter().map(|name| (*name, Why::NoAddress)).collect(), tell: None }
    }

    /// Whether this service is away.
    #[must_use]
    pub fn has(&self, service: &str) -> bool {
        self.whys.iter().any(|(name, _)| *name == service)
    }

    /// Whether all could be asked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.whys.is_empty()
    }

    /// Their names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self.whys.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    /// Why each was not asked, in words.
    pub fn whys(&self) -> impl Iterator<Item = String> {
        self.whys.iter().map(|(name, why)| why.text(name))
    }

    /// An error if none of these could be asked: that of the last one.
    pub fn unless_all(&self, services: &[Service]) -> Result<(), CallError> {
        let mut errors = self.whys.iter().rev().filter_map(|(_, why)| match why {
            Why::Call(error) => Some(error),
            Why::NoAddress => None,
        });
        match errors.next() {
            Some(error) if self.has_all(services) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Asks a service. `None` if it is away.
    pub async fn ask<T>(
        &mut self,
        services: &[Service],
        service: &Service,
        question: impl Future<Output = Result<T>>,
    ) -> Result<Option<T>> {
        if self.has(service.name) {
            return Ok(None);
        }
        let answer = question.await;
        self.take(services, service, answer)
    }

    /// Asks all of these at once that are not away. Those that are have no answer.
    pub async fn ask_each<'s, T, Q>(
        &mut self,
        services: &'s [Service],
        question: impl Fn(&'s Service) -> Q,
    ) -> Result<Vec<(&'s Service, T)>>
    where
        Q: Future<Output = Result<T>>,
    {
        let asked: Vec<&Service> = services.iter().filter(|service| !self.has(service.name)).collect();
        let questions: Vec<Q> = asked.iter().map(|service| question(service)).collect();
        let mut answers = Vec::new();
        for (service, answer) in asked.into_iter().zip(join_all(questions).await) {
            answers.extend(self.take(services, service, answer)?.map(|answer| (service, answer)));
        }
        Ok(answers)
    }

    fn take<T>(&mut self, services: &[Service], service: &Service, answer: Result<T>) -> Result<Option<T>> {
        let error = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        match error.downcast_ref::<CallError>().filter(|error| error.is_unasked()) {
            Some(why) => {
                self.note(services, service.name, Why::Call(why.clone()));
                Ok(None)
            }
            None => Err(error),
        }
    }

    fn note(&mut self, services: &[Service], name: &'static str, why: Why) {
        let text = why.text(name);
        self.whys.push((name, why));
        if let Some(tell) = self.tell.filter(|_| !self.has_all(services)) {
            tell(&text);
        }
    }

    fn has_all(&self, services: &[Service]) -> bool {
        services.iter().all(|service| self.has(service.name))
    }
}
