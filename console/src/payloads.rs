//! How much of what users have written is shown.

use serde::Deserialize;

use crate::view::Shown;

/// What of keys, headers and values of records is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payloads {
    /// Everything.
    #[default]
    Full,
    /// Names of fields and headers, types and lengths.
    Masked,
    /// Only how many bytes there are.
    Off,
}

impl Payloads {
    /// A key, or the value of a header.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Shown {
        match self {
            Self::Full => Shown::bytes(bytes),
            Self::Masked => {
                let kind = if std::str::from_utf8(bytes).is_ok() { "text" } else { "binary" };
                Shown::of(format!("{kind}, {} bytes", bytes.len()))
            }
            Self::Off => Shown::of(format!("{} bytes", bytes.len())),
        }
    }

    /// An event: masked, each value says its type and length.
    pub(crate) fn event(self, event: serde_json::Value) -> Option<serde_json::Value> {
        match self {
            Self::Full => Some(event),
            Self::Masked => Some(masked(event)),
            Self::Off => None,
        }
    }
}

fn masked(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, masked(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(masked).collect()),
        Value::String(text) => format!("text, {} characters", text.chars().count()).into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Null => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Masked, an event keeps its form and nothing that was written; names of its fields are those of our schemas.
    #[test]
    fn a_masked_event_keeps_its_form() {
        let event = json!({"orderId": "o-1", "total": {"minorUnits": "1250", "count": 7}, "lines": ["secret", true, null]});
        let expected = json!({
            "orderId": "text, 3 characters",
            "total": {"minorUnits": "text, 4 characters", "count": "number"},
            "lines": ["text, 6 characters", "boolean", null],
        });
        assert_eq!(Payloads::Masked.event(event.clone()), Some(expected));
        assert_eq!(Payloads::Full.event(event.clone()), Some(event.clone()));
        assert_eq!(Payloads::Off.event(event), None);
    }

    /// Of bytes, their kind and length are said, or their length alone.
    #[test]
    fn masked_bytes_have_a_length() {
        let of = |payloads: Payloads, bytes: &[u8]| payloads.bytes(bytes).to_string();
        assert_eq!(of(Payloads::Full, b"alice"), "alice");
        assert_eq!(of(Payloads::Masked, b"alice"), "text, 5 bytes");
        assert_eq!(of(Payloads::Masked, &[0xff]), "binary, 1 bytes");
        assert_eq!(of(Payloads::Off, b"alice"), "5 bytes");
    }
}
