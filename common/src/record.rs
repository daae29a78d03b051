//! A Kafka record: raw bytes that must survive unchanged, also in a dead letter.

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::panic;

/// One header; names may repeat, values may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: String,
    /// The value as it was sent.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with a text value.
    pub fn new(name: &str, value: impl Into<Bytes>) -> Self {
        Self { name: name.to_owned(), value: Some(value.into()) }
    }
}

/// A record of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Unix time in milliseconds, where the record has one.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// In order.
    pub headers: Vec<Header>,
    /// Some header names are not UTF-8 and could not be read.
    pub headers_unreadable: bool,
}

impl Record {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize =
            self.headers.iter().map(|header| header.name.len() + length(&header.value)).sum();
        length(&self.key) + length(&self.value) + headers
    }

    /// Copies a message out of librdkafka's memory.
    #[must_use]
    pub fn from_message(message: &BorrowedMessage<'_>) -> Self {
        let mut headers = Vec::new();
        let mut headers_unreadable = false;
        if let Some(native) = message.headers() {
            for index in 0..native.count() {
                // rdkafka panics on a name that isn't UTF-8 (message.rs, `to_str().unwrap()`); a stranger's record
                // must not stop the consumer.
                let header = panic::tolerated(|| {
                    let header = native.get(index);
                    Header { name: header.key.to_owned(), value: header.value.map(Bytes::copy_from_slice) }
                });
                match header {
                    Some(header) => headers.push(header),
                    None => headers_unreadable = true,
                }
            }
        }
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers,
            headers_unreadable,
        }
    }
}

/// Stored headers that can't be read back: a defect, or somebody else wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored headers are not valid")]
pub struct HeaderCodecError;

/// Length that marks an absent value.
const ABSENT: u32 = u32::MAX;

/// Headers for a `bytea` column: for each, length and bytes of the name, length and bytes of the value, lengths as
/// big-endian `u32`.
#[must_use]
pub fn encode_headers(headers: &[Header]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let mut put = |bytes: Option<&[u8]>| {
        // A broker accepts far less than 4 GiB.
        let length = bytes.map_or(ABSENT, |bytes| u32::try_from(bytes.len()).unwrap_or(ABSENT - 1));
        encoded.extend_from_slice(&length.to_be_bytes());
        encoded.extend_from_slice(bytes.unwrap_or_default());
    };
    for header in headers {
        put(Some(header.name.as_bytes()));
        put(header.value.as_deref());
    }
    encoded
}

/// The reverse of [`encode_headers`].
pub fn decode_headers(encoded: &[u8]) -> Result<Vec<Header>, HeaderCodecError> {
    fn take<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, HeaderCodecError> {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(HeaderCodecError)?;
        *rest = after;
        let length = u32::from_be_bytes(*length);
        if length == ABSENT {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| HeaderCodecError)?;
        let (bytes, after) = rest.split_at_checked(length).ok_or(HeaderCodecError)?;
        *rest = after;
        Ok(Some(bytes))
    }
    let mut rest = encoded;
    let mut headers = Vec::new();
    while !rest.is_empty() {
        let name = take(&mut rest)?.ok_or(HeaderCodecError)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| HeaderCodecError)?;
        headers.push(Header { name, value: take(&mut rest)?.map(Bytes::copy_from_slice) });
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever headers a record has come back byte for byte.
        #[test]
        fn headers_round_trip(
            headers in prop::collection::vec(
                (".{0,20}", prop::option::of(prop::collection::vec(any::<u8>(), 0..40))),
                0..8,
            )
        ) {
            let headers: Vec<Header> = headers
                .into_iter()
                .map(|(name, value)| Header { name, value: value.map(Bytes::from) })
                .collect();
            prop_assert_eq!(decode_headers(&encode_headers(&headers)), Ok(headers));
        }

        /// Decoding any bytes returns, and never panics.
        #[test]
        fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_headers(&bytes);
        }
    }
}
