//! A real terminal of 80 columns on which a test types command lines, and what it shows in the end.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use holdfast_testkit::{skipped, stack::binary};

pub const COLUMNS: usize = 80;
/// What a question of ours ends with.
const QUESTION: &str = "[y/N] ";

/// Where lines are typed.
pub struct Terminal {
    /// The working folder, which has an executable `editor` if there is something to edit.
    folder: PathBuf,
}

/// What became of a line.
pub struct Shown {
    pub code: i32,
    /// As it is on the screen afterwards, line by line.
    pub text: String,
    /// All that was written to the terminal, with what moves its cursor and changes its colours.
    pub written: String,
}

impl Terminal {
    /// None, and that is said, where `script` (util-linux) is not installed: the test is skipped.
    pub fn open(folder: &Path) -> Option<Self> {
        if Command::new("script").arg("--version").output().is_err() {
            skipped("`script` (util-linux) is not installed, so no terminal was there to type on");
            return None;
        }
        Some(Self { folder: folder.to_owned() })
    }

    /// Types a line, and a yes whenever it is asked. The command finds the stack of `data_dir`, or else the one of the folder.
    pub fn type_line(&self, line: &str, data_dir: Option<&Path>) -> Shown {
        let programs = binary().parent().expect("a folder").display().to_string();
        let mut command = Command::new("script");
        let typed = format!("stty cols {COLUMNS} rows 24; {line}");
        command
            .args(["--quiet", "--return", "--command", &typed, "/dev/null"])
            .env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap_or_default()))
            .env("USER", "tester")
            .env("EDITOR", self.folder.join("editor"))
            .env_remove("VISUAL")
            .env_remove("HOLDFAST_DATA_DIR")
            .envs(data_dir.map(|folder| ("HOLDFAST_DATA_DIR", folder)))
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut terminal = command.spawn().expect("script runs");
        let (mut keyboard, mut screen) =
            (terminal.stdin.take().expect("piped"), terminal.stdout.take().expect("piped"));
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        let mut answered = 0;
        loop {
            match screen.read(&mut chunk).expect("read") {
                0 => break,
                count => bytes.extend_from_slice(&chunk[..count]),
            }
            let shown = String::from_utf8_lossy(&bytes);
            if shown.ends_with(QUESTION) && shown.matches(QUESTION).count() > answered {
                answered += 1;
                keyboard.write_all(b"y\n").expect("typed");
            }
        }
        let status = terminal.wait().expect("it ends");
        let written = String::from_utf8_lossy(&bytes).into_owned();
        let text = screen_of(&written);
        eprintln!("$ {line}\n{text}");
        Shown { code: status.code().unwrap_or(-1), text, written }
    }
}

/// What a terminal shows after all of this was written to it: progress bars are drawn over themselves, and wiped.
fn screen_of(written: &str) -> String {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut characters = written.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => column = 0,
            '\n' => {
                (row, column) = (row + 1, 0);
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\u{1b}' => {
                let mut number = String::new();
                // A sequence that is not of the kind `ESC [ numbers letter` shows nothing either.
                let end = characters.by_ref().find(|c| {
                    if c.is_ascii_digit() {
                        number.push(*c);
                    }
                    c.is_ascii_alphabetic()
                });
                match (end, number.as_str()) {
                    (Some('K'), "2") => lines[row].clear(),
                    (Some('K'), "" | "0") => lines[row].truncate(column),
                    (Some('J'), "" | "0") => {
                        lines[row].truncate(column);
                        lines.truncate(row + 1);
                    }
                    (Some('A'), up) => row = row.saturating_sub(up.parse().unwrap_or(1)),
                    _ => {}
                }
            }
            shown => {
                let line = &mut lines[row];
                if line.len() < column {
                    line.resize(column, ' ');
                }
                if column < line.len() {
                    line[column] = shown;
                } else {
                    line.push(shown);
                }
                column += 1;
            }
        }
    }
    let text: Vec<String> =
        lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect();
    text.join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was drawn over or wiped is not there any more.
    #[test]
    fn a_screen_shows_what_is_left() {
        assert_eq!(screen_of("one\r\ntwo\r\n"), "one\ntwo");
        assert_eq!(screen_of("10 %\r50 %\r\u{1b}[2Kdone\r\n"), "done");
        assert_eq!(screen_of("a\r\nbar\r\n\u{1b}[1A\u{1b}[2Kb  "), "a\nb");
        assert_eq!(screen_of("\u{1b}[31mred\u{1b}[0m\u{1b}[?25l"), "red");
        assert_eq!(screen_of("three\rth"), "three");
    }
}
