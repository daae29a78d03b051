//! The pages of an admin port, as far as commands need them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
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

/// The sum over all series of a metric on a page of `/metrics`; `None` if it has none.
pub(crate) fn sum(page: &str, metric: &str) -> Option<f64> {
    let of_series = |line: &str| {
        let rest = line.strip_prefix(metric)?;
        let value = if rest.starts_with('{') { rest.rsplit_once("} ")?.1 } else { rest.strip_prefix(' ')? };
        value.trim().parse::<f64>().ok()
    };
    page.lines().filter_map(of_series).reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All series of a metric are summed up, and none of another.
    #[test]
    fn series_are_summed_up() {
        let page = "# TYPE parked gauge\nparked{topic=\"a} 7\",class=\"b\"} 2\nparked{topic=\"c\"} 3\nparked_total 9\nrows 4\n";
        assert_eq!(sum(page, "parked"), Some(5.0));
        assert_eq!(sum(page, "rows"), Some(4.0));
        assert_eq!(sum(page, "absent"), None);
    }
}
