//! What is said to whoever makes a mistake, or asks a stack that is not there: each with its exit code, without a stack.

mod snapshot;

use std::{fmt::Write as _, fs, path::Path, process::Command};

/// The sentence and the code, as a terminal shows them; the test's folder is `DIR`.
fn asked(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    // Not a variable of this machine, but for the folder: what is given so is not shown as if it had to be.
    command.env_clear().env("HOLDFAST_DATA_DIR", folder.join("stack")).env("PATH", "/nowhere");
    let output = command.args(arguments).current_dir(folder).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text").replace(&folder.display().to_string(), "DIR");
    let words: Vec<String> = arguments
        .iter()
        .map(
            |word| {
                if word.is_empty() || word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() }
            },
        )
        .collect();
    let mut shown = format!("$ holdfast {}\n{}{}", words.join(" "), text(output.stdout), text(output.stderr));
    writeln!(shown, "exit {}\n", output.status.code().expect("it ended by itself")).expect("a text");
    shown
}

fn check(name: &str, cases: &[&[&str]]) {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("there");
    let shown: String = cases.iter().map(|arguments| asked(&folder, arguments)).collect();
    snapshot::check(name, &shown);
    let inside = fs::read_dir(&folder).expect("there").count();
    assert_eq!(inside, 0, "a mistake leaves nothing behind");
}

/// Whatever is asked of a stack that is not there says so in the same words, with the command that starts one.
#[test]
fn without_a_stack() {
    check(
        "errors/no-stack.txt",
        &[
            &["status"],
            &["status", "-o", "json"],
            &["down"],
            &["logs"],
            &["logs", "order"],
            &["env"],
            &["token", "--user", "alice"],
            &["restart", "order"],
            &["scale", "order=2"],
            &["roll"],
            &["bench"],
            &["positions"],
            &["reconcile"],
            &["orders", "show", "01a21184-8763-7214-acea-bb1c3b689082"],
            &["orders", "stuck"],
            &["outbox", "list"],
            &["dlq", "stats"],
            &["dlq", "list"],
            &["dlq", "show", "01a21184-8763-7214-acea-bb1c3b689082"],
            &["dlq", "redrive", "--all"],
            &["dlq", "audit"],
            &["certs", "status"],
            &["certs", "rotate"],
            &["chaos", "check", "nowhere"],
        ],
    );
}

/// Names that nobody has, and values that are none.
#[test]
fn wrong_names() {
    check(
        "errors/names.txt",
        &[
            &["stats"],
            &["dlq", "lst"],
            &["logs", "oder"],
            &["restart", "order-10"],
            &["restart"],
            &["roll", "kafka"],
            &["scale"],
            &["scale", "order"],
            &["scale", "kafka=2"],
            &["scale", "order=10"],
            &["scale", "order=0"],
            &["up", "--replicas", "order=two"],
            &["up", "--with", "kafka"],
            &["positions", "--service", "gateway"],
            &["dlq", "list", "--service", "orders"],
            &["dlq", "list", "--class", "decoed"],
            &["dlq", "list", "--topic", "oder.created"],
            &["dlq", "list", "--order", "USER"],
            &["dlq", "show", "nonsense"],
            &["orders", "show", "01a21184"],
            &["certs", "rotate", "../order"],
            &["chaos", "run", "--scenario", "nothing"],
            &["status", "-o", "yaml"],
            &["completions", "tcsh"],
        ],
    );
}

/// An empty value is a mistake, and never means everything.
#[test]
fn empty_values() {
    check(
        "errors/empty.txt",
        &[
            &["status", "--data-dir", ""],
            &["logs", ""],
            &["token", "--user", ""],
            &["token", "--user", "alice", "--scope", ""],
            &["dlq", "redrive", "--order", "", "--execute"],
            &["dlq", "redrive", "--topic", "", "--execute"],
            &["dlq", "redrive", "--class", "", "--execute"],
            &["dlq", "redrive", "--execute"],
            &["dlq", "show"],
            &["dlq", "discard", "01a21184", "--reason", ""],
            &["outbox", "drop", "--service", "order", "17", "--reason", " "],
            &["certs", "revoke", "order", "--reason", ""],
            &["reconcile", "--execute"],
        ],
    );
}

/// Numbers and times that are none, or beyond all limits.
#[test]
fn wrong_numbers_and_times() {
    check(
        "errors/numbers.txt",
        &[
            &["up", "--port-offset", "15001"],
            &["up", "--wait", "soon"],
            &["up", "--wait", "18446744073709551615"],
            &["token", "--user", "alice", "--ttl", "99999999h"],
            &["token", "--user", "alice", "--scope", "orders:read,orders:write"],
            &["token", "--user", "alice", "--scope", "orders:all"],
            &["logs", "--since", "yesterday"],
            &["logs", "--tail", "-1"],
            &["logs", "--level", "loud"],
            &["dlq", "list", "--since", "2026"],
            &["dlq", "list", "--limit", "0"],
            &["dlq", "redrive", "--all", "--rate", "0/s"],
            &["dlq", "redrive", "--all", "--max", "0"],
            &["orders", "stuck", "--older-than", "-1s"],
            &["certs", "issue", "reporting", "--ttl", "25h"],
        ],
    );
}
