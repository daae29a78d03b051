//! A time in an address or a form, with the words of the commands: `2h` ago, `2026-01-31`, or `2026-01-31T12:00:00Z`.

use holdfast_operator::moment::parse_time;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A time as it was written, and when that is; or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct When {
    text: String,
    at: Option<OffsetDateTime>,
}

impl When {
    /// As it was written; empty if no time was.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) const fn at(&self) -> Option<OffsetDateTime> {
        self.at
    }

    /// Written so that it stays the same: what somebody looks at for a while is then still what they have looked at.
    pub(crate) fn fixed(&self) -> Self {
        let text = self.at.and_then(|at| at.format(&Rfc3339).ok());
        Self { text: text.unwrap_or_default(), at: self.at }
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?.trim().to_owned();
        let at = (!text.is_empty()).then(|| parse_time(&text)).transpose().map_err(D::Error::custom)?;
        Ok(Self { text, at })
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

#[cfg(test)]
impl When {
    pub(crate) fn parse(text: &str) -> Result<Self, serde::de::value::Error> {
        use serde::de::{IntoDeserializer as _, value::StrDeserializer};
        let text: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
        Self::deserialize(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time is kept as it was written, and can be fixed; what is none is refused, and nothing is any time.
    #[test]
    fn a_time_is_kept_as_it_was_written() {
        let ago = When::parse(" 2h ").expect("a time");
        assert_eq!(ago.text(), "2h");
        let fixed = ago.fixed();
        assert_eq!(When::parse(fixed.text()).expect("a time"), fixed, "it stays the same");
        assert_eq!(fixed.at(), ago.at());
        assert_eq!(When::parse("2026-01-31").expect("a date").fixed().text(), "2026-01-31T00:00:00Z");
        assert_eq!(When::parse("").expect("any time"), When::default());
        assert_eq!(When::default().fixed(), When::default());
        for wrong in ["yesterday", "7", "2026-13-01", "<script>"] {
            let why = When::parse(wrong).expect_err("no time").to_string();
            assert!(why.starts_with("must be a time such as"), "{wrong}: {why}");
        }
    }
}
