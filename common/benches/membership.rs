//! How a consumer group recovers when its broker or its members stall or die, with each kind of membership that
//! librdkafka has: figures for `docs/adr/0008`. Plain members with our settings and without our watch, as separate
//! processes, against a real broker.
//!
//! `cargo build -p holdfast && cargo bench -p holdfast-common --profile dev --bench membership -- 100`, the number being the
//! rounds of each variant (default 4); `-- 100 consumer-static` for one variant. The variants run side by side, each with a
//! broker of its own.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that prints figures, and waits in threads"
)]

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use holdfast_common::{
    config::{KafkaConfig, KafkaTlsConfig},
    kafka::Brokers,
};
use holdfast_native::layout::Scope;
use holdfast_testkit::stack::{TestStack, binary};
use rdkafka::{
    ClientConfig, Message as _,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{Consumer as _, StreamConsumer},
    producer::{FutureProducer, FutureRecord},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

const PARTITIONS: usize = 4;
const MEMBERS: usize = 2;
/// A group that does not read all of its partitions again within this time has hung.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(120);
/// Between the end of one round and the fault of the next.
const CALM: Duration = Duration::from_secs(3);
/// Ends a member that the broker has ended.
const EXIT_FATAL: i32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// `group.protocol=classic` with `group.instance.id`: what the services use.
    ClassicStatic,
    ClassicDynamic,
    /// `group.protocol=consumer`, KIP-848, with `group.instance.id`.
    ConsumerStatic,
    ConsumerDynamic,
}

impl Variant {
    const ALL: [Self; 4] =
        [Self::ClassicStatic, Self::ClassicDynamic, Self::ConsumerStatic, Self::ConsumerDynamic];

    const fn name(self) -> &'static str {
        match self {
            Self::ClassicStatic => "classic-static",
            Self::ClassicDynamic => "classic-dynamic",
            Self::ConsumerStatic => "consumer-static",
            Self::ConsumerDynamic => "consumer-dynamic",
        }
    }

    fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|variant| variant.name() == name).expect("a variant")
    }

    fn config(self, brokers: &str, member: &str) -> ClientConfig {
        let is_static = matches!(self, Self::ClassicStatic | Self::ConsumerStatic);
        let mut config = Brokers::without_tls(&config_of(brokers, is_static.then(|| member.to_owned())))
            .consumer_config("members");
        if matches!(self, Self::ConsumerStatic | Self::ConsumerDynamic) {
            config.set("group.protocol", "consumer");
            // The broker's settings in this protocol: the stack gives it the same times.
            for key in ["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"] {
                config.remove(key);
            }
        }
        config
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The broker is stopped (SIGSTOP) for 2 to 30 s.
    Pause,
    /// The broker is killed; the supervisor starts it again.
    BrokerKilled,
    /// A member is killed and started again at once.
    MemberKilled,
    /// Each member in turn is asked to end, and started again.
    RollingRestart,
}

impl Fault {
    const fn of_round(round: usize) -> Self {
        match round % 5 {
            0 | 2 => Self::Pause,
            1 => Self::BrokerKilled,
            3 => Self::MemberKilled,
            _ => Self::RollingRestart,
        }
    }
}

fn config_of(brokers: &str, instance_id: Option<String>) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.to_owned(),
        instance_id,
        batch_events_max: 100,
        dead_letters_in_a_row_max: 100,
        dead_letter_share_max: 0.5,
        dead_letter_pause: Duration::from_secs(10),
        tls: KafkaTlsConfig::default(),
    }
}

/// A member: prints the partition and the value of each record, until it is asked to end.
async fn member(variant: Variant, brokers: &str, name: &str) {
    let consumer: StreamConsumer = variant.config(brokers, name).create().expect("a consumer");
    consumer.subscribe(&["members"]).expect("subscribed");
    let mut terminate = signal(SignalKind::terminate()).expect("a signal");
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            record = consumer.recv() => {
                if let Ok(record) = record {
                    let value = record.payload().map(String::from_utf8_lossy).unwrap_or_default();
                    println!("{} {value}", record.partition());
                    let _ = std::io::stdout().flush();
                    let _ = consumer.store_offset_from_message(&record);
                } else if let Some((code, reason)) = consumer.client().fatal_error() {
                    eprintln!("fatal: {code}: {reason}");
                    std::process::exit(EXIT_FATAL);
                }
            }
        }
    }
}

/// A process that is restarted whenever it ends on its own, just as our consumer joins again.
struct Members {
    variant: Variant,
    brokers: String,
    running: Vec<Child>,
    read: UnboundedSender<(usize, usize)>,
    ended: usize,
}

impl Members {
    fn start(&mut self, number: usize) {
        let mut child = Command::new(env::current_exe().expect("there"))
            .args(["member", self.variant.name(), &self.brokers, &format!("m{number}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let (stdout, read) = (child.stdout.take().expect("piped"), self.read.clone());
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut words = line.split(' ').filter_map(|word| word.parse().ok());
                if let (Some(partition), Some(round)) = (words.next(), words.next()) {
                    let _ = read.send((partition, round));
                }
            }
        });
        if number == self.running.len() {
            self.running.push(child);
        } else {
            self.running[number] = child;
        }
    }

    fn end(&mut self, number: usize, signal: &str) {
        let child = &mut self.running[number];
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
        let _ = child.wait();
    }

    fn start_the_ended(&mut self) {
        for number in 0..self.running.len() {
            if self.running[number].try_wait().expect("asked").is_some() {
                self.ended += 1;
                self.start(number);
            }
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn signal_kafka(stack: &TestStack, signal: &str) {
    let pid = stack.pid("kafka").expect("it runs").to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
}

/// Causes the fault. Returns when it is healed, except for what the members must do themselves.
fn have(fault: Fault, stack: &TestStack, members: &mut Members) -> Instant {
    match fault {
        Fault::Pause => {
            signal_kafka(stack, "-STOP");
            thread::sleep(Duration::from_millis(fastrand::u64(2_000..30_000)));
            signal_kafka(stack, "-CONT");
            Instant::now()
        }
        Fault::BrokerKilled => {
            let begin = Instant::now();
            signal_kafka(stack, "-9");
            begin
        }
        Fault::MemberKilled => {
            let (begin, victim) = (Instant::now(), fastrand::usize(..MEMBERS));
            members.end(victim, "-9");
            members.start(victim);
            begin
        }
        Fault::RollingRestart => {
            let begin = Instant::now();
            for number in 0..MEMBERS {
                members.end(number, "-15");
                members.start(number);
            }
            begin
        }
    }
}

/// Writes a record of this round to each partition again and again until one of each was read. A producer of its own,
/// so that only the members are measured. Returns the time from `healed`, or none if they hang.
async fn recovered(
    brokers: &str,
    round: usize,
    healed: Instant,
    members: &mut Members,
    read: &mut UnboundedReceiver<(usize, usize)>,
) -> Option<Duration> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "200")
        .create()
        .expect("a producer");
    let value = round.to_string();
    let mut seen = [false; PARTITIONS];
    while healed.elapsed() < RECOVERY_TIME_MAX {
        members.start_the_ended();
        for partition in 0..PARTITIONS {
            let number = i32::try_from(partition).expect("few");
            let record = FutureRecord::<(), _>::to("members").partition(number).payload(&value);
            // The queue is full, or the broker is away: the next one will do.
            drop(producer.send_result(record));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        while let Ok((partition, of_round)) = read.try_recv() {
            if of_round == round {
                seen[partition] = true;
            }
        }
        if seen == [true; PARTITIONS] {
            return Some(healed.elapsed());
        }
    }
    println!("{}: round {round}: partitions read {seen:?}", members.variant.name());
    None
}

type Figures = BTreeMap<Fault, Vec<(Option<Duration>, usize)>>;

async fn measure(variant: Variant, rounds: usize) -> Figures {
    let stack = tokio::task::spawn_blocking(|| TestStack::start(Scope::Infrastructure, &[], &[]))
        .await
        .expect("no panic");
    let brokers = stack.layout.kafka_brokers();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a client");
    let topic = NewTopic::new("members", i32::try_from(PARTITIONS).expect("few"), TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.expect("the broker answers");
    let (sender, mut read) = unbounded_channel();
    let mut members =
        Members { variant, brokers: brokers.clone(), running: Vec::new(), read: sender, ended: 0 };
    (0..MEMBERS).for_each(|number| members.start(number));
    recovered(&brokers, usize::MAX, Instant::now(), &mut members, &mut read).await.expect("it begins");
    let mut figures = Figures::new();
    for round in 0..rounds {
        tokio::time::sleep(CALM).await;
        let (fault, ended) = (Fault::of_round(round), members.ended);
        let healed = tokio::task::block_in_place(|| have(fault, &stack, &mut members));
        let time = recovered(&brokers, round, healed, &mut members, &mut read).await;
        let ended = members.ended - ended;
        println!("{}: round {round}: {fault:?}: {time:.1?}, {ended} memberships ended", variant.name());
        if time.is_none() {
            for number in 0..MEMBERS {
                members.end(number, "-9");
                members.start(number);
            }
            recovered(&brokers, usize::MAX - 1 - round, Instant::now(), &mut members, &mut read).await;
        }
        figures.entry(fault).or_default().push((time, ended));
    }
    drop(members);
    tokio::task::spawn_blocking(move || stack.end()).await.expect("no panic");
    figures
}

fn print(variant: Variant, figures: Figures) {
    for (fault, rounds) in figures {
        let mut times: Vec<Duration> = rounds.iter().filter_map(|(time, _)| *time).collect();
        times.sort();
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
        println!(
            "{:<17} {:<15} {:>3} rounds  p50 {:>6.1?}  p90 {:>6.1?}  max {:>6.1?}  {:>3} memberships ended  {} hangs",
            variant.name(),
            format!("{fault:?}"),
            rounds.len(),
            at(50).copied().unwrap_or_default(),
            at(90).copied().unwrap_or_default(),
            times.last().copied().unwrap_or_default(),
            rounds.iter().map(|(_, ended)| ended).sum::<usize>(),
            rounds.len() - times.len(),
        );
    }
}

#[tokio::main]
async fn main() {
    // The arguments without cargo's own options.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [mode, variant, brokers, name] = arguments.as_slice()
        && mode == "member"
    {
        return member(Variant::parse(variant), brokers, name).await;
    }
    let _ = binary();
    let rounds = arguments.first().map_or(4, |text| text.parse().expect("a number of rounds"));
    let wanted = arguments.get(1).map(|name| Variant::parse(name));
    let variants: Vec<Variant> =
        Variant::ALL.into_iter().filter(|variant| wanted.is_none_or(|wanted| wanted == *variant)).collect();
    let running: Vec<_> =
        variants.iter().map(|variant| (*variant, tokio::spawn(measure(*variant, rounds)))).collect();
    let mut all = Vec::new();
    for (variant, running) in running {
        all.push((variant, running.await.expect("no panic")));
    }
    println!();
    for (variant, figures) in all {
        print(variant, figures);
    }
}
