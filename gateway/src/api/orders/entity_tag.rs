//! The entity tag of an order is its version: `"7"`.

use axum::http::{HeaderMap, HeaderValue, header};

/// `ETag`.
pub(super) fn of(version: i64) -> HeaderValue {
    // Digits and quotes are always a value.
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// The states that a client has (`If-None-Match`, RFC 9110).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IfNoneMatch {
    /// `*`: any.
    Any,
    /// These versions. Tags that are not ours match nothing.
    Versions(Vec<i64>),
}

impl IfNoneMatch {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let fields = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let tags: Vec<&str> = fields.flat_map(|field| field.split(',')).map(str::trim).collect();
        if tags == ["*"] {
            return Self::Any;
        }
        Self::Versions(tags.into_iter().filter_map(version).collect())
    }

    /// Whether the client has this version.
    pub(super) fn matches(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }

    /// The newest version that the client has; 0 for none.
    pub(super) fn newest(&self) -> i64 {
        match self {
            Self::Any => 0,
            Self::Versions(versions) => versions.iter().copied().max().unwrap_or_default(),
        }
    }
}

/// Proxies may make a tag weak, which says nothing to us.
fn version(tag: &str) -> Option<i64> {
    let text = tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')?;
    text.parse().ok().filter(|version: &i64| *version > 0 && version.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(fields: &[&'static str]) -> IfNoneMatch {
        let field = |text: &&'static str| (header::IF_NONE_MATCH, HeaderValue::from_static(text));
        IfNoneMatch::of(&fields.iter().map(field).collect())
    }

    /// Lists, weak tags and several fields are understood; tags that are not ours are none.
    #[test]
    fn tags_are_understood() {
        for (fields, expected) in [
            (&[][..], &[][..]),
            (&["\"7\""], &[7]),
            (&["W/\"7\""], &[7]),
            (&["\"3\" , \"x\",\"5\"", "\"9\""], &[3, 5, 9]),
            (&["7", "\"07\"", "\"-1\"", "\"+1\"", "\"\"", "\"", "w/\"2\"", "\"99999999999999999999\""], &[]),
            (&["*, \"1\""], &[1]),
        ] {
            assert_eq!(parsed(fields), IfNoneMatch::Versions(expected.to_vec()), "{fields:?}");
        }
        assert_eq!(parsed(&["*"]), IfNoneMatch::Any);
        let condition = parsed(&["\"3\", \"5\""]);
        assert!(condition.matches(3) && !condition.matches(4) && condition.newest() == 5);
        assert_eq!(of(12), "\"12\"");
    }
}
