//! What services may do at a broker with TLS: what [`topic::grants`] says, and nothing else.
//!
//! The client library for Rust has no requests for this, and Kafka's own tool would start a Java machine for each line. So the three
//! requests are written here, in version 1 of Kafka's protocol (<https://kafka.apache.org/protocol>), and sent over our own TLS as the
//! operator.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use holdfast_proto::topic::{self, Operation, Resource};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{certificates, layout::Layout};

const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Far more than a list of a few dozen entries needs.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Numbers of the protocol.
mod number {
    pub(super) const DESCRIBE: i16 = 29;
    pub(super) const CREATE: i16 = 30;
    pub(super) const DELETE: i16 = 31;
    pub(super) const VERSION: i16 = 1;
    pub(super) const TOPIC: i8 = 2;
    pub(super) const GROUP: i8 = 3;
    pub(super) const LITERAL: i8 = 3;
    pub(super) const READ: i8 = 3;
    pub(super) const WRITE: i8 = 4;
    pub(super) const DESCRIBE_CONFIGS: i8 = 10;
    pub(super) const ALLOW: i8 = 3;
    /// In a filter, for any of the numbers above.
    pub(super) const ANY: i8 = 1;
}

/// One line of the broker's list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    resource: i8,
    name: String,
    pattern: i8,
    principal: String,
    host: String,
    operation: i8,
    permission: i8,
}

/// What becomes of entries for those who are no services of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strangers {
    /// The brokers are ours alone.
    Removed,
    /// They may have business of their own there.
    Kept,
}

/// Has the list of the stack's broker say what it should and nothing else.
pub(super) async fn ensure_grants(layout: &Layout) -> Result<()> {
    in_time(async {
        let stream = TcpStream::connect(("127.0.0.1", layout.kafka_port())).await?;
        let mut session = certificates::as_operator(layout, stream).await?;
        ensure(&mut session, Strangers::Removed).await
    })
    .await
}

/// Has the list of brokers anywhere (`host:port`, several separated by commas) say what our services may do, and nothing else of them.
/// `identity` is the folder of a certificate that the brokers take for an administrator's, and of their authority. Any broker will do:
/// it passes changes on.
pub(crate) async fn ensure_grants_at(brokers: &str, identity: &Path) -> Result<()> {
    let mut outcome = Err(anyhow::anyhow!("there is no broker"));
    for broker in brokers.split(',').map(str::trim) {
        let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
        outcome = in_time(async {
            let stream = TcpStream::connect(broker).await?;
            let mut session = certificates::connect(identity, host.trim_matches(['[', ']']), stream).await?;
            ensure(&mut session, Strangers::Kept).await
        })
        .await
        .with_context(|| format!("at {broker}"));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn in_time(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(ANSWER_TIME_MAX, work).await.context("the broker does not answer in time")?
}

/// What is missing is added, and what is too much is taken away.
async fn ensure(session: &mut (impl AsyncRead + AsyncWrite + Unpin), strangers: Strangers) -> Result<()> {
    let (there, wanted) = (describe(session).await?, wanted());
    change(session, number::CREATE, wanted.difference(&there)).await?;
    change(session, number::DELETE, excess(&there, &wanted, strangers)).await?;
    // It is the controller that has taken them, and the broker follows.
    loop {
        let there = describe(session).await?;
        if wanted.is_subset(&there) && excess(&there, &wanted, strangers).next().is_none() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn excess<'a>(
    there: &'a BTreeSet<Entry>,
    wanted: &'a BTreeSet<Entry>,
    strangers: Strangers,
) -> impl Iterator<Item = &'a Entry> {
    let is_ours = |entry: &&Entry| wanted.iter().any(|own| own.principal == entry.principal);
    there.difference(wanted).filter(move |entry| strangers == Strangers::Removed || is_ours(entry))
}

fn wanted() -> BTreeSet<Entry> {
    let entry = |grant: topic::Grant| {
        let (resource, name) = match grant.resource {
            Resource::Topic(name) => (number::TOPIC, name),
            Resource::Group(name) => (number::GROUP, name),
        };
        Entry {
            resource,
            name,
            pattern: number::LITERAL,
            principal: format!("User:{}", grant.service),
            host: "*".to_owned(),
            operation: match grant.operation {
                Operation::Read => number::READ,
                Operation::Write => number::WRITE,
                Operation::DescribeConfigs => number::DESCRIBE_CONFIGS,
            },
            permission: number::ALLOW,
        }
    };
    topic::grants().into_iter().map(entry).collect()
}

async fn describe(session: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<BTreeSet<Entry>> {
    let mut request = Request::new(number::DESCRIBE);
    request.int8(number::ANY).null().int8(number::ANY).null().null().int8(number::ANY).int8(number::ANY);
    let answer = request.send(session).await?;
    read_entries(&mut Answer(&answer)).context("the broker's list cannot be read")?
}

/// `None`: cut short.
fn read_entries(answer: &mut Answer<'_>) -> Option<Result<BTreeSet<Entry>>> {
    answer.int32()?;
    if let Err(error) = answer.outcome()? {
        return Some(Err(error));
    }
    let mut entries = BTreeSet::new();
    for _ in 0..answer.int32()? {
        let (resource, name, pattern) = (answer.int8()?, answer.text()?, answer.int8()?);
        for _ in 0..answer.int32()? {
            let (principal, host) = (answer.text()?, answer.text()?);
            let (operation, permission) = (answer.int8()?, answer.int8()?);
            let name = name.clone();
            entries.insert(Entry { resource, name, pattern, principal, host, operation, permission });
        }
    }
    Some(Ok(entries))
}

/// Creates these entries, or deletes them: the filter of a deletion looks like the one entry that it selects.
async fn change<'a>(
    session: &mut (impl AsyncRead + AsyncWrite + Unpin),
    what: i16,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<()> {
    let entries: Vec<&Entry> = entries.collect();
    if entries.is_empty() {
        return Ok(());
    }
    let mut request = Request::new(what);
    request.int32(i32::try_from(entries.len())?);
    for entry in entries {
        request.int8(entry.resource).text(&entry.name).int8(entry.pattern);
        request.text(&entry.principal).text(&entry.host).int8(entry.operation).int8(entry.permission);
    }
    let answer = request.send(session).await?;
    let mut answer = Answer(&answer);
    let mut outcomes = || {
        answer.int32()?;
        for _ in 0..answer.int32()? {
            if let Err(error) = answer.outcome()? {
                return Some(Err(error));
            }
            if what == number::DELETE {
                answer.skip_deleted()?;
            }
        }
        Some(Ok(()))
    };
    outcomes().context("the broker's answer cannot be read")?
}

/// A request; numbers are big-endian.
struct Request(Vec<u8>);

impl Request {
    fn new(key: i16) -> Self {
        // The first four bytes are for the length.
        let mut request = Self(vec![0; 4]);
        request.int16(key).int16(number::VERSION).int32(i32::from(key)).text("holdfast");
        request
    }

    fn int8(&mut self, value: i8) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn int16(&mut self, value: i16) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn int32(&mut self, value: i32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Names of ours, far below the limit of 32 KiB.
    fn text(&mut self, value: &str) -> &mut Self {
        self.int16(i16::try_from(value.len()).unwrap_or(i16::MAX));
        self.0.extend(value.bytes().take(i16::MAX.unsigned_abs().into()));
        self
    }

    /// No text: in a filter, any.
    fn null(&mut self) -> &mut Self {
        self.int16(-1)
    }

    /// Returns the answer without its length and the number of the request.
    async fn send(mut self, session: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<Vec<u8>> {
        let length = u32::try_from(self.0.len() - 4)?;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        session.write_all(&self.0).await?;
        session.flush().await?;
        let length = usize::try_from(session.read_u32().await?)?;
        ensure!((4..=ANSWER_BYTES_MAX).contains(&length), "an answer of {length} bytes");
        let mut answer = vec![0; length];
        session.read_exact(&mut answer).await?;
        Ok(answer.split_off(4))
    }
}

/// What is left of an answer; each part is `None` if the answer is cut short.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn take<const BYTES: usize>(&mut self) -> Option<[u8; BYTES]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn int8(&mut self) -> Option<i8> {
        self.take().map(i8::from_be_bytes)
    }

    fn int16(&mut self) -> Option<i16> {
        self.take().map(i16::from_be_bytes)
    }

    fn int32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    /// Empty if there is none, which has the length -1.
    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.int16()?).unwrap_or(0);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// A number, and a text that explains it.
    fn outcome(&mut self) -> Option<Result<()>> {
        let (code, text) = (self.int16()?, self.text()?);
        Some(match code {
            0 => Ok(()),
            code => Err(anyhow::anyhow!("error {code} of Kafka: {text}")),
        })
    }

    /// The entries that a filter has deleted.
    fn skip_deleted(&mut self) -> Option<()> {
        for _ in 0..self.int32()? {
            let _ = self.outcome()?;
            self.int8()?;
            self.text()?;
            self.int8()?;
            self.text()?;
            self.text()?;
            self.int8()?;
            self.int8()?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        let principal = "User:order".to_owned();
        Entry {
            resource: 2,
            name: name.to_owned(),
            pattern: 3,
            principal,
            host: "*".to_owned(),
            operation: 4,
            permission: 3,
        }
    }

    /// A list of the broker is read, and any part of it, and anything else that may arrive, without a panic.
    #[test]
    fn lists_are_read() {
        let mut list = Request(Vec::new());
        list.int32(0).int16(0).null().int32(2);
        for name in ["order.created", "t"] {
            list.int8(2).text(name).int8(3).int32(1);
            list.text("User:order").text("*").int8(4).int8(3);
        }
        let read = read_entries(&mut Answer(&list.0)).expect("complete").expect("no error");
        assert_eq!(read, BTreeSet::from([entry("order.created"), entry("t")]));
        for end in 0..list.0.len() {
            assert!(read_entries(&mut Answer(&list.0[..end])).is_none(), "{end}");
        }
        let mut refused = Request(Vec::new());
        refused.int32(0).int16(31).text("no").int32(0);
        let error = read_entries(&mut Answer(&refused.0)).expect("complete").expect_err("an error");
        assert_eq!(error.to_string(), "error 31 of Kafka: no");
    }

    /// A service keeps nothing that the table does not have. Strangers keep what they have where they may be.
    #[test]
    fn a_service_has_nothing_but_what_the_table_says() {
        let wanted = wanted();
        let stranger = Entry { principal: "User:reporting".to_owned(), ..entry("order.created") };
        let everybody = Entry { principal: "User:*".to_owned(), ..entry("order.created") };
        let more = entry("payment.completed");
        let there = wanted.iter().chain([&stranger, &everybody, &more]).cloned().collect();
        let excess = |strangers| excess(&there, &wanted, strangers).cloned().collect::<BTreeSet<_>>();
        assert_eq!(excess(Strangers::Kept), BTreeSet::from([more.clone()]));
        assert_eq!(excess(Strangers::Removed), BTreeSet::from([more, stranger, everybody]));
    }

    /// The list has the same entries as the table, each for one service at one resource.
    #[test]
    fn the_list_says_what_the_table_says() {
        let wanted = wanted();
        assert_eq!(wanted.len(), topic::grants().len());
        assert!(wanted.contains(&entry("order.created")));
        assert!(wanted.iter().all(|entry| entry.pattern == number::LITERAL && entry.name != "*"));
    }
}
