//! Apache Kafka: one node, KRaft.

use std::{os::unix::process::CommandExt as _, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use rdkafka::{admin::AdminClient, client::DefaultClientContext};

use crate::{
    artifacts::{Artifacts, run},
    environment::{self, unprivileged},
    files::{self, Owner},
    layout::{KAFKA, Layout},
    link::Link,
    removal,
    state::Lock,
    topics::{self, Replication},
};

const LOG4J: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="%d %p %m (%c)%n"/></Console>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"#;

/// Writes the configuration, and formats the storage once. The client of each link has a listener of its own: a client connects to
/// where the listener of its first connection says that the broker is.
pub(crate) fn prepare(layout: &Layout, lock: &Lock, artifacts: &Artifacts, links: &[Link]) -> Result<()> {
    let (folder, logs) = (layout.kafka_dir(), layout.kafka_log_dir());
    files::folder_of_components(&folder)?;
    files::write(&folder.join("log4j2.xml"), LOG4J.as_bytes(), Owner::Components)?;
    let (port, controller) = (layout.kafka_port(), layout.kafka_controller_port());
    let mut listeners = vec![format!("PLAINTEXT://127.0.0.1:{port}")];
    let mut advertised = listeners.clone();
    let mut protocols = vec!["PLAINTEXT:PLAINTEXT".to_owned(), "CONTROLLER:PLAINTEXT".to_owned()];
    listeners.push(format!("CONTROLLER://127.0.0.1:{controller}"));
    for link in links.iter().filter(|link| link.to == KAFKA) {
        let name = link.kafka_listener();
        listeners.push(format!("{name}://127.0.0.1:{}", link.target));
        advertised.push(format!("{name}://127.0.0.1:{}", link.listen));
        protocols.push(format!("{name}:PLAINTEXT"));
    }
    let properties = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={}
advertised.listeners={}
listener.security.protocol.map={}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
# The folder of this file: the properties of Java know no letters but those of Latin-1, and a comma separates two folders.
log.dirs=/proc/self/cwd/kafka/logs
# One node: nothing can be replicated. A machine that dies takes the topics with it; production has three.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# We create the topics, with their partitions; a misspelt name must not become one.
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# For clients of the newer group protocol (KIP-848), which ask the broker for these: as our own clients have them.
group.consumer.session.timeout.ms=10000
group.consumer.min.session.timeout.ms=6000
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.heartbeat.interval.ms=1000
# After kill -9 the controller waits for the dead session: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Memory and files of a developer's machine.
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
",
        listeners.join(","),
        advertised.join(","),
        protocols.join(","),
    );
    files::write(&layout.data_dir.join(PROPERTIES), properties.as_bytes(), Owner::Components)?;
    if logs.join("meta.properties").exists() {
        return Ok(());
    }
    remove_half(&logs)?;
    files::folder_of_components(&logs)?;
    run(java(layout, artifacts)?.stdin(lock.for_child()?).arg("kafka.tools.StorageTool").args([
        "format",
        "-t",
        "SG9sZGZhc3QtbmF0aXZlMQ",
        "-c",
        PROPERTIES,
    ]))
    .context("cannot format the storage of Kafka")
}

/// Removes what an interrupted start has left: files, for topics come later.
fn remove_half(logs: &Path) -> Result<()> {
    if let Some(topic) = removal::entries(logs)?.into_iter().find(|path| path.is_dir()) {
        bail!(
            "{} has no meta.properties, but there is {}: restore that file, or move the folder away",
            logs.display(),
            topic.display()
        );
    }
    // The folder itself may be the root of a disk, and stay.
    removal::remove(logs)
}

/// Below the working folder of every component, which is the stack's: so the broker finds it whatever the folder is called, and
/// whoever may go there.
const PROPERTIES: &str = "kafka/server.properties";

fn java(layout: &Layout, artifacts: &Artifacts) -> Result<Command> {
    let mut command = environment::command("java");
    command
        // Enough for development, and quick to start: a serial collector, and only the first compiler.
        .args(["-Xms96m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
        // Its counters for `jps` would take it out of its working folder, into which it can't return if it may not list it.
        .arg("-XX:-UsePerfData")
        .args(["-XX:ReservedCodeCacheSize=64m", "-XX:MaxMetaspaceSize=128m"])
        .arg("-Dlog4j2.configurationFile=kafka/log4j2.xml")
        // It is not used. It is there so that the process can be recognised as this stack's.
        .arg(format!("-Dholdfast.folder={}", layout.kafka_dir().display()))
        .arg("-cp")
        .arg(artifacts.jars.join("*"));
    if let Some((uid, gid)) = unprivileged()? {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// The command that starts the broker in the foreground.
pub(crate) fn command(layout: &Layout, artifacts: &Artifacts) -> Result<Command> {
    let mut command = java(layout, artifacts)?;
    command.arg("kafka.Kafka").arg(PROPERTIES);
    Ok(command)
}

const PROBE_TIME_MAX: Duration = Duration::from_millis(1500);

/// The supervisor's client of the broker.
pub(crate) struct Broker {
    admin: AdminClient<DefaultClientContext>,
}

impl Broker {
    pub(crate) fn new(layout: &Layout) -> Result<Self> {
        Ok(Self { admin: topics::client(&layout.kafka_brokers())? })
    }

    /// Whether it answers.
    pub(crate) fn is_ready(&self) -> bool {
        self.admin
            .inner()
            .fetch_metadata(None, PROBE_TIME_MAX)
            .is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    /// Creates the missing topics.
    pub(crate) async fn ensure_topics(&self) -> Result<()> {
        // One node: nothing can be replicated.
        topics::ensure(&self.admin, Replication { factor: 1, in_sync_min: 1 }).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Storage that was half formatted is formatted again; storage with topics never is.
    #[test]
    fn topics_are_not_formatted_away() {
        let logs = std::env::temp_dir().join(format!("holdfast-kafka-{}", std::process::id()));
        remove_half(&logs).expect("there is nothing");
        fs::create_dir_all(&logs).expect("created");
        fs::write(logs.join("bootstrap.checkpoint"), "half").expect("written");
        remove_half(&logs).expect("removed");
        assert!(!logs.exists());
        fs::create_dir_all(logs.join("order.created-0")).expect("created");
        let refused = remove_half(&logs).expect_err("refused").to_string();
        assert!(refused.contains("meta.properties") && refused.contains("order.created-0"), "{refused}");
        assert!(logs.join("order.created-0").exists());
        fs::remove_dir_all(logs).expect("gone");
    }
}
