//! The pages of an admin port, as far as commands need them.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use holdfast_native::layout::{Layout, participant_names};

/// A working admin port answers at once.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// `/metrics` of an admin port.
pub(crate) async fn metrics(admin_url: &str) -> Result<String> {
    holdfast_operator::admin::page(&format!("{admin_url}/metrics"), ANSWER_TIME_MAX).await
}

/// `/metrics` of each service of a stack that has dead letters; those that do not answer are left out. All are asked at once, so that
/// several that hang take no longer than one.
pub(crate) async fn metrics_of_participants(layout: &Layout) -> Vec<(&'static str, String)> {
    let pages = participant_names().map(|service| async move {
        let page = metrics(&layout.admin_url(service)).await.ok()?;
        Some((service, page))
    });
    join_all(pages).await.into_iter().flatten().collect()
}
