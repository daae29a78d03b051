//! Examples at the end of each `--help`. They are commands that work: a test parses each of them.

use clap::Command;

/// Commands, by the words of the command that they are an example of, and what each does.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("holdfast up", "start a stack and wait until it is ready"),
            ("holdfast status", "each component, asked now"),
            ("holdfast doctor", "what is wrong here, and which command helps"),
        ],
    ),
    (
        "up",
        &[
            ("holdfast up", "start everything and wait until it is ready"),
            ("holdfast up --replicas order=2 --replicas gateway=2 --with redis", "with several replicas"),
            ("holdfast up --set kafka.dead_letters_in_a_row_max=500", "with a setting that is kept"),
            ("holdfast up --port-offset 1000 --data-dir /tmp/second", "a second stack beside the first"),
            ("holdfast up --without console", "without the pages for operators"),
            ("holdfast up --set console.payloads=masked", "with pages that show no keys or values"),
        ],
    ),
    (
        "down",
        &[
            ("holdfast down", "stop everything; the data is kept"),
            ("holdfast down --delete-data", "delete the data too, after a question"),
        ],
    ),
    (
        "status",
        &[
            ("holdfast status", "each component, asked now"),
            ("holdfast status --watch", "again every 2 s"),
            ("holdfast status -o json", "for programs"),
        ],
    ),
    (
        "logs",
        &[
            ("holdfast logs order payment --level warn --since 10m", "what went wrong in two services"),
            ("holdfast logs --follow", "everything from now on, merged by time"),
            ("holdfast logs kafka --tail 50", "the last 50 entries of one"),
        ],
    ),
    (
        "roll",
        &[
            ("holdfast roll", "all services, by the programs beside this command"),
            ("holdfast roll order order-2 --wait 2m", "two of them"),
        ],
    ),
    (
        "restart",
        &[
            ("holdfast restart order", "one service, which takes up changed settings"),
            ("holdfast restart kafka orders-db", "one after the other"),
        ],
    ),
    (
        "scale",
        &[
            ("holdfast scale order=2", "a second replica of order"),
            ("holdfast scale order=1 gateway=2", "that one goes, and a gateway comes"),
        ],
    ),
    ("doctor", &[("holdfast doctor", "what is wrong here, and which command helps")]),
    (
        "completions",
        &[("holdfast completions bash > ~/.local/share/bash-completion/completions/holdfast", "for bash")],
    ),
    ("env", &[("eval \"$(holdfast env)\"", "addresses of the stack as variables of this shell")]),
    (
        "token",
        &[
            ("holdfast token --user alice", "an hour for alice"),
            ("holdfast token --user alice --scope \"orders:read\" --ttl 15m", "to look only"),
        ],
    ),
    ("certs init", &[("holdfast certs init --dir pki", "in a folder of their own")]),
    ("certs keep", &[("holdfast certs keep --dir pki --every 1h", "until it is stopped")]),
    ("certs issue", &[("holdfast certs issue reporting --ttl 12h", "for an identity of your own")]),
    (
        "certs rotate",
        &[
            ("holdfast certs rotate", "renew every certificate"),
            ("holdfast certs rotate order payment", "of these two"),
            ("holdfast certs rotate --ca", "replace the authority, after a question"),
        ],
    ),
    (
        "certs revoke",
        &[("holdfast certs revoke gateway --reason \"stolen laptop\"", "refused everywhere within seconds")],
    ),
    (
        "certs audit",
        &[
            ("holdfast certs audit --since 7d", "what was done in a week"),
            ("holdfast certs audit gateway -o json", "to one identity, and to the authority; for programs"),
        ],
    ),
    ("certs status", &[("holdfast certs status -o json", "for programs; 1 if one cannot be used")]),
    (
        "secrets init",
        &[("holdfast secrets init --dir secrets order payment delivery", "a password for each")],
    ),
    (
        "dlq list",
        &[
            ("holdfast dlq list", "what is parked, oldest first"),
            (
                "holdfast dlq list --service payment --class decode --since 2h -o wide",
                "everything about some of them",
            ),
            ("holdfast dlq list --class decode -o id", "ids for other commands"),
        ],
    ),
    (
        "dlq show",
        &[
            ("holdfast dlq show 01a21184", "by the beginning of its id"),
            ("holdfast dlq show 01a21184 --raw value.bin", "its value as bytes"),
        ],
    ),
    (
        "dlq redrive",
        &[
            ("holdfast dlq redrive --all", "what would be done"),
            ("holdfast dlq redrive 01a21184 --execute", "one letter, with what waits behind it"),
            ("holdfast dlq redrive --class attempts-exhausted --execute --rate 50/s --max 1000", "slowly"),
            ("holdfast dlq redrive --status", "who redrives, since when, how far"),
            ("holdfast dlq redrive --cancel --service payment", "end the one that runs there"),
        ],
    ),
    (
        "dlq edit",
        &[
            (
                "holdfast dlq edit 01a21184 --value event.json --reason \"amount was missing\"",
                "another event",
            ),
            (
                "holdfast dlq edit 01a21184 --header ce_type=holdfast.order.created.v1 --reason \"wrong type\"",
                "another header",
            ),
            (
                "holdfast dlq edit --topic order.created --class schema-violation --fill --dry-run",
                "how many lack headers or a key, and which would be refused; without --dry-run they are edited",
            ),
            (
                "holdfast dlq edit 01a21184 --fill --everywhere --reason \"sent by hand\"",
                "the same event in all services that have it parked",
            ),
        ],
    ),
    (
        "dlq discard",
        &[
            ("holdfast dlq discard 01a21184 --reason \"test data\"", "one, after a question"),
            (
                "holdfast dlq discard --class decode --since 1h --reason \"known garbage\" --yes",
                "by a filter",
            ),
            ("holdfast dlq discard - --reason \"known garbage\" --yes", "ids on standard input"),
        ],
    ),
    (
        "dlq restore",
        &[
            ("holdfast dlq restore 01a21184 --reason \"it was no test data\"", "one that was discarded"),
            (
                "holdfast dlq restore --class decode --since 1h --reason \"the wrong filter\"",
                "all of a kind, after a question",
            ),
            (
                "holdfast dlq restore - --reason \"the wrong filter\"",
                "ids on standard input, as from `holdfast dlq list --state discarded -o id`",
            ),
        ],
    ),
    (
        "dlq resume",
        &[
            (
                "holdfast dlq resume --service payment --reason \"the writer is fixed\"",
                "the limit counts from zero",
            ),
            (
                "holdfast dlq resume --service payment --end-allowance --reason \"enough\"",
                "take back what is left of an allowance",
            ),
            (
                "holdfast dlq resume --service payment --park 5000 --reason \"known garbage\"",
                "5,000 more may be parked",
            ),
        ],
    ),
    (
        "dlq skip",
        &[(
            "holdfast dlq skip --service payment --topic order.created --partition 3 --offset 4711 --reason \"broken batch\"",
            "one record that no client can read",
        )],
    ),
    ("dlq stats", &[("holdfast dlq stats", "how many, of which kind, and stopped consumers")]),
    (
        "dlq audit",
        &[
            ("holdfast dlq audit --since 1d", "who did what since yesterday"),
            ("holdfast dlq audit 01a21184", "to one"),
        ],
    ),
    (
        "orders show",
        &[("holdfast orders show 01a21184-8763-7214-acea-bb1c3b689082", "its story over all services")],
    ),
    ("orders stuck", &[("holdfast orders stuck --older-than 5m", "what unfinished orders wait for")]),
    ("outbox list", &[("holdfast outbox list --service order", "what cannot be published, and why")]),
    ("outbox retry", &[("holdfast outbox retry --service order --all", "now, rather than after the pause")]),
    (
        "outbox drop",
        &[("holdfast outbox drop --service order 17 --reason \"too large\"", "after a question")],
    ),
    ("positions", &[("holdfast positions --service order", "where it reads, and any gap")]),
    (
        "console",
        &[
            ("holdfast console", "look"),
            ("holdfast console --allow-write --author alice", "and redrive, edit and discard dead letters"),
        ],
    ),
    (
        "topics ensure",
        &[(
            "holdfast topics ensure --brokers kafka:9092 --replication-factor 3 --min-insync-replicas 2",
            "on three brokers",
        )],
    ),
    (
        "databases ensure",
        &[(
            "holdfast databases ensure --identity-dir operator --secrets-dir secrets order=orders-db:5432",
            "roles and database of one service",
        )],
    ),
    (
        "reconcile",
        &[
            ("holdfast reconcile", "which events were lost; nothing is changed"),
            ("holdfast reconcile --execute --reason \"power loss of the broker\"", "re-emit them"),
        ],
    ),
    (
        "chaos run",
        &[("holdfast chaos run --scenario kill-kafka --seed 7 --duration 1m", "on a stack of its own")],
    ),
    ("chaos list", &[("holdfast chaos list", "the scenarios")]),
    ("chaos check", &[("holdfast chaos check chaos-7", "judge the evidence of a run again")]),
    ("certs", &[("holdfast certs status", "each certificate, its end, and who uses it")]),
    ("secrets", &[("holdfast secrets init --dir secrets order payment delivery", "a password for each")]),
    ("dlq", &[("holdfast dlq stats", "how many, of which kind, and stopped consumers")]),
    ("orders", &[("holdfast orders stuck", "orders that wait for more than a minute, and for what")]),
    ("outbox", &[("holdfast outbox list", "events that cannot be published, and why")]),
    ("topics", &[("holdfast topics ensure --brokers kafka:9092", "on a broker of your own")]),
    (
        "databases",
        &[(
            "holdfast databases ensure --identity-dir operator --secrets-dir secrets order=orders-db:5432",
            "roles and database of one service",
        )],
    ),
    ("chaos", &[("holdfast chaos list", "the scenarios")]),
    ("bench", &[("holdfast bench --phase 10s", "figures of the running stack")]),
];

/// The command with its examples.
pub(crate) fn added(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (path, examples)| {
        let words: Vec<&str> = path.split_whitespace().collect();
        add(command, &words, &text(examples))
    })
}

fn add(command: Command, path: &[&str], text: &str) -> Command {
    match path {
        [] => command.after_help(text.to_owned()),
        [first, rest @ ..] => command.mut_subcommand(first, |inner| add(inner, rest, text)),
    }
}

fn text(examples: &[(&str, &str)]) -> String {
    let lines: Vec<String> =
        examples.iter().map(|(command, does)| format!("  # {does}\n  {}", on_lines(command))).collect();
    format!("Examples:\n{}", lines.join("\n"))
}

/// A line of an example that is copied from a terminal of 80 columns is whole.
const LINE_LENGTH_MAX: usize = 74;

/// A command on as many lines as it needs, which a shell reads as one.
fn on_lines(command: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for part in command.split(' ') {
        match words.last_mut().filter(|_| is_quoted) {
            Some(word) => word.extend([" ", part]),
            None => words.push(part.to_owned()),
        }
        is_quoted ^= part.matches('"').count() % 2 == 1;
    }
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= LINE_LENGTH_MAX => line.extend([" ", word.as_str()]),
            _ => lines.push(word),
        }
    }
    lines.join(" \\\n      ")
}

/// The words of a line as a shell would pass them on, without redirections and what is around the command.
#[cfg(test)]
pub(crate) fn words(line: &str) -> Vec<String> {
    let line = line.split(" > ").next().unwrap_or_default();
    let line = line.strip_prefix("eval \"$(").and_then(|line| line.strip_suffix(")\"")).unwrap_or(line);
    let quoted = line.split('"').enumerate();
    quoted
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::Arguments;

    fn leaves(command: &Command, path: &str) -> Vec<String> {
        let inner: Vec<&Command> = command
            .get_subcommands()
            .filter(|inner| inner.get_name() != "help" && !inner.is_hide_set())
            .collect();
        if inner.is_empty() {
            return vec![path.trim().to_owned()];
        }
        inner.iter().flat_map(|inner| leaves(inner, &format!("{path} {}", inner.get_name()))).collect()
    }

    /// Every command has examples, and each is one that is understood as that command.
    #[test]
    fn every_command_has_examples_that_work() {
        let command = Arguments::command().mut_args(|argument| argument.env(None::<&'static str>));
        for leaf in leaves(&command, "") {
            assert!(EXAMPLES.iter().any(|(path, _)| *path == leaf), "{leaf} has no example");
        }
        let all =
            EXAMPLES.iter().flat_map(|(path, examples)| examples.iter().map(move |(line, _)| (path, line)));
        for (path, line) in all {
            let words = words(line);
            assert!(words[1..].join(" ").starts_with(path), "{line} is no example of {path}");
            if let Err(error) = command.clone().try_get_matches_from(&words) {
                panic!("{line}: {error}");
            }
        }
    }

    /// What is too long for a line goes on behind a `\`, never within quotes.
    #[test]
    fn a_long_example_is_one_command_on_several_lines() {
        assert_eq!(on_lines("holdfast up"), "holdfast up");
        let (long, words) = ("x".repeat(60), "y ".repeat(40));
        assert_eq!(
            on_lines(&format!("holdfast dlq skip --topic {long} --reason \"{words}\" --yes")),
            format!(
                "holdfast dlq skip --topic \\\n      {long} --reason \\\n      \"{words}\" \\\n      --yes"
            )
        );
    }
}
