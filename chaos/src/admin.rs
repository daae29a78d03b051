//! A service's admin port, asked as a person would.

use anyhow::Result;
use http::Request;
use http_body_util::Full;

use crate::rest::{Answer, Rest};

/// One of its pages, such as `/readyz`; `url` is that of the admin port.
pub async fn page(rest: &Rest, url: &str, path: &str) -> Result<Answer> {
    rest.send(Request::get(format!("{url}{path}")).body(Full::default())?).await
}

/// The sum over all series of a metric whose line on the page of metrics has all of these parts.
#[must_use]
pub fn metric(page: &str, name: &str, parts: &[&str]) -> f64 {
    page.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A metric is summed over its series, and another one whose name begins alike is not.
    #[test]
    fn a_metric_is_summed() {
        let page = "# HELP x\nx_total{to=\"open\",a=\"1\"} 2\nx_total{to=\"open\",a=\"2\"} 3\nx_total{to=\"closed\"} 9\nx_total_more 7\n";
        assert!((metric(page, "x_total", &["to=\"open\""]) - 5.0).abs() < 0.1);
        assert!((metric(page, "x_total", &[]) - 14.0).abs() < 0.1);
        let page = "# TYPE parked gauge\nparked{topic=\"a} 7\",class=\"b\"} 2\nparked{topic=\"c\"} 3\nparked_total 9\nrows 4\n";
        for (name, sum) in [("parked", 5.0), ("rows", 4.0), ("absent", 0.0)] {
            assert!((metric(page, name, &[]) - sum).abs() < 0.1, "{name}");
        }
    }
}
