//! The topics and their settings: the one table, for the native stack and for any other broker.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use holdfast_proto::{text::kafka_in_words, topic};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode,
};

use crate::kafka::{CAN_ENCRYPT, NOT_BUILT, access, client_at, in_words};

/// Partitions of each topic: enough for several replicas of a service to share the work, with few open files.
const PARTITIONS: i32 = 4;
const DEAD_LETTER_RETENTION_MS: &str = "2592000000";
/// The broker's default.
const EVENT_BYTES_MAX: &str = "1048588";
const CREATE_TIME_MAX: Duration = Duration::from_secs(10);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// On how many brokers a topic is.
#[derive(Debug, Clone, Copy)]
pub struct Replication {
    /// That have it.
    pub factor: i32,
    /// Of these, that must have a record before it is acknowledged.
    pub in_sync_min: i32,
}

/// The settings of a client that administers brokers.
pub(crate) fn administering(mut client: ClientConfig) -> ClientConfig {
    client.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "300").set("log_level", "2");
    client
}

/// Brokers that are not the native stack's.
#[derive(Debug, Clone, Copy)]
pub struct Brokers<'a> {
    /// `host:port`, several separated by commas.
    pub addresses: &'a str,
    /// Folder of a certificate that they take for an administrator's (`tls.crt`, `tls.key`), and of their authority (`ca.crt`). Without it
    /// they are reached without TLS.
    pub identity_dir: Option<&'a Path>,
    /// What becomes of their list of who may do what, with TLS.
    pub grants: Grants,
}

/// Whether services get what they may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grants {
    /// Each exactly what [`topic::grants`] says. Entries for others stay.
    Ensure,
    /// All entries stay as they are.
    Keep,
}

/// Creates the topics that are missing on these brokers, says who may do what, and waits for the brokers if they don't answer yet. A
/// topic that exists stays as it is.
pub async fn ensure_on(brokers: Brokers<'_>, replication: Replication, wait: Duration) -> Result<()> {
    if brokers.identity_dir.is_some() && !CAN_ENCRYPT {
        bail!("{NOT_BUILT}");
    }
    let until = Instant::now() + wait;
    loop {
        match ensure_once(brokers, replication).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= until => {
                return Err(error)
                    .with_context(|| format!("the brokers at {} are not ready", brokers.addresses));
            }
            Err(_) => tokio::time::sleep(TRY_AGAIN_AFTER).await,
        }
    }
}

/// With what is in the files now: they may have been renewed since the last attempt.
async fn ensure_once(brokers: Brokers<'_>, replication: Replication) -> Result<()> {
    let Brokers { addresses, identity_dir, grants } = brokers;
    let client = if let Some(identity) = identity_dir {
        client_at(addresses.to_owned(), identity)?
    } else {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", addresses);
        client
    };
    let client = administering(client).create().with_context(|| format!("{addresses:?} are no brokers"))?;
    ensure(&client, replication).await?;
    match (grants, identity_dir) {
        (Grants::Ensure, Some(identity)) => {
            access::ensure_grants_at(addresses, identity).await.context("cannot say who may do what")
        }
        _ => Ok(()),
    }
}

/// Creates the topics that are missing.
pub(crate) async fn ensure(
    client: &AdminClient<DefaultClientContext>,
    replication: Replication,
) -> Result<()> {
    let mut names = Vec::new();
    for topic in topic::EVENT_TOPICS {
        let retention_ms = topic::EVENT_RETENTION.as_millis().to_string();
        names.push((topic.to_owned(), retention_ms, EVENT_BYTES_MAX.to_owned()));
    }
    for (topic, group) in topic::READINGS {
        let retention_ms = DEAD_LETTER_RETENTION_MS.to_owned();
        names.push((topic::dead_letters_of(topic, group), retention_ms, topic::RECORD_BYTES_MAX.to_string()));
    }
    let in_sync_min = replication.in_sync_min.to_string();
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|(name, retention_ms, bytes_max)| {
            NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(replication.factor))
                .set("retention.ms", retention_ms)
                .set("max.message.bytes", bytes_max)
                .set("min.insync.replicas", &in_sync_min)
        })
        .collect();
    let options =
        AdminOptions::new().request_timeout(Some(CREATE_TIME_MAX)).operation_timeout(Some(CREATE_TIME_MAX));
    for result in client.create_topics(&topics, &options).await.map_err(in_words)? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let code = code.to_string();
                bail!("cannot create the topic {topic}: {}", kafka_in_words(&code, Some(&code)))
            }
        }
    }
    Ok(())
}
