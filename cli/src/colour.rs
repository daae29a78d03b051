//! Colours of states on a terminal: green is well, yellow wants to be looked at, red is broken. They repeat what the word says, so that
//! nothing is lost without them, and no program that reads a pipe sees any.
//!
//! What is printed is escaped (`output`), and a colour would be, too. So a word gets marks, which become colours after that. They have a
//! number that is drawn anew in each process: nobody else can write them into an id or a reason.

use std::{
    borrow::Cow,
    sync::{LazyLock, OnceLock},
};

use clap::ValueEnum;
use console::Term;

/// Whether to print in colours: on a terminal, unless `NO_COLOR` is set or the terminal is a dumb one; in pipes and files, too; nowhere.
/// (A word of its own for each would make the help of every command a longer one.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    Auto,
    Always,
    Never,
}

static ARE_ON: OnceLock<bool> = OnceLock::new();

/// For the rest of the process; without it there are none.
pub(crate) fn choose(choice: Choice) {
    let on = match choice {
        Choice::Auto => Term::stdout().features().colors_supported(),
        Choice::Always => true,
        Choice::Never => false,
    };
    // The first choice counts, and there is one.
    let _ = ARE_ON.set(on);
}

pub(crate) fn are_on() -> bool {
    ARE_ON.get().copied().unwrap_or(false)
}

/// What a word of a state means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Good,
    Attention,
    Bad,
}

const TONES: [Tone; 3] = [Tone::Good, Tone::Attention, Tone::Bad];

impl Tone {
    /// Of components, certificates, checks, dead letters and redrives; other words have no colour.
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "ready" | "valid" | "good" | "redriven" | "done" => Self::Good,
            "degraded" | "starting" | "attention" | "parked" | "running" | "refused" | "behind"
            | "stale-trust" => Self::Attention,
            "unready" | "down" | "bad" | "failed" | "would-fail" | "lost" | "abandoned" | "expired"
            | "revoked" | "untrusted" | "foreign-name" | "no-key" | "foreign-key" | "missing"
            | "unreadable" => Self::Bad,
            _ => return None,
        })
    }

    /// SGR (ECMA-48, 8.3.117).
    const fn sequence(self) -> &'static str {
        match self {
            Self::Good => "\u{1b}[32m",
            Self::Attention => "\u{1b}[33m",
            Self::Bad => "\u{1b}[31m",
        }
    }
}

const END: &str = "\u{1b}[0m";

/// Before a digit. It has no character that is escaped.
static MARK: LazyLock<String> = LazyLock::new(|| format!("\u{fdd0}{:016x}:", fastrand::u64(..)));

/// A state as a table shows it, `shown`, which may be cut, with marks by its whole word.
pub(crate) fn marked<'s>(word: &str, shown: &'s str) -> Cow<'s, str> {
    match Tone::of(word) {
        Some(tone) => Cow::Owned(format!("{mark}{}{shown}{mark}{}", tone as u8, TONES.len(), mark = *MARK)),
        None => Cow::Borrowed(shown),
    }
}

/// Marks as colours. The text is escaped already.
pub(crate) fn painted(text: &str) -> Cow<'_, str> {
    if !are_on() || !text.contains(MARK.as_str()) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(with_colours(text))
}

fn with_colours(text: &str) -> String {
    let mut text = text.replace(&format!("{}{}", *MARK, TONES.len()), END);
    for tone in TONES {
        text = text.replace(&format!("{}{}", *MARK, tone as u8), tone.sequence());
    }
    text
}

/// For tests of what is shown: with colours, whatever was chosen.
#[cfg(test)]
pub(crate) fn in_colours(text: &str) -> String {
    with_colours(&holdfast_proto::text::on_its_lines(text))
}

#[cfg(test)]
mod tests {
    use holdfast_native::state::ComponentState;

    use super::*;

    /// What is well, what is not and what is broken differ, also where the word is cut; what has no meaning has no colour; and nobody
    /// else's text gets one.
    #[test]
    fn words_of_states_have_colours() {
        assert_eq!(in_colours(&marked("ready", "ready")), "\u{1b}[32mready\u{1b}[0m");
        assert_eq!(in_colours(&marked("degraded", "degr…")), "\u{1b}[33mdegr…\u{1b}[0m");
        assert_eq!(in_colours(&marked("down", "down")), "\u{1b}[31mdown\u{1b}[0m");
        assert_eq!(marked("1 Quay Street", "1 Quay Street"), "1 Quay Street");
        let strange = "\u{1b}[32mready\u{1b}[0m \u{fdd0}0000000000000000:0ready";
        let shown = in_colours(strange);
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        for state in [
            ComponentState::Ready,
            ComponentState::Degraded,
            ComponentState::Starting,
            ComponentState::Unready,
            ComponentState::Down,
        ] {
            let tone = Tone::of(state.name()).expect("each state has one");
            assert_eq!(tone == Tone::Good, state == ComponentState::Ready);
            assert_eq!(tone == Tone::Bad, [ComponentState::Unready, ComponentState::Down].contains(&state));
        }
    }

    /// Without a choice, as in a test, nothing has a colour.
    #[test]
    fn there_are_none_unless_they_are_chosen() {
        let text = marked("ready", "ready").into_owned();
        assert_eq!(painted(&text), text);
        assert!(!are_on());
    }
}
