//! `dlq edit`: by options, by a document, or in an editor until the service takes the result.

use std::{
    env,
    fs::{self, File},
    io::{self, IsTerminal as _, Read as _},
    ops::ControlFlow,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, builder::NonEmptyStringValueParser};
use holdfast_proto::{ops::v1 as pb, topic::RECORD_BYTES_MAX};
use tonic::Code;

use super::{
    document::{Document, fill},
    named::{Named, parse_named},
    schema,
    siblings::Everywhere,
};
use crate::{
    consent::{Consent, asked},
    options::{By, parse_reason},
    output::{NothingMatched, Outcome, UsageError, data, say},
    services::{CallError, Service, Services},
    target::Target,
};

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command line")]
pub(crate) struct Edit {
    #[command(flatten)]
    target: Target,
    /// Its id, or how that begins. Without further options its document is opened in $EDITOR
    #[arg(value_parser = parse_named)]
    id: Named,
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
    revert: bool,
    /// Make the same edit of the letters that other services have made of this event, after a question
    #[arg(long, conflicts_with = "template")]
    everywhere: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason, required_unless_present = "template")]
    reason: Option<String>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    by: By,
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
        let opens_editor = self.value.is_none()
            && self.header.is_empty()
            && self.record_key.is_none()
            && self.document.is_none()
            && !self.fill
            && !self.template
            && !self.revert;
        if opens_editor && !io::stdin().is_terminal() {
            bail!(UsageError(
                "nothing to edit with: without a terminal give --value, --header, --record-key, --fill, --document or --revert"
                    .to_owned()
            ));
        }
        let services = Services::connect(&self.target, None)?;
        let ids = services.resolve(std::slice::from_ref(&self.id)).await?;
        let id = ids.first().context("one id was given")?;
        let Some((service, letter)) = services.find(*id).await? else {
            bail!(NothingMatched(format!("no service has a dead letter {id}")));
        };
        if self.template {
            data!("{}", Document::of(&letter)?.to_text()?)?;
            return Ok(Outcome::Done);
        }
        let everywhere = if self.everywhere { Some(Everywhere::of(&services, &letter).await?) } else { None };
        if opens_editor {
            return self.in_editor(service, &letter, everywhere.as_ref()).await;
        }
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
        self.conclude(&letter, &request, everywhere.as_ref()).await
    }

    /// What the options ask for.
    fn by_options(&self, letter: &pb::DeadLetter) -> Result<pb::EditDeadLetterRequest> {
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
        mut request: pb::EditDeadLetterRequest,
    ) -> Result<pb::EditDeadLetterRequest> {
        if !request.revert {
            for filled in fill(letter, &mut request)? {
                say!("filled in: {filled}");
            }
        }
        if request.value.is_empty() && request.key.is_none() && request.headers.is_empty() && !request.revert
        {
            bail!(NothingMatched("nothing is missing, and nothing was changed".to_owned()));
        }
        request.reason = self.reason.clone().unwrap_or_default();
        request.author = self.by.name();
        Ok(request)
    }

    /// Until the service takes the result, or the operator gives up.
    async fn in_editor(
        &self,
        service: &Service,
        letter: &pb::DeadLetter,
        everywhere: Option<&Everywhere<'_>>,
    ) -> Result<Outcome> {
        let before = Document::of(letter)?;
        let original = before.to_text()?;
        let file = tempfile::Builder::new().prefix("dead-letter-").suffix(".json").tempfile()?;
        fs::write(file.path(), &original)?;
        loop {
            open_editor(file.path())?;
            let refused = match File::open(file.path()).and_then(read_bounded) {
                Ok(text) if text == original && before.is_complete() => {
                    say!("nothing was changed");
                    return Ok(Outcome::Failed);
                }
                Ok(text) => match self.offer(service, letter, &before, &text, everywhere).await? {
                    ControlFlow::Break(outcome) => return Ok(outcome),
                    ControlFlow::Continue(refused) => refused,
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

    /// Shows what was typed, and has the service take it if the operator wants that. Goes on with why it was not taken: what was typed is not
    /// lost because it is wrong, or because a service is away.
    async fn offer(
        &self,
        service: &Service,
        letter: &pb::DeadLetter,
        before: &Document,
        text: &str,
        everywhere: Option<&Everywhere<'_>>,
    ) -> Result<ControlFlow<Outcome, anyhow::Error>> {
        let request = match before.edit_to(letter, text) {
            Ok(request) => request,
            Err(error) => return Ok(ControlFlow::Continue(error)),
        };
        let mut touched = before.difference(text)?.join("\n");
        if let Some(everywhere) = everywhere {
            touched = format!("{touched}\n{}", everywhere.touched(letter));
        }
        if !self.consent.to(&touched, "keep this edit?")? {
            return Ok(ControlFlow::Break(Outcome::Failed));
        }
        let request = self.complete(letter, request)?;
        Ok(match send(service, letter, &request).await {
            Ok(()) => ControlFlow::Break(self.conclude(letter, &request, everywhere).await?),
            Err(CallError::Refused { code: Code::InvalidArgument, why, .. }) => {
                ControlFlow::Continue(anyhow::anyhow!(why))
            }
            Err(error) => ControlFlow::Continue(error.into()),
        })
    }

    /// Makes the same edit elsewhere, now that it was taken once, and says what comes next.
    async fn conclude(
        &self,
        letter: &pb::DeadLetter,
        request: &pb::EditDeadLetterRequest,
        everywhere: Option<&Everywhere<'_>>,
    ) -> Result<Outcome> {
        let mut edited = vec![letter.id.as_str()];
        let mut is_partial = everywhere.is_some_and(|everywhere| everywhere.is_partial);
        for (service, letter) in everywhere.iter().flat_map(|everywhere| &everywhere.letters) {
            match send(service, letter, request).await {
                Ok(()) => edited.push(&letter.id),
                Err(error) => {
                    say!("{} is not edited: {error}", letter.id);
                    is_partial = true;
                }
            }
        }
        let next = self.target.hint(&format!("dlq redrive {} --execute", edited.join(" ")))?;
        let done = if self.revert { "as it was received" } else { "edited; the original is kept" };
        match edited.len() {
            1 => say!("{done}. Next: {next}"),
            several => say!("{several} letters: {done}. Next: {next}"),
        }
        Ok(if is_partial { Outcome::Partly } else { Outcome::Done })
    }
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
