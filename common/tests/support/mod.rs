//! A database and topics of each test's own on the real servers, and a small business handler to use them.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(missing_docs, unreachable_pub, reason = "not a public interface")]

use std::{
    io::{Seek as _, SeekFrom, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt as _;
use holdfast_common::{
    config::{DatabaseConfig, DatabaseTlsConfig, KafkaConfig, KafkaTlsConfig},
    consumer::{
        Accepted, Answer, Class, Handler, Poison,
        batch::Processor,
        group::Group,
        observer::ViewReceiver,
        runtime::{PlantedFault, Runtime},
    },
    database::{BACKGROUND_TIME_MAX, Database, DatabaseError, TransactionStep, after_commit},
    dead_letter::{redrive::Redriver, service::DeadLetters},
    deadline::Deadline,
    error::BoxError,
    event::{Metadata, NewEvent},
    health::Health,
    identity::{Peer, SpiffeId},
    kafka::{Brokers, QuietContext},
    outbox::{
        self, OutboxRecord,
        publisher::{Client, Publisher},
        relay::Relay,
    },
    record::Record,
};
use holdfast_testkit::stack as testkit;
pub use holdfast_testkit::{PATIENCE, eventually};
use rdkafka::{
    ClientConfig, Message as _,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer as _},
    message::OwnedHeaders,
    producer::{FutureProducer, FutureRecord},
};
use sqlx::{
    Connection as _, PgConnection, Row as _, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use uuid::Uuid;

/// Of the pool of each lab.
pub const CONNECTIONS_MAX: u32 = 5;

/// What a test works in. The name is part of the topic's and of the group's, so that tests run side by side.
pub struct Lab {
    pub database: Database,
    pub database_config: DatabaseConfig,
    pub kafka: KafkaConfig,
    pub topic: &'static str,
    pub group: &'static str,
    pub health: Health,
}

/// Something that runs beside a test.
pub struct Task {
    stop: CancellationToken,
    task: JoinHandle<Result<(), BoxError>>,
}

impl Task {
    /// Asks it to stop, and waits until it has.
    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("ends when asked to");
    }

    /// Kills it.
    pub async fn kill(self) {
        self.task.abort();
        // The error is that it was cancelled.
        let _ = self.task.await;
    }
}

impl Lab {
    pub async fn new(name: &str) -> Self {
        let stack = testkit::infrastructure();
        let id = Uuid::now_v7().simple().to_string();
        let topic: &'static str = format!("test.{name}.{id}").leak();
        let group: &'static str = format!("group-{name}-{id}").leak();
        let database_name = format!("test_{id}");
        let url = stack.database_url("order");
        let mut admin = PgConnection::connect(&url).await.expect("the server is ready");
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {database_name}")))
            .execute(&mut admin)
            .await
            .expect("a database of one's own");
        let config = DatabaseConfig {
            url: stack.database_url_of("order", &database_name).into(),
            password: None,
            password_file: None,
            direct_url: None,
            owner_url: None,
            owner_password_file: None,
            migrate: true,
            tls: DatabaseTlsConfig::default(),
            connections_max: CONNECTIONS_MAX,
        };
        let database = Database::new(&config).expect("a URL");
        database.migrate(&business()).await.expect("migrated");
        let kafka = KafkaConfig {
            brokers: stack.layout.kafka_brokers(),
            instance_id: None,
            batch_events_max: 100,
            dead_letters_in_a_row_max: 100,
            dead_letter_share_max: 0.5,
            dead_letter_pause: Duration::from_secs(10),
            tls: KafkaTlsConfig::default(),
        };
        let lab = Self { database, database_config: config, kafka, topic, group, health: Health::default() };
        lab.create_topic(topic).await;
        lab
    }

    pub fn brokers(&self) -> Brokers {
        Brokers::without_tls(&self.kafka)
    }

    /// The client of a relay, at other brokers.
    pub fn producer_at(&self, brokers: String) -> Client {
        let brokers = Brokers::without_tls(&KafkaConfig { brokers, ..self.kafka.clone() });
        brokers.producer(QuietContext::default()).expect("a producer")
    }

    pub async fn create_topic(&self, name: &str) {
        let admin = self.admin();
        let topic = NewTopic::new(name, 2, TopicReplication::Fixed(1));
        let made = admin.create_topics([&topic], &AdminOptions::new()).await.expect("the broker answers");
        for made in made {
            made.expect("created");
        }
    }

    pub async fn delete_topic(&self, name: &str) {
        let admin = self.admin();
        let gone = admin.delete_topics(&[name], &AdminOptions::new()).await.expect("the broker answers");
        for gone in gone {
            gone.expect("deleted");
        }
    }

    /// A member of the group that does nothing by itself. One that isn't polled keeps the others waiting for some
    /// seconds at each rebalance. Returns once it has partitions.
    pub async fn raw_member(&self, instance: Option<&str>) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.kafka.brokers)
            .set("group.id", self.group)
            .set("enable.auto.commit", "false")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "6000")
            .set("max.poll.interval.ms", "6000");
        if let Some(instance) = instance {
            config.set("group.instance.id", format!("{}-{instance}", self.group));
        }
        let join = || {
            let consumer: BaseConsumer = config.create().expect("a consumer");
            consumer.subscribe(&[self.topic]).expect("subscribed");
            consumer
        };
        let (mut consumer, until) = (join(), tokio::time::Instant::now() + PATIENCE);
        loop {
            // It doesn't matter what it reads: it never commits.
            let _ = consumer.poll(Duration::from_millis(100));
            if consumer.assignment().is_ok_and(|list| list.count() > 0) {
                return consumer;
            }
            assert!(tokio::time::Instant::now() < until, "it never gets partitions");
            // Whose place it took may have come back and taken it again before it had partitions: that ends a client.
            if consumer.client().fatal_error().is_some() {
                consumer = join();
            }
            tokio::task::yield_now().await;
        }
    }

    /// How many records of the topic the group has committed.
    pub fn committed(&self) -> i64 {
        let observer = self.brokers().observer(self.group, QuietContext::default()).expect("a client");
        let mut places = rdkafka::TopicPartitionList::new();
        for partition in 0..2 {
            places.add_partition(self.topic, partition);
        }
        let committed = observer.committed_offsets(places, PATIENCE).expect("the broker answers");
        let offsets =
            committed.elements().into_iter().map(|place| place.offset().to_raw().unwrap_or(0).max(0));
        offsets.sum()
    }

    /// Takes the database away, or gives it back.
    pub async fn accept_connections(&self, accept: bool) {
        let name = self.database.pool().connect_options().get_database().expect("named").to_owned();
        let mut admin =
            PgConnection::connect(&testkit::infrastructure().database_url("order")).await.expect("connected");
        for sql in [
            format!("alter database {name} with allow_connections {accept}"),
            format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where not {accept} and datname = '{name}'"
            ),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut admin).await.expect("done");
        }
    }

    pub fn relay(&self) -> Relay {
        self.relay_of(&self.database)
    }

    pub fn relay_of(&self, database: &Database) -> Relay {
        let publisher = Publisher::new(&self.brokers()).expect("a producer");
        Relay::new(database.clone(), publisher, self.health.component("outbox"))
    }

    /// The pool of another process with the same database.
    pub async fn other_process(&self) -> Database {
        let database = Database::new(&self.database_config).expect("a URL");
        database.migrate(&business()).await.expect("migrated");
        database
    }

    /// A relay that publishes what is written, until it is asked to end.
    pub fn start_relay(&self) -> Task {
        let stop = CancellationToken::new();
        let relay = self.relay().run(stop.clone());
        let task = tokio::spawn(async {
            relay.await;
            Ok(())
        });
        Task { stop, task }
    }

    /// A consumer that reads the topic, until it is asked to end.
    pub fn start_consumer(&self) -> Task {
        let (_, no_faults) = mpsc::channel(1);
        self.start_faulty_consumer(no_faults)
    }

    /// A consumer with these injected faults.
    pub fn start_faulty_consumer(&self, faults: mpsc::Receiver<PlantedFault>) -> Task {
        self.start_member(&self.health, faults)
    }

    /// One of several, which reports to a health of its own.
    pub fn start_member(&self, health: &Health, faults: mpsc::Receiver<PlantedFault>) -> Task {
        let stop = CancellationToken::new();
        let runtime = Runtime::new(&self.brokers(), &[self.topic], self.processor(), health);
        Task { task: tokio::spawn(runtime.with_faults(faults).run(stop.clone())), stop }
    }

    pub fn admin(&self) -> AdminClient<rdkafka::client::DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.kafka.brokers).create().expect("a client")
    }

    /// Sends a record as any client could, with these producer settings.
    pub async fn send(&self, partition: i32, record: &Record, settings: &[(&str, &str)]) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka.brokers);
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer: FutureProducer = config.create().expect("a producer");
        let mut headers = OwnedHeaders::new();
        for header in &record.headers {
            headers = headers
                .insert(rdkafka::message::Header { key: &header.name, value: header.value.as_deref() });
        }
        let mut sent = FutureRecord::<[u8], [u8]>::to(&record.topic).partition(partition).headers(headers);
        sent.key = record.key.as_deref();
        sent.payload = record.value.as_deref();
        producer.send(sent, PATIENCE).await.expect("acknowledged");
    }

    /// Breaks the batch at this offset of partition 0 on the broker's disk: its codec becomes one that does not exist.
    /// (Kafka's record format: offset 8 bytes, length 4, leader epoch 4, magic 1, checksum 4, attributes 2.)
    pub fn break_batch(&self, offset: i64) {
        let folder = testkit::infrastructure().layout.kafka_dir().join(format!("logs/{}-0", self.topic));
        let path = folder.join("00000000000000000000.log");
        let mut log = std::fs::read(&path).expect("the log of the partition");
        let mut at = 0;
        while i64::from_be_bytes(log[at..at + 8].try_into().expect("8 bytes")) != offset {
            let length = u32::from_be_bytes(log[at + 8..at + 12].try_into().expect("4 bytes"));
            at += 12 + usize::try_from(length).expect("fits");
        }
        log[at + 22] |= 0b111;
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).expect("writable");
        file.seek(SeekFrom::Start(u64::try_from(at + 22).expect("fits"))).expect("within the file");
        file.write_all(&log[at + 22..=at + 22]).expect("written");
    }

    /// Deletes the topic and creates it again, as an operator would.
    pub async fn remake_topic(&self) {
        let deleted = self.admin().delete_topics(&[self.topic], &AdminOptions::new()).await;
        for deleted in deleted.expect("the broker answers") {
            deleted.expect("deleted");
        }
        eventually("the name is free again", || async {
            let topic = NewTopic::new(self.topic, 2, TopicReplication::Fixed(1));
            let created = self.admin().create_topics([&topic], &AdminOptions::new()).await;
            created.expect("the broker answers").iter().all(Result::is_ok)
        })
        .await;
    }

    pub fn consumers(&self) -> Group<Ledger> {
        Group::new(self.database.clone(), self.group, Ledger { topic: self.topic })
    }

    /// The same, but it panics once a transaction of this name reaches this step.
    pub fn consumers_that_die_at(&self, transaction: &'static str, step: TransactionStep) -> Group<Ledger> {
        let hook = move |name, now| {
            if (name, now) == (transaction, step) {
                std::panic::panic_any("killed here");
            }
        };
        let database = self.database.clone().with_hook(Arc::new(hook));
        Group::new(database, self.group, Ledger { topic: self.topic })
    }

    pub fn processor(&self) -> Processor<Ledger> {
        Processor::new(self.consumers())
    }

    pub fn redriver(&self) -> Redriver<Ledger> {
        Redriver::new(self.consumers())
    }

    /// Writes events to the outbox, each in a transaction of its own.
    pub async fn write(&self, events: Vec<NewEvent>) {
        Self::write_by(&self.database, events).await;
    }

    /// The same by the pool of another process.
    pub async fn write_by(database: &Database, events: Vec<NewEvent>) {
        for event in events {
            let record = OutboxRecord::from_event(event, "test");
            database
                .transaction(
                    "test.write",
                    Deadline::after(BACKGROUND_TIME_MAX),
                    record,
                    |connection, record| outbox::append(connection, vec![record]).boxed(),
                )
                .await
                .expect("written");
        }
    }

    pub fn event(&self, subject: &str, payload: &str) -> NewEvent {
        NewEvent {
            id: Uuid::now_v7(),
            topic: self.topic,
            version: 1,
            key: subject.to_owned(),
            subject: subject.to_owned(),
            time: time::OffsetDateTime::now_utc(),
            trace: None,
            payload: payload.as_bytes().to_vec(),
        }
    }

    /// A record as it would come from the broker.
    pub fn record(&self, offset: i64, event: NewEvent) -> Record {
        Record {
            topic: self.topic.to_owned(),
            partition: 0,
            offset,
            timestamp_ms: Some(1_800_000_000_000),
            headers: event.headers("test"),
            key: Some(event.key.into_bytes().into()),
            value: Some(event.payload.into()),
            headers_unreadable: false,
        }
    }

    /// Everything in a topic: partition, key and value, in the order of each partition.
    pub async fn read_topic(&self, topic: &str) -> Vec<(i32, String, String)> {
        let (brokers, topic) = (self.kafka.brokers.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", brokers)
                .set("group.id", Uuid::now_v7().to_string())
                .set("enable.auto.commit", "false")
                .create()
                .expect("a consumer");
            let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).expect("the broker answers");
            let mut list = rdkafka::TopicPartitionList::new();
            let mut left = 0;
            for partition in metadata.topics()[0].partitions() {
                let (low, high) =
                    consumer.fetch_watermarks(&topic, partition.id(), PATIENCE).expect("answers");
                left += high - low;
                list.add_partition_offset(&topic, partition.id(), rdkafka::Offset::Beginning).expect("added");
            }
            consumer.assign(&list).expect("assigned");
            let mut all = Vec::new();
            while left > 0 {
                let message = consumer.poll(PATIENCE).expect("there is more").expect("a message");
                let text =
                    |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
                all.push((message.partition(), text(message.key()), text(message.payload())));
                left -= 1;
            }
            all
        })
        .await
        .expect("read")
    }

    /// A connection beside the pool, which gives up soon on a machine that is busy.
    pub async fn connect(&self) -> PgConnection {
        let options = self.database.pool().connect_options();
        <PgConnection as sqlx::Connection>::connect_with(&options).await.expect("connected")
    }

    /// Runs statements that break something, or repair it.
    pub async fn alter(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.connect().await).await.expect("altered");
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query(sql).fetch_one(&mut self.connect().await).await.expect("counted").get(0)
    }

    /// What was done for each subject, in order.
    pub async fn effects(&self) -> Vec<(String, String)> {
        sqlx::query("select subject, payload from effects order by id")
            .fetch_all(&mut self.connect().await)
            .await
            .expect("read")
            .into_iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect()
    }

    /// Applied, duplicates, parked: the tally of the group.
    pub async fn tally(&self) -> (i64, i64, i64) {
        let row = sqlx::query(
            "select coalesce(sum(applied), 0)::bigint, coalesce(sum(duplicates), 0)::bigint,
                coalesce(sum(parked), 0)::bigint from consumer_positions",
        )
        .fetch_one(&mut self.connect().await)
        .await
        .expect("read");
        (row.get(0), row.get(1), row.get(2))
    }

    /// Records of which only the place was kept.
    pub async fn set_aside(&self) -> i64 {
        self.count("select coalesce(sum(set_aside), 0)::bigint from consumer_positions").await
    }

    /// Subject, class and the class of what blocks it, oldest first.
    pub async fn dead_letters(&self) -> Vec<(String, String, Option<String>)> {
        sqlx::query(
            "select coalesce(d.subject, ''), d.class, b.class from dead_letters as d
            left join dead_letters as b on b.id = d.blocked_by order by d.id",
        )
        .fetch_all(&mut self.connect().await)
        .await
        .expect("read")
        .into_iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
    }
}

/// The gRPC service, called as the operator would.
pub fn service(lab: &Lab) -> DeadLetters<Ledger> {
    DeadLetters::new(lab.consumers(), ViewReceiver::without_observer())
}

/// A call of the identity `operator`.
pub fn as_operator<M>(message: M) -> Request<M> {
    let id = SpiffeId::parse("spiffe://holdfast.internal/operator").expect("an id");
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer { id: Arc::new(id), serial: "01".into(), not_after: i64::MAX });
    request
}

/// The table of the test handler. Its `check` lets the database refuse data.
pub fn business() -> Migrator {
    let sql = "create table effects (
        id bigint generated always as identity,
        subject text not null,
        payload text not null check (payload not like '%unstorable%'),
        at timestamptz not null default clock_timestamp()
    )";
    Migrator::with_migrations(vec![Migration::new(
        1001,
        "effects".into(),
        MigrationType::Simple,
        sql.into_sql_str(),
        false,
    )])
}

/// Topic and payload of each event that a handler has answered in a transaction that was committed.
static ANNOUNCED: Mutex<Vec<(&'static str, String)>> = Mutex::new(Vec::new());

impl Lab {
    /// The payloads that were announced after a commit.
    pub fn announced(&self) -> Vec<String> {
        let announced = ANNOUNCED.lock().expect("no panic");
        announced
            .iter()
            .filter(|(topic, _)| *topic == self.topic)
            .map(|(_, payload)| payload.clone())
            .collect()
    }
}

/// Stores each event, and announces it after the commit. Payloads that begin with `poison` are refused by the handler, those that contain `unstorable` by
/// the database, and `undecodable` can't be decoded.
pub struct Ledger {
    topic: &'static str,
}

impl Handler for Ledger {
    type Event = String;
    type Changes = Vec<Accepted<String>>;

    fn decode(&self, record: &Record, _: &Metadata) -> Result<String, Poison> {
        let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        if text == "undecodable" { Err(Poison::new(Class::Decode, "as agreed")) } else { Ok(text) }
    }

    fn versions(&self, topic: &str) -> &'static [u32] {
        if topic == self.topic { &[1] } else { &[] }
    }

    fn is_event_topic(&self, topic: &str) -> bool {
        topic == self.topic || topic == "test.other"
    }

    async fn decide(
        &self,
        _: &mut PgConnection,
        events: &[Accepted<String>],
    ) -> Result<(Vec<Answer>, Vec<Accepted<String>>), DatabaseError> {
        let answer = |accepted: &Accepted<String>| {
            if accepted.event.starts_with("poison") {
                Answer::DeadLetter(Poison::new(Class::BusinessInvariant, "as agreed"))
            } else {
                Answer::Applied
            }
        };
        Ok((events.iter().map(answer).collect(), events.to_vec()))
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        events: Vec<Accepted<String>>,
    ) -> Result<(), DatabaseError> {
        // Before it may fail: whoever rolls back undoes it.
        for Accepted { event, .. } in &events {
            let (topic, payload) = (self.topic, event.clone());
            after_commit(move |_| ANNOUNCED.lock().expect("no panic").push((topic, payload)));
        }
        let (subjects, payloads): (Vec<String>, Vec<String>) =
            events.into_iter().map(|accepted| (accepted.metadata.subject, accepted.event)).unzip();
        let insert = "insert into effects (subject, payload)
            select subject, payload from unnest($1::text[], $2::text[]) with ordinality as e (subject, payload, nth)
            order by nth";
        sqlx::query(insert).bind(subjects).bind(payloads).execute(connection).await?;
        Ok(())
    }
}
