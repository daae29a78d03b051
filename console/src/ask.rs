//! Questions to all services at once.

use anyhow::Result;
use futures_util::future::join_all;
use holdfast_operator::service::{CallError, Service};

use crate::state::Console;

/// What a service has answered, or why it has not, in words.
#[derive(Debug, Clone)]
pub(crate) enum Asked<T> {
    Answer(T),
    NotAsked(String),
}

impl<T> Asked<T> {
    pub(crate) const fn answer(&self) -> Option<&T> {
        match self {
            Self::Answer(answer) => Some(answer),
            Self::NotAsked(_) => None,
        }
    }
}

impl<T> From<Result<T>> for Asked<T> {
    fn from(result: Result<T>) -> Self {
        match result {
            Ok(answer) => Self::Answer(answer),
            Err(error) => Self::NotAsked(format!("{error:#}")),
        }
    }
}

/// An answer of each service, by its name.
pub(crate) type OfEach<T> = Vec<(&'static str, Asked<T>)>;

impl Console {
    /// Asks all services at once. Each question has its own deadline, so this takes no longer than the slowest of them may.
    pub(crate) async fn ask<T, A>(&self, ask: impl Fn(Service) -> A) -> OfEach<T>
    where
        A: Future<Output = Result<T>>,
    {
        let question = |service: &Service| {
            let (name, answer) = (service.name, ask(service.clone()));
            async move { (name, Asked::from(answer.await)) }
        };
        let questions: Vec<_> = self.services.iter().map(question).collect();
        join_all(questions).await
    }
}

/// What those have answered that did; why the others did not goes to `missing`.
pub(crate) fn answers<T>(asked: OfEach<T>, missing: &mut Vec<String>) -> Vec<(&'static str, T)> {
    let mut answers = Vec::new();
    for (service, asked) in asked {
        match asked {
            Asked::Answer(answer) => answers.push((service, answer)),
            Asked::NotAsked(why) => note(missing, why),
        }
    }
    answers
}

/// Each reason once: a page asks a service several things.
pub(crate) fn note(missing: &mut Vec<String>, why: String) {
    if !missing.contains(&why) {
        missing.push(why);
    }
}

/// Whether a service was reached and has refused because there is no such thing.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<CallError>();
    matches!(error, Some(CallError::Refused { code: tonic::Code::NotFound, .. }))
}
