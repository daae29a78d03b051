//! The pages of an admin port: readiness, metrics.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// Of a page of metrics: far more than a service has.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A page as text, such as `http://127.0.0.1:9101/readyz`; a page of "not ready" is one, too. An error if it has not come in this time.
pub async fn page(url: &str, time_max: Duration) -> Result<String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let ask = async {
        let answer = client.get(url.parse()?).await?;
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(time_max, ask).await.context("no response in time")?
}
