//! The command line as it is parsed, and as its help shows it.

use clap::{Command, CommandFactory as _};

use crate::{Arguments, examples};

/// All commands with their examples. A help is the same for everybody: what the variables of this shell say is not in it, and what is given
/// by a variable is not shown as if it had to be given.
pub(crate) fn command() -> Command {
    finished(Arguments::command())
}

fn finished(command: Command) -> Command {
    let mut command = shaped(examples::added(command));
    command.build();
    with_whole_usage(command.mut_subcommands(without_global))
}

/// What every command has is in the help of `holdfast` only.
fn without_global(command: Command) -> Command {
    command
        .mut_args(|argument| {
            let is_global = argument.is_global_set();
            if is_global { argument.hide(true) } else { argument }
        })
        .mut_subcommands(without_global)
}

fn shaped(command: Command) -> Command {
    command.mut_args(|argument| argument.hide_env_values(true)).mut_subcommands(shaped)
}

/// The usage in errors is that of the help. Otherwise it is made of what is given, by variables too.
fn with_whole_usage(mut command: Command) -> Command {
    let usage = command.render_usage().to_string();
    let usage = on_lines(usage.strip_prefix("Usage: ").unwrap_or(&usage));
    command.override_usage(usage).mut_subcommands(with_whole_usage)
}

/// A usage is not cut to lines by clap; behind `Usage: ` each has this much room on 80 columns.
const USAGE_LENGTH_MAX: usize = 72;

/// Cut between options, none from its value.
fn on_lines(usage: &str) -> String {
    let mut lines = vec![String::new()];
    for part in usage.replace(" <", "\u{0}<").split(' ') {
        let part = part.replace('\u{0}', " ");
        match lines.last_mut() {
            Some(line) if !line.is_empty() && line.len() + 1 + part.len() <= USAGE_LENGTH_MAX => {
                line.extend([" ", part.as_str()]);
            }
            Some(line) if line.is_empty() => line.push_str(&part),
            _ => lines.push(part),
        }
    }
    lines.join("\n           ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::snapshot;

    const COLUMNS: usize = 80;

    /// Every command that is shown, by its words, each with its help.
    fn helps(command: &mut Command, words: &str, helps: &mut Vec<(String, String)>) {
        helps.push((words.to_owned(), command.render_long_help().to_string()));
        for inner in command.get_subcommands_mut().filter(|inner| !inner.is_hide_set()) {
            if inner.get_name() != "help" {
                let words = format!("{words} {}", inner.get_name());
                self::helps(inner, &words, helps);
            }
        }
    }

    /// The help of each command is the one that somebody has read, ends with examples, and fits a terminal.
    #[test]
    fn every_help_is_as_it_was_read() {
        let mut all = Vec::new();
        helps(&mut finished(Arguments::command().term_width(COLUMNS)), "holdfast", &mut all);
        let mut names = BTreeSet::new();
        for (words, help) in all {
            assert!(help.contains("\nExamples:\n  # "), "{words} has no example:\n{help}");
            for line in help.lines() {
                assert!(line.chars().count() <= COLUMNS, "{words}: {line}");
            }
            let name = format!("{}.txt", words.replace(' ', "-"));
            snapshot::check(&format!("help/{name}"), &help);
            names.insert(name);
        }
        snapshot::check_names("help", &names);
    }
}
