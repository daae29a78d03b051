//! Transcripts in documents: the commands of a page are typed on a terminal, and what the page shows below each is compared with what the
//! terminal shows. What differs from run to run (ids, times, ages, places) is replaced by what is always the same.

use std::{collections::BTreeMap, fs, path::PathBuf};

use uuid::Uuid;

/// Set to write down what the terminal shows instead of comparing it.
const UPDATE: &str = "UPDATE_WALK";
/// What ids begin with in a page; the rest is a number.
const COMMON_ID: &str = "01a21184-8763-7214-acea-000000000000";
/// Characters of a text that was cut which are compared.
const CUT_MIN: usize = 10;

/// A page with blocks of ```` ```console ````, in which a line with `$ ` is a command and those below it what it shows.
pub struct Page {
    path: PathBuf,
    /// As it was, and as it would be written.
    parts: Vec<Part>,
}

enum Part {
    /// A line of text, as it is.
    Text(String),
    /// A command, and what the page says that it shows.
    Command { line: String, shows: Vec<String> },
}

impl Page {
    /// # Panics
    ///
    /// If there is none.
    pub fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("the page is there");
        let parts = parse(&text);
        Self { path, parts }
    }

    /// Types the commands below a heading, in their order.
    ///
    /// # Panics
    ///
    /// If one shows something else than the page says, or there is no command.
    pub fn walk(&mut self, heading: &str, names: &mut Names, mut type_line: impl FnMut(&str) -> String) {
        let heading = format!("## {heading}");
        let begin = self.parts.iter().position(|part| matches!(part, Part::Text(text) if *text == heading));
        let begin = begin.unwrap_or_else(|| panic!("the page has no {heading}")) + 1;
        let is_heading = |part: &Part| matches!(part, Part::Text(text) if text.starts_with("## "));
        let length = self.parts[begin..].iter().position(is_heading).unwrap_or(self.parts.len() - begin);
        let mut typed = 0;
        for part in &mut self.parts[begin..begin + length] {
            let Part::Command { line, shows } = part else { continue };
            let shown = names.common(&type_line(&names.real(line)));
            let shown: Vec<String> = shown.lines().map(str::to_owned).collect();
            if std::env::var_os(UPDATE).is_none() {
                assert_eq!(aligned(&shown), aligned(shows), "$ {line}; {UPDATE}=1 writes down what is shown");
            }
            *shows = shown;
            typed += 1;
        }
        assert!(typed > 0, "{heading} has no command");
    }

    /// Writes the page, if that is asked for.
    ///
    /// # Panics
    ///
    /// If it can't be written.
    pub fn close(self) {
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&self.path, print(&self.parts)).expect("written");
        }
    }
}

fn parse(text: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut is_console = false;
    for line in text.lines() {
        let is_fence = line.starts_with("```");
        match parts.last_mut() {
            _ if is_console && line.starts_with("$ ") => {
                parts.push(Part::Command { line: line[2..].to_owned(), shows: Vec::new() });
            }
            Some(Part::Command { shows, .. }) if is_console && !is_fence => shows.push(line.to_owned()),
            _ => parts.push(Part::Text(line.to_owned())),
        }
        if is_fence {
            is_console = line == "```console";
        }
    }
    parts
}

fn print(parts: &[Part]) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(line) => text.push_str(line),
            Part::Command { line, shows } => {
                text.push_str("$ ");
                text.push_str(line);
                for line in shows {
                    text.push('\n');
                    text.push_str(line);
                }
            }
        }
        text.push('\n');
    }
    text
}

/// Columns are as wide as what is in them, and ages differ: how wide a gap is does not matter, nor where a text is cut.
fn aligned(lines: &[String]) -> Vec<String> {
    let cell = |cell: &str| match cell.trim() {
        cut if cut.ends_with('…') => cut.chars().take(CUT_MIN).chain(['…']).collect(),
        whole => whole.to_owned(),
    };
    let row = |line: &String| {
        line.split("  ").map(cell).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join("  ")
    };
    lines.iter().map(row).filter(|line| !line.is_empty()).collect()
}

/// Ids by the ones that stand for them in a page: the first that is shown is the first there.
#[derive(Default)]
pub struct Names {
    ids: BTreeMap<String, String>,
}

impl Names {
    /// A text with what stands for an id replaced by the id.
    pub fn real(&self, text: &str) -> String {
        self.ids.iter().fold(text.to_owned(), |text, (real, common)| text.replace(common, real))
    }

    /// A text with what differs from run to run replaced.
    pub fn common(&mut self, text: &str) -> String {
        let text: Vec<String> = text.lines().map(|line| self.common_line(line)).collect();
        text.join("\n")
    }

    fn common_line(&mut self, line: &str) -> String {
        let mut common = String::new();
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let is_inside =
                common.chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '-');
            let replaced = if is_inside {
                None
            } else {
                self.id(rest)
                    .or_else(|| cut_id(rest))
                    .or_else(|| time(rest))
                    .or_else(|| age(rest))
                    .or_else(|| place(rest))
            };
            let (length, text) = replaced.unwrap_or_else(|| (first.len_utf8(), first.to_string()));
            common.push_str(&text);
            rest = &rest[length..];
        }
        common
    }

    fn id(&mut self, text: &str) -> Option<(usize, String)> {
        const LENGTH: usize = 36;
        let id = text.get(..LENGTH).filter(|id| id.as_bytes()[8] == b'-' && Uuid::try_parse(id).is_ok())?;
        let next = self.ids.len() + 1;
        let common =
            self.ids.entry(id.to_owned()).or_insert_with(|| format!("{}{next:012}", &COMMON_ID[..24]));
        Some((LENGTH, common.clone()))
    }
}

/// The beginning of an id that was cut by its column. Which one it is can't be said any more.
fn cut_id(text: &str) -> Option<(usize, String)> {
    let length = text.bytes().take_while(|byte| byte.is_ascii_hexdigit() || *byte == b'-').count();
    let is_one = (10..36).contains(&length) && text.as_bytes()[8] == b'-' && text[length..].starts_with('…');
    is_one.then(|| (length, COMMON_ID[..length].to_owned()))
}

/// A time of RFC 3339.
fn time(text: &str) -> Option<(usize, String)> {
    let length = text.find('Z')? + 1;
    let is_one = (20..=30).contains(&length)
        && text.get(..length)?.char_indices().all(|(place, c)| match place {
            4 | 7 => c == '-',
            10 => c == 'T',
            13 | 16 => c == ':',
            19 => c == '.' || c == 'Z',
            _ => c.is_ascii_digit() || c == 'Z',
        });
    let whole = if length == 20 { "2026-01-31T12:00:00Z" } else { "2026-01-31T12:00:00.123Z" };
    is_one.then(|| (length, whole.to_owned()))
}

/// `45s`, `12m`, `3h`, `2d`.
fn age(text: &str) -> Option<(usize, String)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let is_unit = text[digits..].starts_with(['s', 'm', 'h', 'd']);
    let ends = text[digits..].chars().nth(1).is_none_or(|next| !next.is_alphanumeric());
    (digits > 0 && is_unit && ends).then(|| (digits + 1, "5s".to_owned()))
}

/// `partition 3 offset 17`.
fn place(text: &str) -> Option<(usize, String)> {
    let number = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = text.strip_prefix("partition ")?;
    let partition = number(rest);
    let rest = rest[partition..].strip_prefix(" offset ")?;
    let length = text.len() - rest.len() + number(rest);
    (partition > 0).then(|| (length, "partition 3 offset 17".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What differs from run to run is replaced, each id by one of its own, and nothing else is touched.
    #[test]
    fn what_differs_is_replaced() {
        let mut names = Names::default();
        let (one, other) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
        let first = "01a21184-8763-7214-acea-000000000001";
        let second = "01a21184-8763-7214-acea-000000000002";
        assert_eq!(
            names.common(&format!("{one}  17s  {other}\n`{one}`")),
            format!("{first}  5s  {second}\n`{first}`")
        );
        assert_eq!(names.real(&format!("show {second}")), format!("show {other}"));
        assert_eq!(
            names.common("at 2026-11-26T20:35:30.1Z, 2026-11-26T20:35:30Z"),
            "at 2026-01-31T12:00:00.123Z, 2026-01-31T12:00:00Z"
        );
        assert_eq!(
            names.common("order.created partition 0 offset 1234"),
            "order.created partition 3 offset 17"
        );
        assert_eq!(names.common("oldest for 2m, 1500 parked"), "oldest for 5s, 1500 parked");
        assert_eq!(names.common(&format!("{}…", &other[..22])), "01a21184-8763-7214-ace…");
        for same in ["1500 redriven", "500/s", "ffffffffffffff", "3 redrives", "0x7d", "a1s", "7 Quay Street"]
        {
            assert_eq!(names.common(same), same);
        }
    }

    /// A page is what it was, but for what commands show.
    #[test]
    fn a_page_is_read_and_written() {
        let text = "# Title\n\n```console\n$ one\nshown\n\nmore\n$ two\n```\n\n$ no command\n```json\n$ nor this\n```\n";
        let parts = parse(text);
        assert_eq!(print(&parts), text);
        let commands: Vec<&str> = parts
            .iter()
            .filter_map(|part| match part {
                Part::Command { line, .. } => Some(line.as_str()),
                Part::Text(_) => None,
            })
            .collect();
        assert_eq!(commands, ["one", "two"]);
        let shown =
            |lines: &[&str]| aligned(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        assert_eq!(shown(&["ID   AGE", "", "a b  5s "]), shown(&["ID  AGE", "a b    5s"]));
        assert_ne!(shown(&["a b"]), shown(&["a  b"]));
        assert_eq!(shown(&["5s  the reason of it a…"]), shown(&["5s  the reason of…"]));
        assert_ne!(shown(&["5s  the reason of…"]), shown(&["5s  another one of…"]));
    }
}
