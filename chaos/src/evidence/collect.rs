//! Reads what a run has left in the databases, in the topics and in the logs.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest;
use holdfast_native::layout::{Layout, PARTICIPANTS};
use holdfast_proto::{delivery::v1 as delivery, hexadecimal, payment::v1 as payment, topic};
use prost::Message as _;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::Consumer as _,
    message::{BorrowedMessage, Headers as _},
};
use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};

use super::{
    AccountRow, DeliveryRow, LetterRow, LogFindings, OrderRow, OutboxRow, PartitionEnds, PaymentRow,
    PositionRow, Record, State,
};
use crate::{stack::Stack, topics, workload::SENTINEL};

/// A broker at rest answers at once.
const KAFKA_TIME_MAX: Duration = Duration::from_secs(20);
/// Reading makes progress within this time.
const READ_TIME_MAX: Duration = Duration::from_secs(30);

/// The rows of the run's users, of orders that nobody has, and everything that is counted; then the ends of the topics.
pub async fn state(stack: &Stack, users: &[String]) -> Result<State> {
    let mut state = State::default();
    for participant in PARTICIPANTS {
        let service = participant.name;
        let mut connection = stack.database(service).await?;
        let mut snapshot = connection.begin().await?;
        sqlx::query("set transaction isolation level repeatable read, read only")
            .execute(&mut *snapshot)
            .await?;
        shared_rows(&mut snapshot, service, &mut state).await?;
        match service {
            "order" => state.orders = orders(&mut snapshot, users).await?,
            "payment" => {
                state.payments = payments(&mut snapshot, users).await?;
                state.accounts = accounts(&mut snapshot, users).await?;
            }
            "delivery" => state.deliveries = deliveries(&mut snapshot, users).await?,
            other => anyhow::bail!("nothing is known of the tables of {other}"),
        }
    }
    state.partitions = ends(stack).await?;
    Ok(state)
}

/// Beginning and end of each partition of the event topics.
pub async fn ends(stack: &Stack) -> Result<Vec<PartitionEnds>> {
    let layout = stack.layout.clone();
    let ends = move || topics::ends(&topics::client(&layout)?, &topic::EVENT_TOPICS, KAFKA_TIME_MAX);
    tokio::task::spawn_blocking(ends).await?
}

async fn rows<T>(
    connection: &mut PgConnection,
    sql: &'static str,
    users: &[String],
    read: impl Fn(&PgRow) -> sqlx::Result<T>,
) -> Result<Vec<T>> {
    let rows = sqlx::query(sql).bind(users).fetch_all(connection).await?;
    Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
}

async fn orders(connection: &mut PgConnection, users: &[String]) -> Result<Vec<OrderRow>> {
    let sql = "-- evidence.orders
        select o.order_id::text as order_id, o.user_id, k.key, o.status, o.delivery_status, o.delivery_address,
            o.total_minor, o.version
        from orders as o left join idempotency_keys as k using (order_id) where o.user_id = any($1)";
    rows(connection, sql, users, |row| {
        Ok(OrderRow {
            order_id: row.try_get("order_id")?,
            user_id: row.try_get("user_id")?,
            key: row.try_get("key")?,
            status: row.try_get("status")?,
            delivery_status: row.try_get("delivery_status")?,
            delivery_address: row.try_get("delivery_address")?,
            total_minor: row.try_get("total_minor")?,
            version: row.try_get("version")?,
        })
    })
    .await
}

async fn payments(connection: &mut PgConnection, users: &[String]) -> Result<Vec<PaymentRow>> {
    let sql = "-- evidence.payments
        select p.order_id::text as order_id, p.user_id, p.status, p.amount_minor,
            count(*) filter (where e.kind = 'CHARGE') as charges,
            coalesce(-sum(e.amount_minor) filter (where e.kind = 'CHARGE'), 0)::bigint as charged_minor,
            count(*) filter (where e.kind = 'REFUND') as refunds,
            coalesce(sum(e.amount_minor) filter (where e.kind = 'REFUND'), 0)::bigint as refunded_minor
        from payments as p left join ledger_entries as e using (order_id)
        where p.user_id = any($1) group by p.order_id, p.user_id, p.status, p.amount_minor";
    rows(connection, sql, users, |row| {
        Ok(PaymentRow {
            order_id: row.try_get("order_id")?,
            user_id: row.try_get("user_id")?,
            status: row.try_get("status")?,
            amount_minor: row.try_get("amount_minor")?,
            charges: row.try_get("charges")?,
            charged_minor: row.try_get("charged_minor")?,
            refunds: row.try_get("refunds")?,
            refunded_minor: row.try_get("refunded_minor")?,
        })
    })
    .await
}

async fn accounts(connection: &mut PgConnection, users: &[String]) -> Result<Vec<AccountRow>> {
    let sql = "-- evidence.accounts
        select a.user_id, a.balance_minor,
            coalesce(sum(e.amount_minor) filter (where e.kind in ('OPENING', 'CREDIT')), 0)::bigint as credited_minor,
            coalesce(-sum(e.amount_minor) filter (where e.kind = 'CHARGE'), 0)::bigint as charged_minor,
            coalesce(sum(e.amount_minor) filter (where e.kind = 'REFUND'), 0)::bigint as refunded_minor
        from accounts as a left join ledger_entries as e using (user_id)
        where a.user_id = any($1) group by a.user_id, a.balance_minor";
    rows(connection, sql, users, |row| {
        Ok(AccountRow {
            user_id: row.try_get("user_id")?,
            balance_minor: row.try_get("balance_minor")?,
            credited_minor: row.try_get("credited_minor")?,
            charged_minor: row.try_get("charged_minor")?,
            refunded_minor: row.try_get("refunded_minor")?,
        })
    })
    .await
}

async fn deliveries(connection: &mut PgConnection, users: &[String]) -> Result<Vec<DeliveryRow>> {
    let sql = "-- evidence.deliveries
        select d.order_id::text as order_id, d.user_id, d.status,
            coalesce(array_agg(s.status order by s.position) filter (where s.status is not null), '{}') as steps
        from deliveries as d left join delivery_steps as s using (delivery_id)
        where d.user_id = any($1) group by d.order_id, d.user_id, d.status";
    rows(connection, sql, users, |row| {
        Ok(DeliveryRow {
            order_id: row.try_get("order_id")?,
            user_id: row.try_get("user_id")?,
            status: row.try_get("status")?,
            steps: row.try_get("steps")?,
        })
    })
    .await
}

/// What every participant has: positions, dead letters, outbox.
async fn shared_rows(connection: &mut PgConnection, service: &str, state: &mut State) -> Result<()> {
    let sql = "-- evidence.positions
        select topic, partition, next_offset, applied, duplicates, parked, set_aside from consumer_positions";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        state.positions.push(PositionRow {
            service: service.to_owned(),
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            next_offset: row.try_get("next_offset")?,
            applied: row.try_get("applied")?,
            duplicates: row.try_get("duplicates")?,
            parked: row.try_get("parked")?,
            set_aside: row.try_get("set_aside")?,
        });
    }
    let sql = "-- evidence.letters
        select id::text as id, class, state, subject, topic, partition, record_offset from dead_letters";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        state.letters.push(LetterRow {
            service: service.to_owned(),
            id: row.try_get("id")?,
            class: row.try_get("class")?,
            state: row.try_get("state")?,
            subject: row.try_get("subject")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            offset: row.try_get("record_offset")?,
        });
    }
    let sql = "-- evidence.outbox
        select (select count(*) from outbox) as waiting, (select count(*) from outbox_held) as held";
    let row = sqlx::query(sql).fetch_one(connection).await?;
    state.outboxes.push(OutboxRow {
        service: service.to_owned(),
        waiting: row.try_get("waiting")?,
        held: row.try_get("held")?,
    });
    Ok(())
}

/// Reads each partition from its first record to its end.
pub async fn records(stack: &Stack, partitions: Vec<PartitionEnds>) -> Result<Vec<Record>> {
    let layout = stack.layout.clone();
    tokio::task::spawn_blocking(move || read_records(&layout, &partitions)).await?
}

fn read_records(layout: &Layout, partitions: &[PartitionEnds]) -> Result<Vec<Record>> {
    let consumer = topics::client(layout)?;
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for ends in partitions.iter().filter(|ends| ends.end > ends.first) {
        assignment.add_partition_offset(&ends.topic, ends.partition, Offset::Offset(ends.first))?;
        left += ends.end - ends.first;
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::new();
    let mut progress = Instant::now();
    while left > 0 {
        // After an error the client connects again by itself.
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) {
            let is_before_the_end = partitions.iter().any(|ends| {
                ends.topic == message.topic()
                    && ends.partition == message.partition()
                    && message.offset() < ends.end
            });
            if is_before_the_end {
                records.push(record(&message));
                left -= 1;
            }
            progress = Instant::now();
        }
        ensure!(progress.elapsed() < READ_TIME_MAX, "{left} records of the topics could not be read");
    }
    Ok(records)
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let header = |name: &str| {
        let found = message.headers()?.iter().find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(found.value?).into_owned())
    };
    let value = message.payload().unwrap_or_default();
    let hash = digest::digest(&digest::SHA256, value);
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        event_id: header("ce_id"),
        subject: header("ce_subject"),
        hash: hexadecimal(hash.as_ref().get(..8).unwrap_or_default()),
        status: status(message.topic(), value),
    }
}

/// The status that an event tells of.
fn status(topic: &str, value: &[u8]) -> Option<String> {
    let name = match topic {
        topic::PAYMENT_COMPLETED => {
            let event = payment::PaymentCompleted::decode(value).ok()?;
            event.status().as_str_name().strip_prefix("PAYMENT_STATUS_")?
        }
        topic::DELIVERY_STATUS_UPDATED => {
            let event = delivery::DeliveryStatusUpdated::decode(value).ok()?;
            event.status().as_str_name().strip_prefix("DELIVERY_STATUS_")?
        }
        _ => return None,
    };
    (name != "UNSPECIFIED").then(|| name.to_owned())
}

/// How a panic shows in a log: as a line of ours, or, where there is no log yet, as Rust's usual message.
const PANIC_MARKS: [&str; 2] = ["stopped by a panic", "panicked at"];

/// Searches the logs for panics and for secrets, and keeps a copy of them. `tokens` are those of the users.
pub fn logs(stack: &Stack, tokens: &[&str], copies: &Path) -> Result<LogFindings> {
    fs::create_dir_all(copies).with_context(|| format!("cannot create {}", copies.display()))?;
    let passwords = PARTICIPANTS.iter().flat_map(|participant| {
        let owner = stack.layout.owner_password_file(participant);
        stack.layout.password_files(participant).into_iter().chain([owner])
    });
    let passwords = passwords.map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    let mut secrets: Vec<(&str, String)> = vec![
        ("an address or a key of a user", SENTINEL.to_owned()),
        ("a private key", "PRIVATE KEY-----".to_owned()),
    ];
    let passwords = passwords.iter().map(|password| ("a password of a database", password.trim().to_owned()));
    secrets.extend(passwords);
    // The signature: head and claims of two tokens may be alike.
    let signatures = tokens.iter().filter_map(|token| token.rsplit('.').next());
    secrets.extend(signatures.map(|signature| ("a token", signature.to_owned())));
    let mut findings = LogFindings::default();
    for (component, path) in stack.logs()? {
        findings.components += 1;
        fs::copy(&path, copies.join(format!("{component}.log")))?;
        let file = BufReader::new(File::open(&path)?);
        for (number, line) in file.split(b'\n').enumerate() {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            findings.lines += 1;
            if PANIC_MARKS.iter().any(|mark| line.contains(mark)) {
                findings.panics.push(format!("{component}: {line}"));
            }
            for (kind, secret) in &secrets {
                if line.contains(secret.as_str()) {
                    findings.secrets.push(format!("{component}, line {}: {kind}", number + 1));
                }
            }
        }
    }
    Ok(findings)
}
