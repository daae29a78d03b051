//! The pages of an admin port, as far as commands need them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_native::layout::{Layout, participant_names};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// A working admin port answers at once.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// A page as text.
pub(crate) async fn page(admin_url: &str, path: &str) -> Result<String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let ask = async {
        let answer = client.get(format!("{admin_url}{path}").parse()?).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(ANSWER_TIME_MAX, ask).await.context("no response in time")?
}

/// `/metrics` of each service of a stack that has dead letters; those that do not answer are left out. All are asked at once, so that
/// several that hang take no longer than one.
pub(crate) async fn metrics_of_participants(layout: &Layout) -> Vec<(&'static str, String)> {
    let pages = participant_names().map(|service| async move {
        let page = page(&layout.admin_url(service), "/metrics").await.ok()?;
        Some((service, page))
    });
    join_all(pages).await.into_iter().flatten().collect()
}
