//! Records that were given to the producer and not answered yet, and the lanes that they occupy.
//!
//! A lane is a topic and a key. Its order is kept by this: rows of a lane are sent in one burst, in order, and the next
//! burst waits until every row of the previous one is answered.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{DeliveryFuture, FutureRecord},
};
use tokio::time::Instant;

use super::{
    measure::{Taken, measure},
    publisher::Client,
    trace,
};
use crate::{
    record::{HeaderCodecError, decode_headers},
    trace::TraceContext,
};

/// A topic and a key, as a hash: a key may have a megabyte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lane([u8; 32]);

impl Lane {
    pub(super) fn new(topic: &str, key: Option<&[u8]>) -> Self {
        let mut text = Vec::with_capacity(topic.len() + key.map_or(0, <[u8]>::len) + 2);
        text.extend_from_slice(topic.as_bytes());
        // No topic has a zero byte; the next byte says whether there is a key.
        text.extend_from_slice(&[0, u8::from(key.is_some())]);
        text.extend_from_slice(key.unwrap_or_default());
        let mut lane = [0; 32];
        lane.copy_from_slice(digest(&SHA256, &text).as_ref());
        Self(lane)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// The table that a row is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Outbox,
    HeldBack,
}

/// A row to publish.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) topic: String,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<u8>,
    pub(super) place: Place,
}

impl Row {
    pub(super) fn lane(&self) -> Lane {
        Lane::new(&self.topic, self.key.as_deref())
    }
}

/// Why a row was not published.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// For a reason in the row itself: its lane is held back.
    #[error("headers cannot be read")]
    Headers(#[from] HeaderCodecError),
    /// The same.
    #[error("record cannot be published")]
    Refused(#[source] KafkaError),
    /// The producer was replaced, or is dead: the row is read again and given to the next one.
    #[error("producer has ended")]
    Ended,
}

impl Failure {
    fn of(error: KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::PurgeQueue
                | RDKafkaErrorCode::PurgeInflight
                | RDKafkaErrorCode::BrokerDestroy
                | RDKafkaErrorCode::State,
            ) => Self::Ended,
            _ => Self::Refused(error),
        }
    }
}

/// A row that was sent, without its content.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) id: i64,
    pub(super) lane: Lane,
    pub(super) topic: String,
    pub(super) place: Place,
    /// That of the event's creation.
    pub(super) trace: Option<TraceContext>,
    pub(super) at: Instant,
}

/// A row that was answered.
pub(super) struct Answer {
    pub(super) sent: Sent,
    pub(super) outcome: Result<(), Failure>,
}

/// What became of a row that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is on its way; an answer will come.
    Taken,
    /// It failed at once: the answer is known, and nothing of its lane may be sent after it.
    Refused,
    /// The producer's queue is full: wait for answers.
    Full,
}

/// Rows on their way. Bounded by whoever sends.
#[derive(Default)]
pub(super) struct Flight {
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    sent: HashMap<i64, Sent>,
    busy: HashMap<Lane, usize>,
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("rows", &self.sent.len()).finish_non_exhaustive()
    }
}

impl Flight {
    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn ids(&self) -> Vec<i64> {
        self.sent.keys().copied().collect()
    }

    pub(super) fn lanes(&self) -> Vec<Lane> {
        self.busy.keys().copied().collect()
    }

    /// The row that has waited longest.
    pub(super) fn oldest(&self) -> Option<(&Sent, Duration)> {
        self.sent.values().min_by_key(|sent| sent.at).map(|sent| (sent, sent.at.elapsed()))
    }

    /// Gives `row` to the producer.
    pub(super) fn send(&mut self, client: &Client, row: &Row) -> Offer {
        let mut sent = Sent {
            id: row.id,
            lane: row.lane(),
            topic: row.topic.clone(),
            place: row.place,
            trace: None,
            at: Instant::now(),
        };
        let mut offer = Offer::Taken;
        let answer = match enqueue(client, row) {
            Ok((delivery, trace)) => {
                sent.trace = trace;
                let sent = sent.clone();
                async move {
                    let outcome = match delivery.await {
                        Ok(Ok(_)) => Ok(()),
                        Ok(Err((error, _))) => Err(Failure::of(error)),
                        Err(_) => Err(Failure::Ended),
                    };
                    match &outcome {
                        Ok(()) => measure(&sent, Taken::Yes),
                        Err(Failure::Refused(_) | Failure::Headers(_)) => measure(&sent, Taken::No),
                        // Not the broker's answer.
                        Err(Failure::Ended) => {}
                    }
                    Answer { sent, outcome }
                }
                .boxed()
            }
            Err(Failure::Refused(error))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
            {
                return Offer::Full;
            }
            Err(failure) => {
                offer = Offer::Refused;
                let sent = sent.clone();
                async move { Answer { sent, outcome: Err(failure) } }.boxed()
            }
        };
        self.answers.push(answer);
        *self.busy.entry(sent.lane).or_default() += 1;
        self.sent.insert(sent.id, sent);
        offer
    }

    /// Waits for answers until all rows of `fresh` are answered, or `until`; returns what came.
    pub(super) async fn answers(&mut self, mut fresh: HashSet<i64>, until: Instant) -> Vec<Answer> {
        let mut came = Vec::new();
        while !fresh.is_empty() {
            match tokio::time::timeout_at(until, self.answers.next()).await {
                Ok(Some(answer)) => {
                    fresh.remove(&answer.sent.id);
                    came.push(answer);
                }
                Ok(None) | Err(_) => break,
            }
        }
        while let Some(Some(answer)) = self.answers.next().now_or_never() {
            came.push(answer);
        }
        for answer in &came {
            self.sent.remove(&answer.sent.id);
            if let Some(count) = self.busy.get_mut(&answer.sent.lane) {
                *count -= 1;
                if *count == 0 {
                    self.busy.remove(&answer.sent.lane);
                }
            }
        }
        came
    }

    /// Waits until there is an answer; forever if nothing is on its way.
    pub(super) async fn landed(&mut self) -> Option<Answer> {
        if self.answers.is_empty() {
            return std::future::pending().await;
        }
        self.answers.next().await
    }

    /// Puts back an answer that [`Flight::landed`] returned, so that it is counted with the others.
    pub(super) fn put_back(&self, answer: Answer) {
        self.answers.push(std::future::ready(answer).boxed());
    }
}

/// Returns the answer to come, and the trace context of the record.
fn enqueue(client: &Client, row: &Row) -> Result<(DeliveryFuture, Option<TraceContext>), Failure> {
    let headers = decode_headers(&row.headers)?;
    let mut native = OwnedHeaders::new_with_capacity(headers.len());
    for header in &headers {
        // A name with a zero byte would panic in rdkafka.
        if header.name.contains('\0') {
            return Err(HeaderCodecError.into());
        }
        native = native.insert(rdkafka::message::Header {
            key: &header.name,
            value: header.value.as_ref().map(Bytes::as_ref),
        });
    }
    if row.topic.contains('\0') {
        return Err(HeaderCodecError.into());
    }
    let mut record = FutureRecord::<[u8], [u8]>::to(&row.topic).headers(native);
    record.key = row.key.as_deref();
    record.payload = row.value.as_deref();
    let delivery = client.send_result(record).map_err(|(error, _)| Failure::of(error))?;
    Ok((delivery, trace::of(&headers)))
}
