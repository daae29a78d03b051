//! Tables that fit a terminal. A row is always one line: what is copied, such as an id, is whole; long words are cut with `…`, and columns
//! that can be done without are left out. Where the width is not known nothing is cut.

use std::fmt;

use console::Term;
use holdfast_proto::text::on_one_line;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::colour;

/// Between two columns.
const GAP: usize = 2;
/// A column that can be cut keeps this much, or its header.
const CUT_WIDTH_MIN: usize = 16;

/// Columns of states, whose words have colours on a terminal.
const STATES: [&str; 2] = ["STATE", "RESULT"];

/// Rows under a header.
pub(crate) struct Table {
    header: Vec<&'static str>,
    /// Columns that can be cut.
    cut: Vec<usize>,
    /// Columns that can be done without; the last one goes first.
    spare: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), cut: Vec::new(), spare: Vec::new(), rows: Vec::new() }
    }

    /// These columns may be cut.
    pub(crate) fn cutting(mut self, columns: &[&str]) -> Self {
        self.cut = self.places(columns);
        self
    }

    /// These columns may be left out, the last one first.
    pub(crate) fn sparing(mut self, columns: &[&str]) -> Self {
        self.spare = self.places(columns);
        self
    }

    fn places(&self, columns: &[&str]) -> Vec<usize> {
        columns.iter().filter_map(|column| self.header.iter().position(|name| name == column)).collect()
    }

    /// Cells are text of others: each stays in its row, and acts on no terminal.
    pub(crate) fn add_row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| on_one_line(cell.as_ref()).into_owned()).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As it looks on `columns` columns; `None` if that is not known. The words of states are marked for [`colour::painted`] if they are to
    /// have colours.
    fn render(&self, columns: Option<usize>, words: Words) -> String {
        let mut widths: Vec<usize> = (0..self.header.len()).map(|place| self.width_of(place)).collect();
        let mut shown: Vec<usize> = (0..self.header.len()).collect();
        if let Some(most) = columns {
            let total = |shown: &[usize], widths: &[usize]| {
                shown.iter().map(|place| widths[*place] + GAP).sum::<usize>().saturating_sub(GAP)
            };
            // First what is the same in all rows says least; ages are the same by accident.
            let same = |place: &&usize| {
                self.rows.len() > 1
                    && self.header[**place] != "AGE"
                    && self.rows.windows(2).all(|pair| pair[0].get(**place) == pair[1].get(**place))
            };
            let in_turn = self.spare.iter().rev().filter(same).chain(self.spare.iter().rev());
            let mut spare: Vec<usize> = in_turn.copied().collect();
            spare.reverse();
            loop {
                let wanted = total(&shown, &widths);
                let over = wanted.saturating_sub(most);
                if over == 0 {
                    break;
                }
                let least = |place: usize| CUT_WIDTH_MIN.max(self.header[place].len());
                let room: usize = self
                    .cut
                    .iter()
                    .filter(|place| shown.contains(place))
                    .map(|place| widths[*place].saturating_sub(least(*place)))
                    .sum();
                if room >= over || spare.is_empty() {
                    self.cut_by(over.min(room), &shown, &mut widths, least);
                    break;
                }
                if let Some(place) = spare.pop() {
                    shown.retain(|kept| *kept != place);
                }
            }
        }
        let header: Vec<String> = self.header.iter().map(|name| (*name).to_owned()).collect();
        let is_marked = |place: usize| words == Words::Marked && STATES.contains(&self.header[place]);
        let header = line(&header, &shown, &widths, |_| false);
        let rows = self.rows.iter().map(|row| line(row, &shown, &widths, is_marked));
        std::iter::once(header).chain(rows).collect::<Vec<_>>().join("\n")
    }

    fn width_of(&self, place: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.width());
        cells.chain([self.header[place].width()]).max().unwrap_or(0)
    }

    /// Takes from the widest first.
    fn cut_by(&self, mut over: usize, shown: &[usize], widths: &mut [usize], least: impl Fn(usize) -> usize) {
        while over > 0 {
            let places =
                self.cut.iter().filter(|place| shown.contains(place) && widths[**place] > least(**place));
            let Some(widest) = places.max_by_key(|place| widths[**place]) else { return };
            widths[*widest] -= 1;
            over -= 1;
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = if colour::are_on() { Words::Marked } else { Words::Plain };
        f.write_str(&self.render(terminal_columns(), words))
    }
}

/// Whether the words of states are to have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    Plain,
    Marked,
}

/// For snapshots: as it looks on terminals of several widths, and where the width is not known.
#[cfg(test)]
pub(crate) fn at_all_widths(table: &Table) -> String {
    let widths = [Some(60), Some(80), Some(120), Some(200), None];
    let shown = widths.map(|columns| {
        let name = columns.map_or_else(|| "unknown".to_owned(), |columns| columns.to_string());
        format!("--- {name}\n{}\n", table.render(columns, Words::Plain))
    });
    shown.concat()
}

/// Of standard output; `None` if it is no terminal, or one that does not know.
fn terminal_columns() -> Option<usize> {
    Some(usize::from(Term::stdout().size_checked()?.1)).filter(|columns| *columns > 0)
}

fn line(cells: &[String], shown: &[usize], widths: &[usize], is_marked: impl Fn(usize) -> bool) -> String {
    let mut line = String::new();
    for (index, place) in shown.iter().enumerate() {
        let whole = cells.get(*place).map_or("", String::as_str);
        let cell = cut(whole, widths[*place]);
        let is_last = index + 1 == shown.len();
        let fill = if is_last { 0 } else { widths[*place].saturating_sub(cell.width()) + GAP };
        line.push_str(&if is_marked(*place) { colour::marked(whole, &cell) } else { cell.as_str().into() });
        line.extend(std::iter::repeat_n(' ', fill));
    }
    line.truncate(line.trim_end().len());
    line
}

/// The beginning of a text, if all of it is too wide.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        kept.push(c);
    }
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters() -> Table {
        let mut table = Table::new(&["ID", "AGE", "SERVICE", "TOPIC", "CLASS", "REASON"])
            .cutting(&["REASON"])
            .sparing(&["CLASS", "SERVICE", "TOPIC"]);
        let id = "01a21184-8763-7214-acea-bb1c3b689082";
        table.add_row([
            id,
            "17m",
            "payment",
            "order.created",
            "decode",
            "record key is not the event's user_id, nor any",
        ]);
        table.add_row([
            id,
            "2d",
            "delivery",
            "order.created",
            "wrong-topic",
            "päckchen 📦📦📦 belongs to payment.completed",
        ]);
        table
    }

    /// At every width each row is one line with its whole id; what is the same in all rows goes first, and nothing is wider than the
    /// terminal unless there is no choice.
    #[test]
    fn rows_fit_the_terminal() {
        let at = |columns| letters().render(columns, Words::Plain);
        let whole = "\
ID                                    AGE  SERVICE   TOPIC          CLASS        REASON
01a21184-8763-7214-acea-bb1c3b689082  17m  payment   order.created  decode       record key is not the event's user_id, nor any
01a21184-8763-7214-acea-bb1c3b689082  2d   delivery  order.created  wrong-topic  päckchen 📦📦📦 belongs to payment.completed";
        assert_eq!(at(None), whole);
        assert_eq!(at(Some(200)), whole);
        assert_eq!(
            at(Some(120)),
            "\
ID                                    AGE  SERVICE   TOPIC          CLASS        REASON
01a21184-8763-7214-acea-bb1c3b689082  17m  payment   order.created  decode       record key is not the event's user_id,…
01a21184-8763-7214-acea-bb1c3b689082  2d   delivery  order.created  wrong-topic  päckchen 📦📦📦 belongs to payment.com…"
        );
        assert_eq!(
            at(Some(80)),
            "\
ID                                    AGE  CLASS        REASON
01a21184-8763-7214-acea-bb1c3b689082  17m  decode       record key is not the e…
01a21184-8763-7214-acea-bb1c3b689082  2d   wrong-topic  päckchen 📦📦📦 belongs…"
        );
        assert_eq!(
            at(Some(60)),
            "\
ID                                    AGE  REASON
01a21184-8763-7214-acea-bb1c3b689082  17m  record key is no…
01a21184-8763-7214-acea-bb1c3b689082  2d   päckchen 📦📦📦 …"
        );
        for columns in 60..140 {
            assert!(at(Some(columns)).lines().all(|line| line.width() <= columns), "{columns}");
        }
        assert_eq!(at(Some(1)).lines().count(), 3, "narrower than anything");
    }

    /// Colours take no room: at every width a table is the same with and without them, and nothing but its states has one.
    #[test]
    fn colours_change_no_column() {
        let mut table =
            Table::new(&["NAME", "STATE", "PORT", "DETAIL"]).cutting(&["DETAIL"]).sparing(&["PORT"]);
        table.add_row(["order", "ready", "50051", "ready or not"]);
        table.add_row([
            "payment-2",
            "unready",
            "50062",
            "does not answer on its admin port, and has not for a while",
        ]);
        table.add_row(["kafka", "starting", "9092", ""]);
        for columns in (20..140).map(Some).chain([None]) {
            let plain = table.render(columns, Words::Plain);
            let coloured = colour::in_colours(&table.render(columns, Words::Marked));
            assert_eq!(console::strip_ansi_codes(&coloured), plain, "{columns:?}");
            assert_eq!(coloured.matches("\u{1b}[0m").count(), 3, "{coloured}");
            assert!(coloured.contains("\u{1b}[31munready\u{1b}[0m"), "{coloured}");
        }
    }

    /// What strangers have written stays in its cell, and acts on no terminal.
    #[test]
    fn a_cell_stays_a_cell() {
        let mut table = Table::new(&["ID", "KEY"]);
        table.add_row(["1", "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}1;1H\r\nSTATE  redriven \u{202e}"]);
        let shown = table.render(None, Words::Plain);
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(!shown.chars().any(|c| c != '\n' && c.is_control()), "{shown:?}");
        assert!(
            shown.contains(r"\u001b]0;owned\u0007\u001b[2J\u009b1;1H\r\nSTATE  redriven \u202e"),
            "{shown}"
        );
    }
}
