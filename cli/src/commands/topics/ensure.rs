//! `topics ensure`.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_native::{
    layout::Tls,
    topics::{Brokers, Grants, Replication, ensure_on},
};

use crate::output::{Outcome, say};

#[derive(Debug, Args)]
pub(crate) struct Ensure {
    /// Where the brokers are: host:port, or several separated by commas
    #[arg(long, env = "KAFKA_BROKERS", value_name = "BROKERS", value_parser = parse_brokers)]
    brokers: String,
    /// Whether connections to them are encrypted, and both ends show certificates; needs a program that scripts/kafka-tls.sh builds
    #[arg(long, env = "HOLDFAST_KAFKA_TLS", default_value = Tls::Off.name(), value_name = "on|off", value_parser = str::parse::<Tls>)]
    kafka_tls: Tls,
    /// With TLS: folder of a certificate that the brokers take for an administrator's (`tls.crt`, `tls.key`), and of their authority
    /// (`ca.crt`)
    #[arg(long, env = "HOLDFAST_IDENTITY_DIR", value_name = "DIR", required_if_eq("kafka_tls", "on"))]
    identity_dir: Option<PathBuf>,
    /// With TLS: leave who may do what as it is. Without this each service may do afterwards exactly what it must; entries for others
    /// stay
    #[arg(long)]
    keep_grants: bool,
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
        let brokers = self.brokers();
        ensure_on(brokers, replication, self.wait).await?;
        let says = brokers.identity_dir.is_some() && brokers.grants == Grants::Ensure;
        say!("the topics are there{}", if says { ", and each service may do what it must" } else { "" });
        Ok(Outcome::Done)
    }

    fn brokers(&self) -> Brokers<'_> {
        Brokers {
            addresses: &self.brokers,
            // The variable is for other commands too: without TLS it says nothing here.
            identity_dir: self.identity_dir.as_deref().filter(|_| self.kafka_tls == Tls::On),
            grants: if self.keep_grants { Grants::Keep } else { Grants::Ensure },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What names no broker is refused before anything is asked.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", " ", "kafka", "kafka:", ":9092", "kafka:9092,", "kafka:99999"] {
            assert!(parse_brokers(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_brokers("kafka-1:9092,kafka-2:9092").is_ok());
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        ensure: Ensure,
    }

    /// A certificate is shown where TLS is asked for, and nowhere else: the variable of its folder is set for other commands too. Without
    /// one there is no TLS.
    #[test]
    fn a_certificate_belongs_to_tls() {
        let line = |arguments: &[&str]| {
            let always = ["ensure", "--brokers", "kafka:9092"];
            <Line as clap::Parser>::try_parse_from([&always, arguments].concat()).map(|line| line.ensure)
        };
        let identity = ["--identity-dir", "/pki"];
        let without = line(&[&identity[..], &["--kafka-tls", "off"]].concat()).expect("right");
        assert_eq!(without.brokers().identity_dir, None);
        let with = line(&[&identity[..], &["--kafka-tls", "on"]].concat()).expect("right");
        assert_eq!(with.brokers().identity_dir, Some(Path::new("/pki")));
        assert_eq!(with.brokers().grants, Grants::Ensure);
        let kept = line(&[&identity[..], &["--kafka-tls", "on", "--keep-grants"]].concat()).expect("right");
        assert_eq!(kept.brokers().grants, Grants::Keep);
        assert!(line(&["--kafka-tls", "on"]).is_err());
    }
}
