//! Identifiers that cross the borders of services.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// Why a text is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a hyphenated UUID, or the nil UUID.
    #[error("must be a UUID")]
    NotUuid,
    /// Empty or too long.
    #[error("must have 1 to {max} characters")]
    Length {
        /// The largest number of bytes.
        max: usize,
    },
    /// A character that the identifier can't hold.
    #[error("must be printable ASCII")]
    Character,
}

/// The id of an order, `UUIDv7`, made by the order service. It is the saga's id too (`ce_subject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct OrderId(Uuid);

impl OrderId {
    /// A new id; later ids sort later.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Accepts the hyphenated form in lower case only: one order has one spelling.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() != 36 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(IdError::NotUuid);
        }
        let uuid = Uuid::try_parse(text).map_err(|_| IdError::NotUuid)?;
        if uuid.is_nil() { Err(IdError::NotUuid) } else { Ok(Self(uuid)) }
    }

    /// The UUID, for a database column.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for OrderId {
    /// From a database column.
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The largest number of bytes in a user id; it is a Kafka key and part of primary keys.
pub const USER_ID_BYTES_MAX: usize = 128;

/// Whose order or account it is: the token's `sub`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct UserId(String);

impl UserId {
    /// 1 to 128 printable ASCII characters without spaces.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        printable(text, USER_ID_BYTES_MAX, |c| c.is_ascii_graphic()).map(Self)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The largest number of bytes in an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Names one intention of a client, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// 1 to 255 printable ASCII characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        printable(text, IDEMPOTENCY_KEY_BYTES_MAX, |c| c.is_ascii_graphic() || c == ' ').map(Self)
    }

    /// A key for a call whose client sent none, so that a retry below the edge is still safe.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn printable(text: &str, max: usize, allowed: fn(char) -> bool) -> Result<String, IdError> {
    if text.is_empty() || text.len() > max {
        return Err(IdError::Length { max });
    }
    if text.chars().all(allowed) { Ok(text.to_owned()) } else { Err(IdError::Character) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An order has one spelling: no braces, no urn, no capitals, no nil.
    #[test]
    fn order_ids_have_one_spelling() {
        let id = OrderId::generate();
        assert_eq!(OrderId::parse(&id.to_string()), Ok(id));
        for bad in [
            "",
            "x",
            "00000000-0000-0000-0000-000000000000",
            &id.as_uuid().simple().to_string(),
            &id.as_uuid().urn().to_string(),
            &id.as_uuid().braced().to_string(),
            &OrderId(Uuid::max()).to_string().to_uppercase(),
        ] {
            assert_eq!(OrderId::parse(bad), Err(IdError::NotUuid), "{bad}");
        }
    }

    /// Keys and users keep to their limits.
    #[test]
    fn keys_and_users_keep_to_their_limits() {
        assert!(IdempotencyKey::parse(&"k".repeat(255)).is_ok());
        assert!(IdempotencyKey::parse("a key with spaces").is_ok());
        for bad in ["", "ключ", "a\nb", &"k".repeat(256)] {
            assert!(IdempotencyKey::parse(bad).is_err(), "{bad:?}");
        }
        assert!(UserId::parse("user-123").is_ok());
        for bad in ["", "a b", "a\0", &"u".repeat(129)] {
            assert!(UserId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
