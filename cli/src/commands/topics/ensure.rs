//! `topics ensure`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_native::topics::{Replication, ensure_on};

use crate::output::{Outcome, say};

#[derive(Debug, Args)]
pub(crate) struct Ensure {
    /// Where the brokers are: host:port, or several separated by commas
    #[arg(long, env = "KAFKA_BROKERS", value_name = "BROKERS", value_parser = parse_brokers)]
    brokers: String,
    /// Brokers that have each topic
    #[arg(
        long,
        env = "HOLDFAST_TOPICS_REPLICATION_FACTOR",
        default_value_t = 1,
        value_name = "N",
        value_parser = clap::value_parser!(i32).range(1..)
    )]
    replication_factor: i32,
    /// Brokers that must have a record before it is acknowledged
    #[arg(
        long,
        env = "HOLDFAST_TOPICS_MIN_INSYNC_REPLICAS",
        default_value_t = 1,
        value_name = "N",
        value_parser = clap::value_parser!(i32).range(1..)
    )]
    min_insync_replicas: i32,
    /// How long to wait for the brokers: 30s, 2m
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
}

fn parse_brokers(text: &str) -> Result<String> {
    let has_port = |broker: &str| {
        broker
            .trim()
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    anyhow::ensure!(text.split(',').all(has_port), "must be host:port, or several separated by commas");
    Ok(text.to_owned())
}

impl Ensure {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let replication =
            Replication { factor: self.replication_factor, in_sync_min: self.min_insync_replicas };
        if replication.in_sync_min > replication.factor {
            say!(
                "--min-insync-replicas {} is more than --replication-factor {}",
                replication.in_sync_min,
                replication.factor
            );
            return Ok(Outcome::Usage);
        }
        ensure_on(&self.brokers, replication, self.wait).await?;
        say!("the topics are there");
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What names no broker is refused before anything is asked.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", " ", "kafka", "kafka:", ":9092", "kafka:9092,", "kafka:99999"] {
            assert!(parse_brokers(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_brokers("kafka-1:9092,kafka-2:9092").is_ok());
    }
}
