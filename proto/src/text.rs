//! Text of others: what in it would act on a terminal, or hide, instead of being read.

use std::{borrow::Cow, fmt::Write as _};

/// An error of Kafka's client without the name that it has for its code: it writes `BrokerTransportFailure (Local: Broker transport
/// failure)`. `text` is what it says, and `code` how it writes the code, if there is one.
#[must_use]
pub fn kafka_in_words(text: &str, code: Option<&str>) -> String {
    let words = code.and_then(|code| code.split_once(" (")?.1.strip_suffix(')'));
    let Some((code, words)) = code.zip(words) else { return text.to_owned() };
    let words = ["Local: ", "Broker: "].iter().find_map(|whose| words.strip_prefix(whose)).unwrap_or(words);
    text.replace(code, words)
}

/// Whether nothing is seen of a character although it is there: white space, and what Unicode has displays ignore.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
        )
}

/// Directional overrides and isolates: a text can be displayed as another one than it is.
#[must_use]
pub const fn reorders(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// They are no control characters, but begin a new line all the same.
#[must_use]
pub const fn separates_lines(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Whether a terminal would act on a character, or let a text look like another one.
fn must_be_escaped(c: char) -> bool {
    let hides = matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    c.is_control() || hides || reorders(c) || separates_lines(c)
}

/// The text on one line, harmless on a terminal. Escapes are those of JSON, so that JSON stays the same JSON.
#[must_use]
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, must_be_escaped)
}

/// The same for text that has lines of its own.
#[must_use]
pub fn on_its_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && must_be_escaped(c))
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' if is_escaped(c) => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if is_escaped(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String can't fail.
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a terminal would act on is shown as an escape; what people write stays.
    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        for (text, expected) in [
            ("1 Żółta, שדרות 📦 naïve", "1 Żółta, שדרות 📦 naïve"),
            ("\u{1b}]0;owned\u{7}\u{1b}[2J", "\\u001b]0;owned\\u0007\\u001b[2J"),
            ("a\rb\tc\nd", "a\\rb\\tc\\nd"),
            ("\u{7f}\u{9b}2J", "\\u007f\\u009b2J"),
            ("a\u{202e}b\u{2066}c", "a\\u202eb\\u2066c"),
            ("a\u{2028}b\u{200b}c\u{feff}", "a\\u2028b\\u200bc\\ufeff"),
            ("\u{e0041}", "\\udb40\\udc41"),
        ] {
            assert_eq!(on_one_line(text), expected, "{text:?}");
        }
        assert_eq!(on_its_lines("a\n\u{1b}b\r\n"), "a\n\\u001bb\\r\n");
    }

    /// Of an error of Kafka's client the words stay.
    #[test]
    fn an_error_of_kafka_is_said_in_words() {
        let code = "BrokerTransportFailure (Local: Broker transport failure)";
        let said = format!("Meta data fetch error: {code}");
        assert_eq!(kafka_in_words(&said, Some(code)), "Meta data fetch error: Broker transport failure");
        assert_eq!(kafka_in_words(code, Some(code)), "Broker transport failure");
        for same in ["Client dropped", ""] {
            assert_eq!(kafka_in_words(same, None), same);
            assert_eq!(kafka_in_words(same, Some("Odd")), same);
        }
    }

    proptest! {
        /// Whatever the text is, nothing in what is shown acts on a terminal; shown again it is the same.
        #[test]
        fn nothing_acts_on_a_terminal(text in "\\PC*|.*|[\\x00-\\x20\\x7f-\u{a0}\u{2000}-\u{2070}a]*") {
            let shown = on_one_line(&text);
            prop_assert!(!shown.chars().any(|c| c.is_control() || reorders(c) || separates_lines(c)));
            prop_assert_eq!(on_one_line(&shown), shown.clone());
            let lines = on_its_lines(&text);
            prop_assert_eq!(lines.matches('\n').count(), text.matches('\n').count());
            prop_assert!(!lines.chars().any(|c| c != '\n' && c.is_control()));
        }
    }
}
