//! `dlq edit` with a filter: headers and keys of all parked letters that match, as when many records were sent without headers. Values are
//! repaired one by one.
//!
//! Each letter is looked at, and its service is asked whether it would take the edit, before anything is done; then each is edited by
//! itself, with an entry in the audit of its own.

use std::fmt::Write as _;

use anyhow::Result;
use holdfast_proto::ops::v1 as pb;
use tonic::Code;

use super::{
    document::is_without_effect,
    done::{Document, Done, Line, failures},
    edit::{Edit, get, line_of},
    letter::groups,
    listing::matching,
    moved::LETTERS_MAX,
};
use crate::{
    examine::away,
    output::{Outcome, data, say},
    services::{CallError, Service, Services},
};

/// Refused letters that are shown one by one.
const SHOWN_MAX: usize = 20;

/// What was found before anything is done.
#[derive(Default)]
struct Plan<'s> {
    /// Edits that their services would take; the letters are without their content.
    edits: Vec<(&'s Service, pb::DeadLetter, pb::EditDeadLetterRequest)>,
    /// Letters that would not be edited, and why.
    lines: Vec<Line>,
    /// Letters that are so already.
    unchanged: usize,
    /// Further letters match: only so many are edited at once.
    has_more: bool,
}

/// See the module.
pub(super) async fn run(edit: &Edit) -> Result<Outcome> {
    let services = Services::connect(&edit.target, edit.filter.service.as_deref())?;
    let wanted = edit.filter.in_state(pb::DeadLetterState::Parked);
    let answers = matching(&services, &wanted, LETTERS_MAX).await?;
    let is_cause = |letter: &&pb::DeadLetter| {
        edit.cause.as_ref().is_none_or(|cause| letter.reason.contains(cause.as_str()))
    };
    let mut plan = Plan::default();
    let mut away = away();
    for (service, letters) in &answers.each {
        // One that goes away in the middle keeps the others from nothing.
        let looked = plan.of_service(edit, service, letters.iter().filter(is_cause));
        away.ask(&services.all, service, looked).await?;
    }
    away.unless_all(&services.all)?;
    let is_empty = plan.edits.is_empty() && plan.lines.is_empty();
    if is_empty {
        let already =
            if plan.unchanged > 0 { format!("; {} are so already", plan.unchanged) } else { String::new() };
        say!("nothing that is parked{} matches and would be changed{already}", answers.elsewhere());
    }
    if edit.dry_run || plan.edits.is_empty() {
        if !is_empty {
            say!("{}", plan.summary());
        }
        let planned =
            plan.edits.iter().map(|(service, letter, _)| line_of(service, letter, Done::Planned, None));
        let lines = planned.chain(plan.lines.iter().cloned()).collect();
        let document = Document::of("edit", false, lines);
        edit.output.print(&document, || match plan.lines.as_slice() {
            [] => Ok(()),
            lines => data!("{}", failures(lines.iter())),
        })?;
        let outcome = match (is_empty, edit.dry_run) {
            (true, _) => Outcome::NothingMatched,
            (false, true) => Outcome::Done,
            (false, false) => Outcome::Failed,
        };
        return Ok(answers.outcome(outcome).unless_away(!away.is_empty()));
    }
    if !edit.consent.to(&plan.text(), "edit them?")? {
        return Ok(Outcome::Failed);
    }
    let has_more = plan.has_more;
    let mut lines = plan.lines;
    for (service, letter, request) in &plan.edits {
        let line = edit.edited(service, letter, request).await;
        if let Some(reason) = &line.reason {
            say!("{} is not edited: {reason}", line.id);
        }
        lines.push(line);
    }
    let document = Document::of("edit", true, lines);
    document.print(&edit.output)?;
    let next = edit.target.hint("dlq redrive --execute")?;
    let left = document.dead_letters.len() - document.done;
    say!("{} edited, {left} not; the originals are kept. Next: {next} with the same filter", document.done);
    if has_more {
        say!("further letters match: run the command again for them");
        return Ok(Outcome::Partly);
    }
    Ok(answers.outcome(document.outcome()).unless_away(!away.is_empty()))
}

impl<'s> Plan<'s> {
    /// Looks at letters of a service, and asks it about each edit.
    async fn of_service<'l>(
        &mut self,
        edit: &Edit,
        service: &'s Service,
        letters: impl Iterator<Item = &'l pb::DeadLetter>,
    ) -> Result<()> {
        for letter in letters {
            if self.edits.len() >= edit.max as usize {
                self.has_more = true;
                return Ok(());
            }
            let whole = get(service, &letter.id).await?;
            let (request, _) = edit.filled(&whole, edit.by_options(&whole)?)?;
            if is_without_effect(&whole, &request) {
                self.unchanged += 1;
                continue;
            }
            let request = pb::EditDeadLetterRequest { id: letter.id.clone(), ..request };
            let checked =
                service.dead_letters().check_dead_letter_edit(service.request(request.clone())?).await;
            match service.answer(checked) {
                Ok(_) => self.edits.push((service, letter.clone(), request)),
                // It was redriven or discarded meanwhile.
                Err(CallError::Refused { code: Code::FailedPrecondition | Code::NotFound, .. }) => {}
                Err(error @ CallError::Refused { code: Code::InvalidArgument, .. }) => {
                    self.lines.push(line_of(service, letter, Done::WouldFail, Some(error)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// How much would be edited and how much not, for people.
    fn summary(&self) -> String {
        let kinds = self.edits.iter().map(|(_, letter, _)| letter);
        let kinds = kinds.map(|of| (of.service.as_str(), of.topic.as_str(), of.class.as_str()));
        let mut text = format!("{} dead letters would be edited", self.edits.len());
        for group in groups(kinds) {
            // Writing to a String can't fail.
            let _ = write!(text, "\n  {group}");
        }
        if self.has_more {
            let _ = write!(text, "\nmore of them match, and wait for the next time (see --max)");
        }
        if self.unchanged > 0 {
            let _ = write!(text, "\n{} are so already", self.unchanged);
        }
        if !self.lines.is_empty() {
            let _ = write!(text, "\n{} would be refused, and stay as they are", self.lines.len());
        }
        text
    }

    /// The same with some of those that would be refused.
    fn text(&self) -> String {
        let summary = self.summary();
        match self.lines.as_slice() {
            [] => summary,
            lines => format!("{summary}:\n{}", failures(lines.iter().take(SHOWN_MAX))),
        }
    }
}
