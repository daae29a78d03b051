//! TLS between the services and Kafka: who may do what, with which certificate, and what happens when certificates are renewed,
//! expire or are revoked while everything runs. Needs programs with TLS to Kafka: `scripts/kafka-tls.sh`, then
//! `cargo test -p holdfast-e2e --features kafka-tls --test kafka_tls`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_certs::LEAF_LIFE_MAX;
use holdfast_chaos::fault::certificate::{Flaw, Flawed};
use holdfast_e2e::{PATIENCE, World, eventually, id, skipped};
use holdfast_native::{
    kafka,
    layout::{CONSOLE, participant_names},
};
use holdfast_proto::topic::{self, EVENT_TOPICS, Operation, READINGS, Resource};
use holdfast_testkit::stack::TestStack;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord},
};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A stack and clients that are patient: late answers and overload of a slow machine are not what is looked at here. The programs
/// must have what the tests are about.
async fn world() -> Option<(World, MutexGuard<'static, ()>)> {
    static STACK: OnceCell<TestStack> = OnceCell::const_new();
    if !kafka::CAN_ENCRYPT {
        skipped("built without TLS to Kafka: run scripts/kafka-tls.sh, then this with --features kafka-tls");
        return None;
    }
    let alone = ONE_AT_A_TIME.lock().await;
    let start = || {
        let environment = [
            ("HOLDFAST_KAFKA_TLS", "on"),
            ("HOLDFAST__DELIVERY__STEP", "50ms"),
            ("HOLDFAST__GATEWAY__DEADLINE", "20s"),
        ];
        TestStack::start_with_console(&environment)
    };
    let stack = STACK.get_or_init(|| async { tokio::task::spawn_blocking(start).await.expect("it starts") });
    let World { stack, rest } = World::of(stack.await);
    Some((World { stack, rest: rest.patient(PATIENCE) }, alone))
}

fn identity(world: &World, name: &str) -> PathBuf {
    world.stack.layout.pki_dir().join(name)
}

/// A client that shows what is in `identity`.
fn showing(world: &World, identity: &Path) -> ClientConfig {
    let mut client = kafka::client_of(&world.stack.layout, identity).expect("its files are there");
    client.set("log_level", "0");
    client
}

fn reader(client: &ClientConfig, group: &str) -> BaseConsumer {
    let mut client = client.clone();
    client.set("group.id", group).set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    client.create().expect("a client")
}

/// What comes of writing a record.
async fn write(client: &ClientConfig, topic: &str) -> Result<(), KafkaError> {
    let producer: FutureProducer = client.clone().set("message.timeout.ms", "10000").create()?;
    let record = FutureRecord::<(), [u8]>::to(topic).partition(0).payload(b"forged");
    producer.send(record, PATIENCE).await.map(drop).map_err(|(error, _)| error)
}

/// Whether a topic can be read. The group is not joined.
fn reads(client: &ClientConfig, topic: &str) -> bool {
    let refused = RDKafkaErrorCode::TopicAuthorizationFailed;
    let consumer = reader(client, "nobody");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("an answer");
    if metadata.topics()[0].error().map(RDKafkaErrorCode::from) == Some(refused) {
        return false;
    }
    // Whoever may write it sees it as well. Its end is said only to those who may read.
    let mut places = TopicPartitionList::new();
    places.add_partition_offset(topic, 0, Offset::Beginning).expect("added");
    consumer.assign(&places).expect("assigned");
    let until = Instant::now() + PATIENCE;
    loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return true,
            Some(Err(error)) if error.rdkafka_error_code() == Some(refused) => return false,
            _ => assert!(Instant::now() < until, "{topic} is neither read nor refused"),
        }
    }
}

/// What comes of asking for what a group has committed, which its members may.
fn ask_group(client: &ClientConfig, group: &str) -> Result<(), KafkaError> {
    let mut places = TopicPartitionList::new();
    places.add_partition(EVENT_TOPICS[0], 0);
    let consumer = reader(client, group);
    let committed = match consumer.committed_offsets(places, Duration::from_secs(3)) {
        Ok(committed) => committed,
        // It has been refused, and goes on trying.
        Err(error) => {
            let said = consumer.poll(PATIENCE);
            return Err(said.and_then(Result::err).unwrap_or(error));
        }
    };
    committed.elements().iter().try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error)
}

fn code<T>(outcome: Result<T, KafkaError>) -> Option<RDKafkaErrorCode> {
    outcome.err().and_then(|error| error.rdkafka_error_code())
}

/// What this client may do, of all that there is to be done.
async fn possible(client: &ClientConfig, service: &str) -> Vec<String> {
    let mut possible = Vec::new();
    let letters = READINGS.iter().map(|(topic, group)| topic::dead_letters_of(topic, group));
    let topics: Vec<String> = EVENT_TOPICS.iter().map(|topic| (*topic).to_owned()).chain(letters).collect();
    for topic in &topics {
        // What it may write it does write, as events show: a forged one would be a dead letter.
        let is_event = EVENT_TOPICS.contains(&topic.as_str());
        let writes_it = topic::WRITINGS.contains(&(topic.as_str(), service));
        if !(is_event && writes_it) {
            match code(write(client, topic).await) {
                None => possible.push(format!("write {topic}")),
                Some(code) => {
                    assert_eq!(code, RDKafkaErrorCode::TopicAuthorizationFailed, "{service}: {topic}");
                }
            }
        }
        let (client, asked) = (client.clone(), topic.clone());
        if tokio::task::spawn_blocking(move || reads(&client, &asked)).await.expect("no panic") {
            possible.push(format!("read {topic}"));
        }
    }
    for group in participant_names() {
        let client = client.clone();
        let outcome = tokio::task::spawn_blocking(move || ask_group(&client, group)).await.expect("no panic");
        match code(outcome) {
            None | Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                possible.push(format!("read group {group}"));
            }
            Some(code) => assert_eq!(code, RDKafkaErrorCode::GroupAuthorizationFailed, "{service}: {group}"),
        }
    }
    possible.sort();
    possible
}

/// What the table says that it may, as [`possible`] says it.
fn granted(service: &str) -> Vec<String> {
    let grants = topic::grants().into_iter().filter(|grant| grant.service == service);
    let mut granted: Vec<String> = grants
        .filter_map(|grant| match (grant.operation, grant.resource) {
            (Operation::Write, Resource::Topic(topic)) if EVENT_TOPICS.contains(&topic.as_str()) => None,
            // Of the console alone, and seen on its page.
            (Operation::DescribeConfigs, _) => None,
            (Operation::Write, Resource::Topic(topic)) => Some(format!("write {topic}")),
            (Operation::Read, Resource::Topic(topic)) => Some(format!("read {topic}")),
            (_, Resource::Group(group)) => Some(format!("read group {group}")),
        })
        .collect();
    granted.sort();
    granted
}

/// An order goes all its way over encrypted connections. Each service may do exactly what the table says: it can't write or read what
/// belongs to another, or in the name of another's group, and it makes no topics. The gateway's certificate is good for nothing here.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_opens_what_the_table_says() {
    let Some((world, _alone)) = world().await else { return };
    let user = world.user("delivered", "1000.00").await;
    let order = world.create(&user, "1 Quay Street", 1).await;
    eventually("the order is delivered", || async {
        let answer = user.get(&format!("/api/orders/{}", id(&order))).await;
        answer.is_ok_and(|answer| answer.json()["delivery_status"] == "DELIVERED")
    })
    .await;
    for service in participant_names() {
        does_what_is_granted(&world, service).await;
    }
    let client = showing(&world, &identity(&world, "gateway"));
    assert_eq!(possible(&client, "gateway").await, [""; 0]);
    world.every_record_is_tallied().await;
}

/// By its certificate it may write, read and join what the table says, and make or delete no topic.
async fn does_what_is_granted(world: &World, identity_name: &str) {
    let client = showing(world, &identity(world, identity_name));
    assert_eq!(possible(&client, identity_name).await, granted(identity_name), "{identity_name}");
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let options = AdminOptions::new();
    let topic = NewTopic::new("forged", 1, TopicReplication::Fixed(1));
    let made = admin.create_topics([&topic], &options).await.expect("an answer");
    let deleted = admin.delete_topics(&[EVENT_TOPICS[0]], &options).await.expect("an answer");
    for refused in made.into_iter().chain(deleted).map(|outcome| outcome.map_err(|(_, code)| code)) {
        assert!(
            matches!(
                refused,
                Err(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)
            ),
            "{identity_name} makes or deletes topics: {refused:?}"
        );
    }
}

/// Whether a page of the console has all of this.
async fn shows(world: &World, cookie: &str, path: &str, expected: &[&str]) -> bool {
    let url = format!("http://127.0.0.1:{}{path}", world.stack.layout.console_port());
    let page = world.console_page(&url, cookie).await;
    let text = String::from_utf8_lossy(&page.body).into_owned();
    expected.iter().all(|expected| text.contains(expected))
}

/// The console reads every topic of ours, and sees how long it keeps its records, by a certificate with which it can't write, join a group,
/// or make or delete a topic.
#[tokio::test(flavor = "multi_thread")]
async fn the_console_reads_topics_and_nothing_else() {
    let Some((world, _alone)) = world().await else { return };
    does_what_is_granted(&world, CONSOLE).await;
    let user = world.user("read", "10.00").await;
    let order = id(&world.create(&user, "1 Quay Street", 1).await);
    let cookie = world.signed_in().await.1;
    let shows = async |path: &str, expected: &[&str]| shows(&world, &cookie, path, expected).await;
    let letters = topic::dead_letters_of(EVENT_TOPICS[0], "payment");
    // The two times are `retention.ms` of events and of dead letters.
    let topics = [EVENT_TOPICS[0], &letters, ">7d<", ">30d<"];
    eventually("its page has the topics", || shows("/topics", &topics)).await;
    let (messages, all) = (format!("/orders/{order}/messages"), [": 6 match."]);
    eventually("it finds all events of the order", || shows(&messages, &all)).await;
}

/// Whether a client gets as far as to an answer of the broker.
async fn gets_in(client: &ClientConfig) -> bool {
    let client = reader(client, "nobody");
    let ask = move || client.fetch_metadata(None, Duration::from_secs(3)).is_ok();
    tokio::task::spawn_blocking(ask).await.expect("no panic")
}

/// Who comes without TLS, without a certificate, or with one of another authority, gets in nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_without_a_certificate_of_ours() {
    let Some((world, _alone)) = world().await else { return };
    let right = showing(&world, &identity(&world, "order"));
    assert!(gets_in(&right).await, "the check finds nobody");
    let mut plain = ClientConfig::new();
    plain.set("bootstrap.servers", world.stack.layout.kafka_brokers()).set("log_level", "0");
    assert!(!gets_in(&plain).await, "without TLS");
    let mut nameless = plain.clone();
    let authority = fs::read_to_string(identity(&world, "order").join("ca.crt")).expect("there");
    nameless.set("security.protocol", "ssl").set("ssl.ca.pem", authority);
    assert!(!gets_in(&nameless).await, "without a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let foreign = holdfast_certs::Pki::open_or_init(folder.path()).expect("created");
    foreign.issue("order", LEAF_LIFE_MAX).expect("issued");
    let foreign = folder.path().join("order");
    fs::copy(identity(&world, "order").join("ca.crt"), foreign.join("ca.crt")).expect("copied");
    assert!(!gets_in(&showing(&world, &foreign)).await, "with a certificate of a foreign authority");
}

async fn detail(world: &World, service: &str, component: &str) -> String {
    let (_, body) = world.readyz(service).await;
    body["components"][component]["detail"].as_str().unwrap_or_default().to_owned()
}

/// A service that is given another's certificate does nothing with it, says what it is refused, and goes on once it has its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_anothers_certificate_is_refused_and_says_so() {
    let Some((world, _alone)) = world().await else { return };
    let user = world.user("mistaken", "1000.00").await;
    let (own, others) = (identity(&world, "delivery"), identity(&world, "payment"));
    for file in ["tls.key", "tls.crt"] {
        fs::copy(others.join(file), own.join(file)).expect("copied");
    }
    eventually("delivery says that its group is refused", || async {
        detail(&world, "delivery", "consumer").await.contains("authorization failed")
    })
    .await;
    assert!(world.metric("delivery", "holdfast_kafka_refusals_total", &["reason=\"group\""]).await > 0.0);
    let order = world.create(&user, "1 Quay Street", 1).await;
    world.certs(&["rotate", "delivery"]).await;
    eventually("delivery is well", || async { world.is_well("delivery").await }).await;
    eventually("the order is delivered", || async {
        let answer = user.get(&format!("/api/orders/{}", id(&order))).await;
        answer.is_ok_and(|answer| answer.json()["delivery_status"] == "DELIVERED")
    })
    .await;
}

/// All certificates are renewed, and then the authority is replaced too, while orders come in: none fails, none is lost, nothing is
/// refused, the broker is not started again, and each client of Kafka is replaced. Who has stolen a certificate before gets in no more
/// once the authority is another.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_under_load_fails_nothing() {
    let Some((world, _alone)) = world().await else { return };
    let user = world.user("rotation", "100000.00").await;
    let stolen = tempfile::tempdir().expect("a folder");
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        fs::copy(identity(&world, "order").join(file), stolen.path().join(file)).expect("stolen");
    }
    // So that the console has a client as well, for which the rotation waits.
    let cookie = world.signed_in().await.1;
    let topics = EVENT_TOPICS;
    eventually("the console reads topics", || shows(&world, &cookie, "/topics", &topics)).await;
    let kafka_pid = world.stack.pid("kafka");
    let refused = world.metric_of_all("holdfast_kafka_refusals_total").await;
    let renewed = world.metric_of_all("holdfast_kafka_clients_renewed_total").await;
    world.rotate_under_load(&user, &["kafka", "order"]).await;
    eventually("it still does", || shows(&world, &cookie, "/topics", &topics)).await;
    assert!(
        (world.metric_of_all("holdfast_kafka_refusals_total").await - refused).abs() < 0.5,
        "something was refused"
    );
    // Three clients of three services: at least once each, because steps that follow one another soon are one renewal.
    eventually("no client has an old certificate", || async {
        world.metric_of_all("holdfast_kafka_clients_renewed_total").await - renewed >= 9.0
    })
    .await;
    assert_eq!(world.stack.pid("kafka"), kafka_pid, "the broker was started again");
    // It trusts the broker of now.
    fs::copy(identity(&world, "order").join("ca.crt"), stolen.path().join("ca.crt")).expect("copied");
    assert!(!gets_in(&showing(&world, stolen.path())).await, "the thief");
    world.invariants_hold().await;
}

/// A service's certificate expires: new connections are refused and the service says why; a renewed one is used by itself, and what
/// waited is done.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_refused_until_it_is_renewed() {
    let Some((world, _alone)) = world().await else { return };
    let user = world.user("expiry", "1000.00").await;
    let pki = world.stack.layout.pki_dir();
    let flawed = Flawed::install(&pki, "payment", Flaw::Expires).expect("installed");
    // Only connections that begin show anything: those that are open end with the broker.
    eventually("it is in use", || async { world.certificate_is_used("payment").await }).await;
    eventually("it has expired", || async { world.has_expired("payment") }).await;
    let order = world.create(&user, "1 Quay Street", 1).await;
    world.restart("kafka").await;
    eventually("payment says that it has no broker, and why", || async {
        detail(&world, "payment", "kafka").await.contains("SSL alert number")
    })
    .await;
    assert!(
        world.metric("payment", "holdfast_kafka_refusals_total", &["reason=\"certificate\""]).await > 0.0
    );
    flawed.heal().expect("issued");
    eventually("payment is well", || async { world.is_well("payment").await }).await;
    eventually("the order is paid", || async {
        user.get(&format!("/api/orders/{}", id(&order))).await.is_ok_and(|answer| {
            !["PENDING", ""].contains(&answer.json()["status"].as_str().unwrap_or_default())
        })
    })
    .await;
    world.invariants_hold().await;
}
