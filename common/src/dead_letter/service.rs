//! `holdfast.ops.v1.DeadLetterService`: one implementation for all services. Its messages are checked and built in
//! [`super::messages`].

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};
use holdfast_proto::{
    ops::v1::{self as pb, dead_letter_service_server::DeadLetterService},
    to_timestamp,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Action, Edited, Filter, Letter, State,
    messages::{
        Change, Edit, Moved, actor, allowance_to_proto, entry_to_proto, header_to_proto, next_page,
        parse_edit, parse_filter, parse_id, parse_id_prefix, parse_moved, parse_page, parse_place,
        parse_reason, parse_skip, parse_state, parse_time, peer_of, positions_to_proto, redrive_to_proto,
        step_to_proto, summary_to_proto,
    },
    progress::{self, Cancelled, NotCancelled, Progress},
    redrive::{Exhausted, Mode, Redrive, RedriveError, Redriver},
    skip::{self, SkipError},
    store::{self, AuditFilter, Move},
};
use crate::{
    consumer::{
        Handler, PARKED_BYTES_MAX,
        group::Group,
        observer::ViewReceiver,
        positions,
        stops::{self, Allowance},
    },
    database::DatabaseError,
    deadline::Deadline,
    error::chain,
    event::Metadata,
    record::Record,
    trace::{TraceContext, within},
};

/// Steps that are buffered for a slow operator; beyond that the redrive waits.
const STEPS_MAX: usize = 64;

/// Letters of a list that are counted; more of them would be read for a number that nobody needs exactly.
const COUNTED_MAX: i64 = 10_000;

/// Entries of the audit that are shown with a letter, the latest ones; `ListDeadLetterAudit` has the rest.
const HISTORY_ENTRIES_MAX: i64 = 1_000;

/// How long the broker has to answer a caller that wants to know what it says now.
const LOOK_TIME_MAX: Duration = Duration::from_secs(1);

/// Serves the dead letters of one group.
pub struct DeadLetters<H: Handler> {
    group: Group<H>,
    view: ViewReceiver,
}

impl<H: Handler> DeadLetters<H> {
    /// The service of `group`; `view` is what its consumer sees of the broker.
    #[must_use]
    pub const fn new(group: Group<H>, view: ViewReceiver) -> Self {
        Self { group, view }
    }

    /// Moves letters, and writes that to the audit. Returns the ids of those that were moved.
    async fn move_letters(
        &self,
        which: Move,
        deadline: Deadline,
        change: Moved,
    ) -> Result<Vec<String>, Status> {
        let group = self.group.name;
        let moved: Result<Vec<Uuid>, DatabaseError> = self
            .group
            .database
            .transaction(which.name(), deadline, change, move |connection, change| {
                async move {
                    let moved = store::move_letters(connection, group, &change.ids, which).await?;
                    for id in &moved {
                        let Moved { actor, reason, .. } = &change;
                        store::audit(connection, group, actor, which.action(), Some(*id), reason).await?;
                    }
                    Ok(moved)
                }
                .boxed()
            })
            .await;
        Ok(moved?.iter().map(Uuid::to_string).collect())
    }
}

#[tonic::async_trait]
impl<H: Handler> DeadLetterService for DeadLetters<H> {
    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let state = parse_state(request.state)?;
        let place = parse_place(request.place, &request.topic)?;
        let filter = pb::DeadLetterFilter {
            ids: request.ids,
            topic: request.topic,
            class: request.class,
            subject: request.subject,
            since: request.since,
            until: request.until,
        };
        let range = parse_id_prefix(&request.id_prefix)?;
        let filter = Filter { state, range, place, ..parse_filter(filter)? };
        let (limit, after) = parse_page(request.page_size, &request.page_token)?;
        let (group, is_counted) = (self.group.name, request.count);
        let (mut letters, counted) = self
            .group
            .database
            .read(deadline, move |connection| {
                async move {
                    let letters = store::list(connection, group, &filter, after, limit + 1).await?;
                    let counted = if is_counted {
                        Some(store::count(connection, group, &filter, COUNTED_MAX).await?)
                    } else {
                        None
                    };
                    Ok((letters, counted))
                }
                .boxed()
            })
            .await?;
        let next = next_page(&mut letters, limit, |letter| letter.id);
        let dead_letters = letters.iter().map(|letter| summary_to_proto(letter, group)).collect();
        Ok(Response::new(pb::ListDeadLettersResponse {
            dead_letters,
            next_page_token: next,
            matching: counted.map(|counted| counted.min(COUNTED_MAX).unsigned_abs()),
            more_match: counted.is_some_and(|counted| counted > COUNTED_MAX),
        }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<pb::GetDeadLetterRequest>,
    ) -> Result<Response<pb::GetDeadLetterResponse>, Status> {
        let deadline = Deadline::of(&request);
        let id = parse_id("id", &request.into_inner().id)?;
        let group = self.group.name;
        let found = self
            .group
            .database
            .read(deadline, move |connection| {
                async move {
                    let letter = store::get(connection, group, id).await?;
                    let of_letter = AuditFilter { letter: Some(id), ..AuditFilter::default() };
                    let history =
                        store::audit_entries(connection, group, of_letter, None, HISTORY_ENTRIES_MAX).await?;
                    Ok(letter.map(|letter| (letter, history)))
                }
                .boxed()
            })
            .await?;
        let (letter, history) = found.ok_or_else(|| Status::not_found("no such dead letter"))?;
        let (record, mut message) = (&letter.record, summary_to_proto(&letter.summary(), group));
        message.key = record.key.as_ref().map(|key| key.to_vec());
        message.value = record.value.as_ref().map(|value| value.to_vec());
        message.headers = record.headers.iter().map(header_to_proto).collect();
        message.edited_key.clone_from(&letter.edited.key);
        message.edited_value.clone_from(&letter.edited.value);
        message.revision = letter.edited.revision();
        message.edited_headers = letter.edited.headers.iter().flatten().map(header_to_proto).collect();
        message.history = history.iter().rev().map(entry_to_proto).collect();
        Ok(Response::new(pb::GetDeadLetterResponse { dead_letter: Some(message) }))
    }

    type RedriveDeadLettersStream = BoxStream<'static, Result<pb::RedriveDeadLettersResponse, Status>>;

    async fn redrive_dead_letters(
        &self,
        request: Request<pb::RedriveDeadLettersRequest>,
    ) -> Result<Response<Self::RedriveDeadLettersStream>, Status> {
        let (peer, trace) = (peer_of(&request)?, TraceContext::of(request.metadata()));
        let request = request.into_inner();
        if !(request.rate_per_second.is_finite() && request.rate_per_second >= 0.0) {
            return Err(Status::invalid_argument("rate_per_second must be 0 or more"));
        }
        let id = match request.redrive_id.as_str() {
            "" => Uuid::now_v7(),
            id => parse_id("redrive_id", id)?,
        };
        let is_executed = request.mode() == pb::RedriveMode::Execute;
        let redrive = Redrive {
            // A dry run changes nothing, so nobody needs to follow it.
            id: is_executed.then_some(id),
            mode: match request.mode() {
                pb::RedriveMode::Execute => Mode::Execute,
                pb::RedriveMode::Unspecified | pb::RedriveMode::DryRun => Mode::DryRun,
            },
            rate_per_second: Some(request.rate_per_second).filter(|rate| *rate > 0.0),
            letters_max: Some(u64::from(request.letters_max)).filter(|most| *most > 0),
            exhausted: if request.force { Exhausted::RedriveToo } else { Exhausted::Refuse },
            actor: actor(&peer, &request.author)?,
            filter: parse_filter(request.filter.unwrap_or_default())?,
            trace,
        };
        let redriver = Redriver::new(self.group.clone());
        // A dry run changes nothing, so it may run beside a redrive.
        let lock = match redrive.mode {
            Mode::DryRun => None,
            Mode::Execute => Some(redriver.begin(&redrive).await?),
        };
        let (steps, receiver) = mpsc::channel(STEPS_MAX);
        let (failed, failure) = tokio::sync::oneshot::channel();
        let work = async move {
            let outcome = redriver.redrive(&redrive, &steps).await;
            // Released before the stream ends, so that a command that follows at once finds the lock free.
            if let Some(lock) = lock {
                redriver.end(lock, &redrive, &outcome).await;
            }
            if let Err(error) = outcome {
                if matches!(error, RedriveError::Cancelled(_)) {
                    tracing::info!(by = chain(&error), "redrive was cancelled");
                } else {
                    tracing::warn!(error = chain(&error), "redrive was interrupted");
                }
                // Fails if the operator is gone.
                let _ = failed.send(Status::from(error));
            }
        };
        tokio::spawn(within(trace, work));
        let failure = failure.into_stream().filter_map(async |failure| failure.ok().map(Err));
        let steps = ReceiverStream::new(receiver).map(|step| Ok(step_to_proto(step)));
        Ok(Response::new(steps.chain(failure).boxed()))
    }

    async fn list_redrives(
        &self,
        request: Request<pb::ListRedrivesRequest>,
    ) -> Result<Response<pb::ListRedrivesResponse>, Status> {
        let deadline = Deadline::of(&request);
        let (limit, _) = parse_page(request.into_inner().page_size, "")?;
        let group = self.group.name;
        let redrives = self
            .group
            .database
            .read(deadline, move |connection| progress::latest(connection, group, limit).boxed())
            .await?;
        let redrives = redrives.iter().map(redrive_to_proto).collect();
        Ok(Response::new(pb::ListRedrivesResponse { redrives }))
    }

    async fn cancel_redrive(
        &self,
        request: Request<pb::CancelRedriveRequest>,
    ) -> Result<Response<pb::CancelRedriveResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        let id = parse_id("id", &request.id)?;
        let actor = actor(&peer, &request.author)?;
        let group = self.group.name;
        let cancelled: Result<Result<Progress, NotCancelled>, DatabaseError> = self
            .group
            .database
            .transaction("dead_letter.cancel_redrive", deadline, actor, move |connection, actor| {
                async move {
                    let (cancelled, progress) = match progress::cancel(connection, group, id, &actor).await? {
                        Ok(done) => done,
                        Err(not) => return Ok(Err(not)),
                    };
                    if cancelled == Cancelled::Now {
                        let detail = format!("redrive {id}: {progress}");
                        store::audit(connection, group, &actor, Action::CancelRedrive, None, &detail).await?;
                    }
                    Ok(Ok(progress))
                }
                .boxed()
            })
            .await;
        match cancelled? {
            Ok(progress) => {
                Ok(Response::new(pb::CancelRedriveResponse { redrive: Some(redrive_to_proto(&progress)) }))
            }
            Err(NotCancelled::Unknown) => Err(Status::not_found("no such redrive")),
            Err(NotCancelled::Finished) => {
                Err(Status::failed_precondition("the redrive has done everything"))
            }
        }
    }

    async fn edit_dead_letter(
        &self,
        request: Request<pb::EditDeadLetterRequest>,
    ) -> Result<Response<pb::EditDeadLetterResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        let id = parse_id("id", &request.id)?;
        let reason = parse_reason(&request.reason)?;
        let actor = actor(&peer, &request.author)?;
        let input = (self.group.clone(), parse_edit(request)?, reason, actor);
        let edited: Result<(), EditError> = self
            .group
            .database
            .transaction(
                "dead_letter.edit",
                deadline,
                input,
                move |connection, (group, edit, reason, actor)| {
                    async move {
                        let letter =
                            store::lock(connection, group.name, id).await?.ok_or(EditError::Unknown)?;
                        let detail = detail_of(&edit, &reason);
                        let letter = edit_of(&group, letter, edit)?;
                        let record = letter.effective_record();
                        let subject = Metadata::subject_of(&record);
                        if !store::edit(connection, group.name, id, &letter.edited, subject).await? {
                            return Err(EditError::NotParked);
                        }
                        store::audit(connection, group.name, &actor, Action::Edit, Some(id), &detail).await?;
                        Ok(())
                    }
                    .boxed()
                },
            )
            .await;
        edited?;
        Ok(Response::new(pb::EditDeadLetterResponse {}))
    }

    async fn check_dead_letter_edit(
        &self,
        request: Request<pb::EditDeadLetterRequest>,
    ) -> Result<Response<pb::EditDeadLetterResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        let id = parse_id("id", &request.id)?;
        parse_reason(&request.reason)?;
        actor(&peer, &request.author)?;
        let edit = parse_edit(request)?;
        let group = self.group.name;
        let letter = self
            .group
            .database
            .read(deadline, move |connection| store::get(connection, group, id).boxed())
            .await?;
        edit_of(&self.group, letter.ok_or(EditError::Unknown)?, edit)?;
        Ok(Response::new(pb::EditDeadLetterResponse {}))
    }

    async fn discard_dead_letters(
        &self,
        request: Request<pb::DiscardDeadLettersRequest>,
    ) -> Result<Response<pb::DiscardDeadLettersResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        let change = parse_moved(&request.ids, &request.reason, &actor(&peer, &request.author)?)?;
        let discarded = self.move_letters(Move::Discard, deadline, change).await?;
        Ok(Response::new(pb::DiscardDeadLettersResponse { discarded }))
    }

    async fn restore_dead_letters(
        &self,
        request: Request<pb::RestoreDeadLettersRequest>,
    ) -> Result<Response<pb::RestoreDeadLettersResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        let change = parse_moved(&request.ids, &request.reason, &actor(&peer, &request.author)?)?;
        let restored = self.move_letters(Move::Restore, deadline, change).await?;
        Ok(Response::new(pb::RestoreDeadLettersResponse { restored }))
    }

    async fn resume_consumers(
        &self,
        request: Request<pb::ResumeConsumersRequest>,
    ) -> Result<Response<pb::ResumeConsumersResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        let reason = parse_reason(&request.reason)?;
        let actor = actor(&peer, &request.author)?;
        let allowance = i64::from(request.dead_letters_max);
        let group = self.group.name;
        let input = (reason, actor);
        let resumed: Result<u64, DatabaseError> = self
            .group
            .database
            .transaction("consumer.resume_all", deadline, input, move |connection, (reason, actor)| {
                async move {
                    let resumed = stops::resume(connection, group, allowance).await?;
                    if resumed > 0 {
                        let detail = resume_detail(&reason, allowance);
                        store::audit(connection, group, &actor, Action::Resume, None, &detail).await?;
                    }
                    Ok(resumed)
                }
                .boxed()
            })
            .await;
        match resumed? {
            0 => Err(Status::failed_precondition("no consumer of this service was stopped")),
            resumed => Ok(Response::new(pb::ResumeConsumersResponse { resumed })),
        }
    }

    async fn end_allowances(
        &self,
        request: Request<pb::EndAllowancesRequest>,
    ) -> Result<Response<pb::EndAllowancesResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let request = request.into_inner();
        let input = (parse_reason(&request.reason)?, actor(&peer, &request.author)?);
        let group = self.group.name;
        let ended: Result<Vec<Allowance>, DatabaseError> = self
            .group
            .database
            .transaction("consumer.end_allowances", deadline, input, move |connection, (reason, actor)| {
                async move {
                    let ended = stops::end_allowances(connection, group).await?;
                    for Allowance { allowed, used, .. } in &ended {
                        let detail = format!("{reason}: {used} of {allowed} were parked");
                        store::audit(connection, group, &actor, Action::EndAllowance, None, &detail).await?;
                    }
                    Ok(ended)
                }
                .boxed()
            })
            .await;
        let ended = ended?;
        if ended.is_empty() {
            return Err(Status::failed_precondition("no consumer of this service has an allowance left"));
        }
        let ended = ended.iter().map(allowance_to_proto).collect();
        Ok(Response::new(pb::EndAllowancesResponse { ended }))
    }

    async fn list_positions(
        &self,
        request: Request<pb::ListPositionsRequest>,
    ) -> Result<Response<pb::ListPositionsResponse>, Status> {
        let (group, deadline) = (self.group.name, Deadline::of(&request));
        // Before the positions are read: whoever is at an end that was seen then has read all that there was.
        let view = if request.get_ref().look_now {
            self.view.renewed(LOOK_TIME_MAX.min(deadline.remaining() / 2)).await
        } else {
            self.view.latest()
        };
        let tallies = self
            .group
            .database
            .read(deadline, move |connection| positions::tallies(connection, group).boxed())
            .await?;
        Ok(Response::new(positions_to_proto(tallies, view.as_deref())))
    }

    async fn skip_records(
        &self,
        request: Request<pb::SkipRecordsRequest>,
    ) -> Result<Response<pb::SkipRecordsResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let skip = parse_skip(request.into_inner(), &peer)?;
        let place = (skip.topic.clone(), skip.partition);
        let view = self.view.latest();
        let end = view.as_deref().and_then(|view| view.partitions.get(&place)).map(|partition| partition.end);
        let position = skip.offset + i64::from(skip.records);
        if end.is_none_or(|end| position > end) {
            return Err(Status::not_found("the partition has no such record, as far as the broker says"));
        }
        let id = skip::skip(&self.group.database, self.group.name, deadline, skip).await?;
        Ok(Response::new(pb::SkipRecordsResponse { dead_letter_id: id.to_string(), position }))
    }

    async fn get_dead_letter_stats(
        &self,
        request: Request<pb::GetDeadLetterStatsRequest>,
    ) -> Result<Response<pb::GetDeadLetterStatsResponse>, Status> {
        let group = self.group.name;
        let (stats, stops, allowances) = self
            .group
            .database
            .read(Deadline::of(&request), move |connection| {
                async move {
                    Ok((
                        store::stats(connection, group).await?,
                        stops::stopped_consumers(connection, group).await?,
                        stops::allowances(connection, group).await?,
                    ))
                }
                .boxed()
            })
            .await?;
        let stats = stats
            .into_iter()
            .map(|stats| pb::DeadLetterStats {
                topic: stats.topic,
                class: stats.class,
                parked: stats.parked.unsigned_abs(),
                oldest_parked_at: Some(to_timestamp(stats.oldest_parked_at)),
            })
            .collect();
        let stops = stops.into_iter().map(|stop| pb::ConsumerStop {
            reason: stop.reason,
            stopped_at: Some(to_timestamp(stop.stopped_at)),
        });
        let allowances = allowances.iter().map(allowance_to_proto).collect();
        Ok(Response::new(pb::GetDeadLetterStatsResponse { stats, stops: stops.collect(), allowances }))
    }

    async fn list_dead_letter_audit(
        &self,
        request: Request<pb::ListDeadLetterAuditRequest>,
    ) -> Result<Response<pb::ListDeadLetterAuditResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let letter = match request.dead_letter_id.as_str() {
            "" => None,
            id => Some(parse_id("dead_letter_id", id)?),
        };
        let since = parse_time("since", request.since.as_ref())?;
        let until = parse_time("until", request.until.as_ref())?;
        let filter = AuditFilter { letter, since, until };
        let (limit, before) = parse_page(request.page_size, &request.page_token)?;
        let group = self.group.name;
        let mut entries = self
            .group
            .database
            .read(deadline, move |connection| {
                store::audit_entries(connection, group, filter, before, limit + 1).boxed()
            })
            .await?;
        let next_page_token = next_page(&mut entries, limit, |entry| entry.id);
        let entries = entries.iter().map(entry_to_proto).collect();
        Ok(Response::new(pb::ListDeadLetterAuditResponse { entries, next_page_token }))
    }
}

/// Of a resumption: the reason, and how many dead letters that allows.
fn resume_detail(reason: &str, allowance: i64) -> String {
    if allowance == 0 {
        return reason.to_owned();
    }
    format!("{reason}: {allowance} more may be parked")
}

/// What the audit says of an edit, beside who made it.
fn detail_of(edit: &Edit, reason: &str) -> String {
    match &edit.what {
        Change::Replace(edited) => format!("{reason}: {}", edited.parts()),
        Change::Revert => format!("reverted: {reason}"),
    }
}

/// The letter with an edit, if that is one which the service takes.
fn edit_of<H: Handler>(group: &Group<H>, mut letter: Letter, edit: Edit) -> Result<Letter, EditError> {
    if letter.state != State::Parked {
        return Err(EditError::NotParked);
    }
    if edit.based_on.is_some_and(|based_on| based_on != letter.edited.revision()) {
        return Err(EditError::Changed);
    }
    match edit.what {
        Change::Replace(edited) => {
            letter.edit(edited);
            must_be_handled(group, &letter.effective_record())?;
        }
        // What was received is kept whatever it is.
        Change::Revert => letter.edited = Edited::default(),
    }
    Ok(letter)
}

/// What could not be kept, or not be handled, is refused at once, while the operator is looking.
fn must_be_handled<H: Handler>(group: &Group<H>, record: &Record) -> Result<(), EditError> {
    // It is kept, shown and handled like a record that was parked.
    let size = record.size_bytes();
    if size > PARKED_BYTES_MAX {
        return Err(EditError::Refused(format!(
            "it would have {size} bytes, and at most {PARKED_BYTES_MAX} are kept"
        )));
    }
    group.check(record).map(drop).map_err(|poison| EditError::Refused(poison.reason().to_owned()))
}

/// Why a letter was not edited.
enum EditError {
    Unknown,
    NotParked,
    Changed,
    Refused(String),
    Database(DatabaseError),
}

impl From<DatabaseError> for EditError {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

impl crate::database::Conflicting for EditError {
    fn database_error(&self) -> Option<&DatabaseError> {
        if let Self::Database(error) = self { Some(error) } else { None }
    }
}

impl From<EditError> for Status {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Unknown => Self::not_found("no such dead letter"),
            EditError::NotParked => Self::failed_precondition("the dead letter is not parked"),
            EditError::Changed => Self::aborted("somebody else has edited the dead letter meanwhile"),
            EditError::Refused(reason) => {
                Self::invalid_argument(format!("the result cannot be handled: {reason}"))
            }
            EditError::Database(error) => error.into(),
        }
    }
}

impl From<SkipError> for Status {
    fn from(error: SkipError) -> Self {
        match error {
            SkipError::Position { .. } => Self::failed_precondition(error.to_string()),
            SkipError::Database(error) => error.into(),
        }
    }
}

impl From<RedriveError> for Status {
    fn from(error: RedriveError) -> Self {
        match error {
            RedriveError::Running(_) => Self::failed_precondition(error.to_string()),
            RedriveError::Cancelled(_) => Self::aborted(error.to_string()),
            RedriveError::Database(error) => error.into(),
        }
    }
}
