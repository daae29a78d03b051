//! Apache Kafka: one node, KRaft. With TLS everybody shows a certificate, and may do what [`access`] says.

pub(crate) mod access;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_proto::text::kafka_in_words;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, OwnedResourceSpecifier, ResourceSpecifier},
    client::DefaultClientContext,
    error::KafkaError,
};
use uuid::Uuid;

use crate::{
    artifacts::{Artifacts, run},
    certificates,
    environment::{self, unprivileged},
    files::{self, Owner},
    layout::{KAFKA, Layout, OPERATOR, Tls},
    link::Link,
    removal,
    state::Lock,
    topics::{self, Replication},
};

/// Whether programs of this build can talk to a broker with TLS.
pub const CAN_ENCRYPT: bool = cfg!(feature = "kafka-tls");
/// The only node.
const NODE: i32 = 1;

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
    files::folder_of(Owner::Components, &folder)?;
    files::write(&folder.join("log4j2.xml"), LOG4J.as_bytes(), Owner::Components)?;
    let (port, controller) = (layout.kafka_port(), layout.kafka_controller_port());
    let (protocol, of_controller) = match layout.kafka_tls() {
        Tls::Off => ("PLAINTEXT", "PLAINTEXT"),
        Tls::On => ("SSL", "SASL_PLAINTEXT"),
    };
    let mut listeners = vec![format!("{protocol}://127.0.0.1:{port}")];
    let mut advertised = listeners.clone();
    let mut protocols = vec![format!("{protocol}:{protocol}"), format!("CONTROLLER:{of_controller}")];
    listeners.push(format!("CONTROLLER://127.0.0.1:{controller}"));
    for link in links.iter().filter(|link| link.to == KAFKA) {
        let name = link.kafka_listener();
        listeners.push(format!("{name}://127.0.0.1:{}", link.target));
        advertised.push(format!("{name}://127.0.0.1:{}", link.listen));
        protocols.push(format!("{name}:{protocol}"));
    }
    let properties = format!(
        "process.roles=broker,controller
node.id={NODE}
controller.quorum.voters={NODE}@127.0.0.1:{controller}
listeners={}
advertised.listeners={}
listener.security.protocol.map={}
controller.listener.names=CONTROLLER
inter.broker.listener.name={protocol}
# The folder of this file: the properties of Java know no letters but those of Latin-1, and a comma separates two folders.
log.dirs={FOLDER}/logs
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
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
{}",
        listeners.join(","),
        advertised.join(","),
        protocols.join(","),
        match layout.kafka_tls() {
            Tls::Off => "num.network.threads=2\n".to_owned(),
            Tls::On => tls_properties(),
        }
    );
    files::write(&layout.data_dir.join(PROPERTIES), properties.as_bytes(), Owner::Components)?;
    if logs.join("meta.properties").exists() {
        return Ok(());
    }
    remove_half(&logs)?;
    files::folder_of(Owner::Components, &logs)?;
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
/// Its folder, as the broker names it in its settings: absolute, but by the working folder too.
const FOLDER: &str = "/proc/self/cwd/kafka";

/// Who gets in, and what they may do. The controller's listener is where the node talks to itself: it has a password instead of
/// certificates, which a controller would not read again without a restart (KAFKA-20583).
fn tls_properties() -> String {
    let password = Uuid::new_v4().simple();
    let [keystore, truststore] = KEYSTORES;
    format!(
        "ssl.client.auth=required
ssl.enabled.protocols=TLSv1.3
ssl.protocol=TLSv1.3
ssl.keystore.type=PEM
ssl.keystore.location={FOLDER}/{keystore}
ssl.truststore.type=PEM
ssl.truststore.location={FOLDER}/{truststore}
# Each thread of a listener reads renewed files by itself: with one, what a listener shows is what all of it does.
num.network.threads=1
# The name of an identity; a certificate that has no such name gets in nowhere.
ssl.principal.mapping.rules=RULE:^CN=([a-z0-9-]+)$/$1/
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{KAFKA};User:{OPERATOR}
sasl.mechanism.controller.protocol=PLAIN
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required username=\"{KAFKA}\" password=\"{password}\" user_{KAFKA}=\"{password}\";
"
    )
}

/// Key and certificate in one file, so that they are never read apart; and whose certificates the broker accepts.
const KEYSTORES: [&str; 2] = ["tls.pem", "ca.crt"];

/// The same for us.
pub(crate) fn keystores(layout: &Layout) -> [PathBuf; 2] {
    KEYSTORES.map(|name| layout.kafka_dir().join(name))
}

/// Names and values of librdkafka.
type ClientSettings = Vec<(&'static str, String)>;

/// A client of this stack's broker, as the operator where it has to show who it is.
pub fn client(layout: &Layout) -> Result<ClientConfig> {
    Ok(with(&settings(layout)?))
}

fn settings(layout: &Layout) -> Result<ClientSettings> {
    match layout.kafka_tls() {
        Tls::Off => Ok(vec![("bootstrap.servers", layout.kafka_brokers())]),
        Tls::On => settings_of(layout.kafka_brokers(), &layout.pki_dir().join(OPERATOR)),
    }
}

/// A client that encrypts, shows the certificate in `identity`, and verifies the broker's, whose stack must have TLS.
pub fn client_of(layout: &Layout, identity: &Path) -> Result<ClientConfig> {
    client_at(layout.kafka_brokers(), identity)
}

/// The same of brokers anywhere: `host:port`, several separated by commas.
pub(crate) fn client_at(brokers: String, identity: &Path) -> Result<ClientConfig> {
    Ok(with(&settings_of(brokers, identity)?))
}

fn settings_of(brokers: String, identity: &Path) -> Result<ClientSettings> {
    ensure!(CAN_ENCRYPT, "{NOT_BUILT}");
    let mut settings = vec![("bootstrap.servers", brokers), ("security.protocol", "ssl".to_owned())];
    for (setting, file) in
        [("ssl.certificate.pem", "tls.crt"), ("ssl.key.pem", "tls.key"), ("ssl.ca.pem", "ca.crt")]
    {
        let path = identity.join(file);
        let pem = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        settings.push((setting, pem));
    }
    Ok(settings)
}

fn with(settings: &ClientSettings) -> ClientConfig {
    let mut client = ClientConfig::new();
    for (setting, value) in settings {
        client.set(*setting, value);
    }
    client
}

/// Why a stack with TLS to its broker is out of reach.
pub const NOT_BUILT: &str =
    "this program was built without TLS to Kafka: scripts/kafka-tls.sh builds one that has it";

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
    if layout.kafka_tls() == Tls::On {
        certificates::copy_for_broker(layout)?;
        // It reads them at its start.
        certificates::are_read(&layout.kafka_dir())?;
    }
    let mut command = java(layout, artifacts)?;
    command.arg("kafka.Kafka").arg(PROPERTIES);
    Ok(command)
}

const PROBE_TIME_MAX: Duration = Duration::from_millis(1500);

const ALTER_TIME_MAX: Duration = Duration::from_secs(10);

type Admin = AdminClient<DefaultClientContext>;

/// The supervisor's client of the broker.
pub(crate) struct Broker {
    layout: Layout,
    /// The names of its listeners with certificates.
    listeners: Vec<String>,
    /// With what it was made of: a certificate that was renewed means another client.
    client: Mutex<Option<(ClientSettings, Arc<Admin>)>>,
}

impl Broker {
    /// `links` are needed by whoever has it read its certificates.
    pub(crate) fn new(layout: &Layout, links: &[Link]) -> Self {
        let names = links.iter().filter(|link| link.to == KAFKA).map(Link::kafka_listener);
        let listeners = ["SSL".to_owned()].into_iter().chain(names).collect();
        Self { layout: layout.clone(), listeners, client: Mutex::default() }
    }

    fn client(&self) -> Result<Arc<Admin>> {
        let settings = settings(&self.layout)?;
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_of, client)) = &*current
            && *made_of == settings
        {
            return Ok(client.clone());
        }
        let client: Arc<Admin> = Arc::new(topics::administering(with(&settings)).create()?);
        *current = Some((settings, client.clone()));
        Ok(client)
    }

    /// Fails if it does not answer. Blocks.
    pub(crate) fn answers(&self) -> Result<()> {
        let metadata = self.client()?.inner().fetch_metadata(None, PROBE_TIME_MAX).map_err(in_words)?;
        ensure!(!metadata.brokers().is_empty(), "it names no broker");
        Ok(())
    }

    /// Creates the missing topics, and says who may do what.
    pub(crate) async fn ensure_topics(&self) -> Result<()> {
        // One node: nothing can be replicated.
        topics::ensure(&*self.client()?, Replication { factor: 1, in_sync_min: 1 }).await?;
        match self.layout.kafka_tls() {
            Tls::Off => Ok(()),
            Tls::On => access::ensure_grants(&self.layout).await.context("cannot say who may do what"),
        }
    }

    /// Has it read its certificates again: it does when it is told the names of the files, even if they are the same. It checks
    /// that they fit together, and keeps what it has if they don't. What it was told is taken back at once: it keeps such settings, and
    /// those of its file are to count at its next start.
    pub(crate) async fn read_certificates(&self) -> Result<()> {
        let [keystore, truststore] = KEYSTORES;
        let mut told = AlterConfig::new(ResourceSpecifier::Broker(NODE));
        let settings: Vec<(String, String)> = self
            .listeners
            .iter()
            .map(|name| format!("listener.name.{}", name.to_lowercase()))
            .flat_map(|prefix| {
                let file =
                    |setting: &str, name: &str| (format!("{prefix}.{setting}"), format!("{FOLDER}/{name}"));
                [file("ssl.keystore.location", keystore), file("ssl.truststore.location", truststore)]
            })
            .collect();
        for (setting, value) in &settings {
            told = told.set(setting, value);
        }
        let client = self.client()?;
        for change in [told, AlterConfig::new(ResourceSpecifier::Broker(NODE))] {
            let options = AdminOptions::new().request_timeout(Some(ALTER_TIME_MAX));
            for done in client.alter_configs(&[change], &options).await? {
                done.map_err(|(_, error): (OwnedResourceSpecifier, _)| error)
                    .context("the broker does not take its new certificate; its log says why")?;
            }
        }
        Ok(())
    }
}

/// What a client says, for people.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn in_words(error: KafkaError) -> anyhow::Error {
    let code = error.rdkafka_error_code().map(|code| code.to_string());
    anyhow::anyhow!(kafka_in_words(&error.to_string(), code.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stack with TLS has no listener without, nobody gets in without a certificate, no service is a superuser, and what nobody
    /// was granted is forbidden. A listener has one thread, so that whoever asks what it shows is told of all of it.
    #[test]
    fn nobody_comes_without_a_certificate() {
        let text = tls_properties();
        for line in [
            "ssl.client.auth=required",
            "num.network.threads=1",
            "allow.everyone.if.no.acl.found=false",
            "super.users=User:kafka;User:operator",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        for service in crate::layout::service_names() {
            assert!(!text.contains(&format!("User:{service};")), "{service}");
        }
    }

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
