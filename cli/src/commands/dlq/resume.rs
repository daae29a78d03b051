//! `dlq resume`: consumers that were stopped go on, and what they may park then is taken back.

use anyhow::Result;
use clap::Args;
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;
use tonic::Code;

use super::stats::{AllowanceLine, allowance_table};
use crate::{
    options::{By, Output, parse_reason, service_names},
    output::{Outcome, data, say},
    services::{CallError, Service, Services},
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    target: Target,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: String,
    /// Let each consumer park this many more before the limit applies again
    #[arg(long, default_value_t = 0, value_name = "N")]
    park: u32,
    /// Resume nothing: take back what resumed consumers may still park, so that the limit applies again
    #[arg(long, conflicts_with = "park")]
    end_allowance: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    output: Output,
}

/// What was done, as `-o json` shows it.
#[derive(Serialize)]
pub(super) struct Document {
    pub(super) service: String,
    /// Consumers that were stopped.
    pub(super) resumed: u64,
    /// What each of them may park before the limit applies again.
    pub(super) park: u32,
    /// What was taken back.
    pub(super) ended_allowances: Vec<AllowanceLine>,
}

impl Resume {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, Some(&self.service))?;
        let mut document = Document {
            service: self.service.clone(),
            resumed: 0,
            park: self.park,
            ended_allowances: Vec::new(),
        };
        let mut outcome = Outcome::Done;
        for service in &services.all {
            let done = if self.end_allowance {
                self.end_allowances(service, &mut document).await?
            } else {
                self.resume(service, &mut document).await?
            };
            match done {
                Ok(()) => {}
                Err(CallError::Refused { code: Code::FailedPrecondition, service, why }) => {
                    say!("{service}: {why}");
                    outcome = Outcome::NothingMatched;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.output.print(&document, || match document.ended_allowances.as_slice() {
            [] => Ok(()),
            ended => data!("{}", allowance_table(ended)),
        })?;
        Ok(outcome)
    }

    async fn resume(&self, service: &Service, document: &mut Document) -> Result<Result<(), CallError>> {
        let request = service.request(pb::ResumeConsumersRequest {
            dead_letters_max: self.park,
            reason: self.reason.clone(),
            author: self.by.name(),
        })?;
        let answer = service.answer(service.dead_letters().resume_consumers(request).await);
        let Ok(answer) = answer else { return Ok(answer.map(drop)) };
        document.resumed += answer.resumed;
        say!("{}: resumed {} consumers", service.name, answer.resumed);
        if self.park > 0 {
            let (stats, end) = (
                self.target.hint("dlq stats")?,
                self.target
                    .hint(&format!("dlq resume --service {} --end-allowance --reason TEXT", service.name))?,
            );
            say!(
                "each may park {} more: {stats} says how much of it is left, {end} takes it back",
                self.park
            );
        }
        Ok(Ok(()))
    }

    async fn end_allowances(
        &self,
        service: &Service,
        document: &mut Document,
    ) -> Result<Result<(), CallError>> {
        let request = service
            .request(pb::EndAllowancesRequest { reason: self.reason.clone(), author: self.by.name() })?;
        let answer = service.answer(service.dead_letters().end_allowances(request).await);
        let Ok(answer) = answer else { return Ok(answer.map(drop)) };
        let ended = answer.ended.iter().map(|ended| AllowanceLine::of(ended, service.name));
        document.ended_allowances.extend(ended);
        say!("{}: the limit applies again, within about a second", service.name);
        Ok(Ok(()))
    }
}
