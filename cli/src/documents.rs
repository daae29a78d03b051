//! Every command line of the documents is one that this command understands: what has changed its name is found here, not by an
//! operator at night.

use std::{collections::BTreeSet, fs, path::Path};

use clap::{Command, CommandFactory as _};

use crate::{Arguments, examples};

/// Documents whose commands people type.
const DOCUMENTS: [&str; 15] = [
    "README.md",
    "docs/console.md",
    "docs/runbook.md",
    "docs/runbook-dead-letters.md",
    "docs/alerts.md",
    "docs/compose.md",
    "docs/kubernetes.md",
    "docs/secrets.md",
    "docs/postgresql.md",
    "docs/traces.md",
    "docs/contract.md",
    "docs/chaos-upgrade.md",
    "docs/measurements.md",
    "docs/gaps.md",
    "docs/glossary.md",
];

/// What stands for something in the documents, and a value for it.
const PLACEHOLDERS: [(&str, &str); 17] = [
    ("ORDER_ID", "01a21184-8763-7214-acea-bb1c3b689082"),
    ("ID", "01a21184-8763-7214-acea-bb1c3b689082"),
    ("TEXT", "why"),
    ("REASON", "why"),
    ("NAME", "order"),
    ("SERVICE", "order"),
    ("COMPONENT", "order"),
    ("FILE", "event.json"),
    ("S", "order"),
    ("U", "alice"),
    ("USER", "alice"),
    ("T", "order.created"),
    ("P", "0"),
    ("O", "17"),
    ("N", "1"),
    ("SHELL", "bash"),
    ("HOST:PORT", "localhost:50051"),
];

/// The command lines of a document: those after a `$`, and those in backquotes. What only sketches a command, with brackets, dots or
/// alternatives, is none.
fn lines(text: &str) -> BTreeSet<String> {
    let typed = text.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
    let typed = typed.map(|line| line.split("  #").next().unwrap_or_default());
    // Code blocks have backquotes of their own at both ends.
    let prose: String = text.split("```").step_by(2).collect();
    let quoted: Vec<&str> = prose.split('`').skip(1).step_by(2).collect();
    let all = typed.chain(quoted).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let names_several = |line: &String| line.split(' ').skip(1).take(2).any(|word| word.contains('/'));
    let is_sketch =
        |line: &String| line.contains(['[', '…', '|', '<']) || line.contains("...") || names_several(line);
    all.filter(|line| line.starts_with("holdfast ") && !is_sketch(line)).collect()
}

/// The words of a line as a shell would pass them on, with values for what stands for something.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = examples::words(line);
    for word in &mut words {
        let name = word.trim_end_matches("...");
        if let Some((_, value)) = PLACEHOLDERS.iter().find(|(placeholder, _)| *placeholder == name) {
            (*value).clone_into(word);
        }
    }
    // The id of a row is a number.
    if words.get(1).is_some_and(|word| word == "outbox") {
        words
            .iter_mut()
            .filter(|word| uuid::Uuid::try_parse(word).is_ok())
            .for_each(|word| "17".clone_into(word));
    }
    // Whether a folder has programs is asked while it is read.
    if let Some(place) = words.iter().position(|word| word == "--programs") {
        words.drain(place..(place + 2).min(words.len()));
    }
    words
}

/// What is missing in a command that only names what it is about is no mistake: `holdfast dlq skip` stands for its whole line.
fn is_understood(command: &Command, words: &[String]) -> Result<(), String> {
    use clap::error::ErrorKind;
    match command.clone().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// See the module.
#[test]
fn every_command_of_the_documents_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let command = Arguments::command().mut_args(|argument| argument.env(None::<&'static str>));
    let (mut seen, mut wrong) = (0, Vec::new());
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).expect("there");
        for line in lines(&text) {
            seen += 1;
            if let Err(error) = is_understood(&command, &words(&line)) {
                wrong.push(format!("{document}: {line}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60, "only {seen} were found");
}

/// A line that is wrong is found, wherever it stands.
#[test]
fn a_wrong_line_is_found() {
    let text = "text `holdfast dlq lst` and\n```console\n$ holdfast dlq list --sine 2h     # comment\n```\nthen `holdfast dlq show ID`";
    let found = lines(text);
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        ["holdfast dlq list --sine 2h", "holdfast dlq lst", "holdfast dlq show ID"]
    );
    let command = Arguments::command();
    let wrong: Vec<bool> = found.iter().map(|line| is_understood(&command, &words(line)).is_err()).collect();
    assert_eq!(wrong, [true, true, false]);
}
