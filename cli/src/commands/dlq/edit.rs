//! `dlq edit`: by options, by a document, or in an editor until the service takes the result. All that match a filter are edited by
//! [`super::edit_many`].

use std::{
    env,
    fs::{self, File},
    io::{self, IsTerminal as _, Read as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, builder::NonEmptyStringValueParser};
use holdfast_proto::{ops::v1 as pb, topic::RECORD_BYTES_MAX};
use tonic::Code;

use super::{
    document::{Document, fill},
    done::{self, Done, Line},
    edit_many,
    filter::Filter,
    named::{Named, parse_named},
    schema,
    siblings::Everywhere,
};
use crate::{
    consent::{Consent, asked},
    options::{By, Output, parse_reason},
    output::{NothingMatched, Outcome, UsageError, data, say},
    services::{CallError, Service, Services},
    target::Target,
};

/// Options that make an edit of one letter only.
const OF_ONE: [&str; 4] = ["value", "template", "document", "everywhere"];

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command line")]
pub(crate) struct Edit {
    #[command(flatten)]
    pub(super) target: Target,
    /// Its id, or how that begins. Without further options its document is opened in $EDITOR
    #[arg(value_parser = parse_named)]
    id: Option<Named>,
    #[command(flatten)]
    pub(super) filter: Filter,
    /// All letters whose reason contains this, as a filter
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(), conflicts_with_all = ["id", "value", "template", "document", "everywhere"])]
    pub(super) cause: Option<String>,
    /// The event as JSON: a file, or - for standard input
    #[arg(long, value_name = "FILE|-", value_parser = NonEmptyStringValueParser::new())]
    value: Option<String>,
    /// A header, which replaces all headers of this name; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// The record's key
    #[arg(long, value_name = "TEXT")]
    record_key: Option<String>,
    /// Only fill in headers and key where they are missing, as every edit does
    #[arg(long, conflicts_with_all = ["value", "header", "record_key"])]
    fill: bool,
    /// Print key, headers and event as a document for --document, with what is missing filled in; changes nothing
    #[arg(long, conflicts_with_all = ["value", "header", "record_key", "fill"])]
    template: bool,
    /// Key, headers and event, as --template prints them: a file, or - for standard input
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["value", "header", "record_key", "fill", "template"])]
    document: Option<String>,
    /// Take all edits back
    #[arg(long, conflicts_with_all = ["value", "header", "record_key", "fill", "template", "document"])]
    pub(super) revert: bool,
    /// Make the same edit of the letters that other services have made of this event, after a question
    #[arg(long, conflicts_with = "template")]
    everywhere: bool,
    /// With a filter: only show how many would be edited, and which would be refused
    #[arg(long, conflicts_with_all = ["id", "value", "template", "document", "everywhere"])]
    pub(super) dry_run: bool,
    /// With a filter: edit at most this many letters
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) max: u32,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason, required_unless_present_any = ["template", "dry_run"])]
    reason: Option<String>,
    #[command(flatten)]
    pub(super) consent: Consent,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What became of what was typed.
enum Offered {
    /// The service has it, or the operator does not want it any more.
    Ended(Outcome),
    /// It was not taken.
    Refused(anyhow::Error),
    /// Somebody else has edited the letter since it was opened.
    Outdated,
}

fn parse_header(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("must be NAME=VALUE")?;
    ensure!(!name.is_empty(), "must be NAME=VALUE");
    Ok((name.to_owned(), value.to_owned()))
}

/// An event as JSON. It takes more room than its bytes, at most six times as much.
fn read_bounded(input: impl io::Read) -> io::Result<String> {
    let most = 6 * RECORD_BYTES_MAX;
    let mut text = String::new();
    input.take(most as u64 + 1).read_to_string(&mut text)?;
    if text.len() > most {
        let detail = format!("it has more than {most} bytes, and an event at most {RECORD_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
    }
    Ok(text)
}

fn read_from(path: &str) -> Result<String> {
    if path == "-" {
        return read_bounded(io::stdin()).context("cannot read standard input");
    }
    File::open(path).and_then(read_bounded).with_context(|| format!("cannot read {path}"))
}

impl Edit {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let is_filtered = !self.filter.is_empty() || self.cause.is_some();
        let named = match (&self.id, is_filtered) {
            (Some(named), false) => named,
            (None, true) => return self.of_many().await,
            (None, false) => bail!(UsageError("which? Name an id or a filter".to_owned())),
            (Some(_), true) => bail!(UsageError("give an id or a filter, not both".to_owned())),
        };
        if self.opens_editor() && !io::stdin().is_terminal() {
            bail!(UsageError(
                "nothing to edit with: without a terminal give --value, --header, --record-key, --fill, --document or --revert"
                    .to_owned()
            ));
        }
        let services = Services::connect(&self.target, None)?;
        let ids = services.resolve(std::slice::from_ref(named)).await?;
        let id = ids.first().context("one id was given")?;
        let Some((service, letter)) = services.find(*id).await? else {
            bail!(NothingMatched(format!("no service has a dead letter {id}")));
        };
        if self.template {
            data!("{}", Document::of(&letter)?.to_text()?)?;
            return Ok(Outcome::Done);
        }
        if self.opens_editor() {
            return self.in_editor(&services, service, letter).await;
        }
        let everywhere = self.everywhere(&services, &letter).await?;
        let request = if let Some(path) = &self.document {
            Document::of(&letter)?.edit_to(&letter, &read_from(path)?)?
        } else {
            self.by_options(&letter)?
        };
        let request = self.complete(&letter, request)?;
        if let Some(everywhere) = &everywhere
            && !self.consent.to(&everywhere.touched(&letter), "edit them?")?
        {
            return Ok(Outcome::Failed);
        }
        send(service, &letter, &request).await?;
        self.conclude(service, &letter, &request, everywhere.as_ref()).await
    }

    /// Whether nothing says what to edit.
    fn opens_editor(&self) -> bool {
        self.value.is_none()
            && self.header.is_empty()
            && self.record_key.is_none()
            && self.document.is_none()
            && !self.fill
            && !self.template
            && !self.revert
    }

    /// Headers and key of all letters that match.
    async fn of_many(&self) -> Result<Outcome> {
        if self.value.is_some() || self.template || self.document.is_some() || self.everywhere {
            let options = OF_ONE.map(|option| format!("--{option}")).join(", ");
            bail!(UsageError(format!("{options}: for one letter, not for all that match a filter")));
        }
        if self.opens_editor() {
            bail!(UsageError(
                "nothing to edit with: for a filter give --header, --record-key, --fill or --revert"
                    .to_owned()
            ));
        }
        edit_many::run(self).await
    }

    async fn everywhere<'s>(
        &self,
        services: &'s Services,
        letter: &pb::DeadLetter,
    ) -> Result<Option<Everywhere<'s>>> {
        Ok(if self.everywhere { Some(Everywhere::of(services, letter).await?) } else { None })
    }

    /// What the options ask for.
    pub(super) fn by_options(&self, letter: &pb::DeadLetter) -> Result<pb::EditDeadLetterRequest> {
        let value = self.value.as_deref().map(read_from).transpose()?;
        let header = |(name, value): &(String, String)| pb::RecordHeader {
            name: name.clone(),
            value: value.clone().into_bytes(),
        };
        Ok(pb::EditDeadLetterRequest {
            value: value.map(|text| schema::encode(&letter.topic, &text)).transpose()?.unwrap_or_default(),
            key: self.record_key.clone().map(String::into_bytes),
            headers: self.header.iter().map(header).collect(),
            revert: self.revert,
            ..pb::EditDeadLetterRequest::default()
        })
    }

    /// Fills in what is missing, and says so.
    fn complete(
        &self,
        letter: &pb::DeadLetter,
        request: pb::EditDeadLetterRequest,
    ) -> Result<pb::EditDeadLetterRequest> {
        let (request, filled) = self.filled(letter, request)?;
        for filled in filled {
            say!("filled in: {filled}");
        }
        if request.value.is_empty() && request.key.is_none() && request.headers.is_empty() && !request.revert
        {
            bail!(NothingMatched("nothing is missing, and nothing was changed".to_owned()));
        }
        Ok(request)
    }

    /// The edit with what is missing filled in, and with its reason and author; and what was filled in.
    pub(super) fn filled(
        &self,
        letter: &pb::DeadLetter,
        mut request: pb::EditDeadLetterRequest,
    ) -> Result<(pb::EditDeadLetterRequest, Vec<String>)> {
        let filled = if request.revert { Vec::new() } else { fill(letter, &mut request)? };
        // A dry run needs none; a service wants one in any case.
        request.reason = self.reason.clone().unwrap_or_else(|| "dry run".to_owned());
        request.author = self.by.name();
        Ok((request, filled))
    }

    /// Until the service takes the result, or the operator gives up.
    async fn in_editor(
        &self,
        services: &Services,
        service: &Service,
        mut letter: pb::DeadLetter,
    ) -> Result<Outcome> {
        let mut everywhere = self.everywhere(services, &letter).await?;
        let mut before = Document::of(&letter)?;
        let file = tempfile::Builder::new().prefix("dead-letter-").suffix(".json").tempfile()?;
        fs::write(file.path(), before.to_text()?)?;
        loop {
            open_editor(file.path())?;
            let refused = match File::open(file.path()).and_then(read_bounded) {
                Ok(text) if text == before.to_text()? && before.is_complete() => {
                    say!("nothing was changed");
                    return Ok(Outcome::Failed);
                }
                Ok(text) => match self.offer(service, &letter, &before, &text, everywhere.as_ref()).await? {
                    Offered::Ended(outcome) => return Ok(outcome),
                    Offered::Refused(refused) => refused,
                    Offered::Outdated => {
                        let (now, of) = reopened(service, &letter).await?;
                        let changes = before.difference(&now.to_text()?)?.join("\n");
                        let author = of.history.iter().rev().find(|entry| entry.action == "edit");
                        let author =
                            author.map_or_else(|| "somebody".to_owned(), |entry| entry.actor.clone());
                        fs::write(file.path(), before.rebased(&text, &now)?)?;
                        everywhere = self.everywhere(services, &of).await?;
                        (before, letter) = (now, of);
                        anyhow::anyhow!(
                            "{author} has changed it since you opened it:\n{changes}\nyour text has that now, but for what you have changed too"
                        )
                    }
                },
                Err(error) => anyhow::Error::from(error).context("cannot read what was edited"),
            };
            say!("not kept: {refused:#}");
            if !asked("edit it again?")? {
                say!("nothing was done");
                return Ok(Outcome::Failed);
            }
        }
    }

    /// Shows what was typed, and has the service take it if the operator wants that. What was typed is not lost because it is wrong, or
    /// because a service is away.
    async fn offer(
        &self,
        service: &Service,
        letter: &pb::DeadLetter,
        before: &Document,
        text: &str,
        everywhere: Option<&Everywhere<'_>>,
    ) -> Result<Offered> {
        let request = match before.edit_to(letter, text) {
            Ok(request) => request,
            Err(error) => return Ok(Offered::Refused(error)),
        };
        let mut touched = before.difference(text)?.join("\n");
        if let Some(everywhere) = everywhere {
            touched = format!("{touched}\n{}", everywhere.touched(letter));
        }
        if !self.consent.to(&touched, "keep this edit?")? {
            return Ok(Offered::Ended(Outcome::Failed));
        }
        let request = self.complete(letter, request)?;
        // Of what others have changed since it was opened nothing was seen.
        let request = pb::EditDeadLetterRequest { based_on: letter.revision.clone(), ..request };
        Ok(match send(service, letter, &request).await {
            Ok(()) => Offered::Ended(self.conclude(service, letter, &request, everywhere).await?),
            Err(CallError::Refused { code: Code::Aborted, .. }) => Offered::Outdated,
            Err(CallError::Refused { code: Code::InvalidArgument, why, .. }) => {
                Offered::Refused(anyhow::anyhow!(why))
            }
            Err(error) => Offered::Refused(error.into()),
        })
    }

    /// Makes the same edit elsewhere, now that it was taken once, and says what comes next.
    async fn conclude(
        &self,
        service: &Service,
        letter: &pb::DeadLetter,
        request: &pb::EditDeadLetterRequest,
        everywhere: Option<&Everywhere<'_>>,
    ) -> Result<Outcome> {
        let mut lines = vec![line_of(service, letter, self.done(), None)];
        let is_partial = everywhere.is_some_and(|everywhere| everywhere.is_partial);
        for (service, letter) in everywhere.iter().flat_map(|everywhere| &everywhere.letters) {
            let based_on = if request.based_on.is_empty() { String::new() } else { letter.revision.clone() };
            let request = pb::EditDeadLetterRequest { based_on, ..request.clone() };
            let line = self.edited(service, letter, &request).await;
            if let Some(reason) = &line.reason {
                say!("{} is not edited: {reason}", line.id);
            }
            lines.push(line);
        }
        let document = done::Document::of("edit", true, lines);
        let edited = document.dead_letters.iter().filter(|line| line.result.is_done());
        let edited: Vec<&str> = edited.map(|line| line.id.as_str()).collect();
        let next = self.target.hint(&format!("dlq redrive {} --execute", edited.join(" ")))?;
        let done = if self.revert { "as it was received" } else { "edited; the original is kept" };
        match edited.len() {
            1 => say!("{done}. Next: {next}"),
            several => say!("{several} letters: {done}. Next: {next}"),
        }
        // An id alone is of no use here: it was typed.
        self.output.print(&document, || Ok(()))?;
        Ok(if is_partial { Outcome::Partly } else { document.outcome() })
    }

    const fn done(&self) -> Done {
        if self.revert { Done::Reverted } else { Done::Edited }
    }

    /// Has an edit kept, and says how that ended.
    pub(super) async fn edited(
        &self,
        service: &Service,
        letter: &pb::DeadLetter,
        request: &pb::EditDeadLetterRequest,
    ) -> Line {
        match send(service, letter, request).await {
            Ok(()) => line_of(service, letter, self.done(), None),
            Err(error) if error.is_away() => line_of(service, letter, Done::Unknown, Some(error)),
            Err(error) => line_of(service, letter, Done::Failed, Some(error)),
        }
    }
}

pub(super) fn line_of(
    service: &Service,
    letter: &pb::DeadLetter,
    result: Done,
    error: Option<CallError>,
) -> Line {
    let reason = error.map(|error| match error {
        CallError::Refused { code: Code::InvalidArgument, why, .. } => why,
        error => error.to_string(),
    });
    Line { id: letter.id.clone(), service: Some(service.name), result, reason }
}

/// The letter as it is now.
async fn reopened(service: &Service, letter: &pb::DeadLetter) -> Result<(Document, pb::DeadLetter)> {
    let letter = get(service, &letter.id).await?;
    Ok((Document::of(&letter)?, letter))
}

/// A letter with its content.
pub(super) async fn get(service: &Service, id: &str) -> Result<pb::DeadLetter> {
    let request = service.request(pb::GetDeadLetterRequest { id: id.to_owned() })?;
    let answer = service.answer(service.dead_letters().get_dead_letter(request).await)?;
    answer.dead_letter.context("a response without a letter")
}

/// Asks a service to keep an edit of a letter.
async fn send(
    service: &Service,
    letter: &pb::DeadLetter,
    request: &pb::EditDeadLetterRequest,
) -> Result<(), CallError> {
    let request = pb::EditDeadLetterRequest { id: letter.id.clone(), ..request.clone() };
    let request = match service.request(request) {
        Ok(request) => request,
        Err(error) => return Err(service.error(&tonic::Status::internal(error.to_string()))),
    };
    service.answer(service.dead_letters().edit_dead_letter(request).await).map(drop)
}

/// As `$VISUAL` or `$EDITOR` says, which may have options of their own.
fn open_editor(file: &Path) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"].into_iter().filter_map(env::var_os).find(|editor| !editor.is_empty());
    let editor = editor.unwrap_or_else(|| "vi".into());
    let mut command = Command::new("sh");
    command.args(["-c", "exec $0 \"$1\""]).arg(&editor).arg(file);
    let status = command.status().with_context(|| format!("cannot start {}", editor.display()))?;
    ensure!(status.success(), "the editor {} has failed ({status})", editor.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header has a name; its value may hold anything.
    #[test]
    fn a_header_has_a_name() {
        let header = parse_header("ce_type=a=b").expect("a header");
        assert_eq!(header, ("ce_type".to_owned(), "a=b".to_owned()));
        assert!(parse_header("ce_type").is_err() && parse_header("=x").is_err());
    }

    /// What is read for an event has an end, whatever is read.
    #[test]
    fn what_is_read_has_an_end() {
        assert_eq!(read_bounded("{}".as_bytes()).expect("read"), "{}");
        let refused = read_bounded(io::repeat(b' ')).expect_err("too long");
        assert!(refused.to_string().contains("more than 12582912 bytes"), "{refused}");
    }
}
