//! The examination of orders, as commands take it: who can't be asked is said, and left out.

use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_native::layout::participant_names;
use holdfast_operator::examine::{self, Away, Examination, Orders, Scope};
use time::OffsetDateTime;

use crate::{output::say, services::Services};

/// An operator waits longer than a page: for several looks of a reader at the broker.
const VIEW_TIME_MAX: Duration = Duration::from_secs(15);

/// Examines orders, and the events of one writer or of all. An error if no service could be asked.
pub(crate) async fn examine(
    services: &Services,
    orders: Orders<'_>,
    writer: Option<&str>,
) -> Result<Examination> {
    let away = away().without(&services.all, participant_names());
    let scope = Scope { orders, writer, view_time_max: VIEW_TIME_MAX };
    let found = examine::examine(&services.all, &scope, away).await?;
    found.away.unless_all(&services.all)?;
    Ok(found)
}

/// Nobody yet; who is found to be, is said.
pub(crate) fn away() -> Away {
    Away::telling(|why| say!("not asked: {why}"))
}

/// All orders that are unfinished for longer than this.
pub(crate) fn unfinished(older_than: Duration) -> Result<Orders<'static>> {
    let age = time::Duration::try_from(older_than).ok();
    let before = age.and_then(|age| OffsetDateTime::now_utc().checked_sub(age));
    Ok(Orders::Unfinished { before: before.context("--older-than reaches back before all time")? })
}
