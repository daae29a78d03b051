//! The command line: what it prints where, how it reacts to mistakes, and what it says when something is missing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output},
    thread,
    time::{Duration, Instant},
};

use holdfast_native::{layout::service_names, port_offset::PortOffset};

/// A stack's folder that nobody else uses.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn holdfast(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(arguments).env("HOLDFAST_DATA_DIR", data_dir);
    command
}

fn run(data_dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    finished(&mut holdfast(data_dir, arguments))
}

fn finished(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// Ports that no other test uses.
fn ports() -> PortOffset {
    PortOffset::draw([], false).expect("some are free")
}

/// A wrong command line is 2, nothing found is 3, a failure is 1; data is on stdout, talk on stderr.
#[test]
fn exit_codes_are_as_documented() {
    let folder = folder();
    for (arguments, code) in [
        (&["no-such-command"][..], 2),
        (&["up", "--port-offset", "x"], 2),
        (&["up", "--port-offset", "15001"], 2),
        (&["token"], 2),
        (&["token", "--user", "u", "--ttl", "soon"], 2),
        (&["status", "-o", "xml"], 2),
        (&["status"], 3),
        (&["logs"], 3),
        // A known component that has not run here.
        (&["logs", "order-9"], 3),
        (&["env"], 3),
        (&["token", "--user", "u"], 3),
        (&["bench"], 3),
        (&["down"], 0),
    ] {
        let (status, stdout, stderr) = run(folder.path(), arguments);
        assert_eq!(status, Some(code), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
    let (status, stdout, _) = run(folder.path(), &["--help"]);
    assert_eq!(status, Some(0));
    for command in ["up", "down", "status", "logs", "env", "token", "bench"] {
        assert!(stdout.contains(command), "{command} in {stdout}");
        let (status, help, _) = run(folder.path(), &[command, "--help"]);
        assert!(status == Some(0) && help.contains("--data-dir"), "{help}");
    }
}

/// Services that are named by address need no folder; what is missing or contradicts itself is a usage error, in one sentence.
#[test]
fn addresses_need_no_folder() {
    let folder = folder();
    let pki = folder.path().join("pki");
    let (status, _, stderr) = run(folder.path(), &["certs", "init"]);
    assert_eq!(status, Some(0), "{stderr}");
    // Nobody listens there.
    let (address, identity) = ("127.0.0.1:9", pki.join("operator"));
    let identity = identity.to_str().expect("text");
    let by_variables = |arguments: &[&str], variables: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(arguments).env_clear().current_dir(folder.path());
        for variable in variables {
            let value = if *variable == "HOLDFAST_IDENTITY_DIR" { identity } else { address };
            command.env(variable, value);
        }
        finished(&mut command)
    };
    let all = [
        "HOLDFAST_ORDER_ADDRESS",
        "HOLDFAST_PAYMENT_ADDRESS",
        "HOLDFAST_DELIVERY_ADDRESS",
        "HOLDFAST_IDENTITY_DIR",
    ];
    for (arguments, variables, code, expected) in [
        (&["dlq", "list"][..], &all[..3], 2, "give --identity-dir"),
        (&["dlq", "list"], &all[3..], 2, "no address says whom"),
        (&["positions"], &all[2..], 2, "the address of order and payment is missing"),
        (&["outbox", "list", "--service", "payment"], &all[2..], 2, "give --payment-address"),
        (&["dlq", "list", "--order-address", "order"], &all[..], 2, "must be host:port"),
        // The command line goes before the environment.
        (&["dlq", "list", "--data-dir", "."], &all[..], 3, "no stack was started in"),
        (&["dlq", "list", "--data-dir", ".", "--order-address", address], &all[..], 2, "give one of them"),
        (
            &["reconcile", "--identity-dir", "/no/such"],
            &all[..],
            1,
            "the certificate in /no/such cannot be used",
        ),
        (&["dlq", "list"], &all[..], 1, "order"),
        (&["status", "--order-admin-address", "x"], &[][..], 2, "must be host:port"),
        (&["status", "--order-admin-address", address, "--data-dir", "."], &[][..], 2, "give one of them"),
    ] {
        let (status, stdout, stderr) = by_variables(arguments, variables);
        assert_eq!(status, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{expected} in {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
    }
    // Who does not answer is down, and its name that is none is said.
    let asked = [
        "status",
        "-o",
        "json",
        "--order-admin-address",
        "localhost:9",
        "--payment-admin-address",
        "no.invalid:1",
    ];
    let (status, stdout, _) = by_variables(&asked, &[]);
    assert_eq!(status, Some(1));
    let document: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    for component in document["components"].as_array().expect("a list") {
        assert_eq!(component["state"], "down", "{component}");
        let expected = if component["name"] == "order" { "does not answer" } else { "cannot be resolved" };
        assert!(component["detail"].as_str().expect("text").contains(expected), "{component}");
    }
}

/// An empty or unknown value of anything that selects is a usage error, and nothing is done: no folder is created, no
/// token signed, no certificate renewed or revoked.
#[test]
fn an_empty_or_unknown_value_is_a_usage_error() {
    let folder = folder();
    let pki = folder.path().join("pki");
    let dir = pki.to_str().expect("text");
    let (status, _, stderr) = run(folder.path(), &["certs", "init"]);
    assert_eq!(status, Some(0), "{stderr}");
    let content = || {
        let mut files: Vec<_> =
            fs::read_dir(pki.join("order")).expect("there").collect::<Result<_, _>>().expect("read");
        files.sort_by_key(fs::DirEntry::path);
        files.iter().map(|file| fs::read(file.path()).expect("read")).collect::<Vec<_>>()
    };
    let before = content();
    for arguments in [
        &["logs", ""][..],
        &["logs", "nobody"],
        &["up", "--replicas", ""],
        &["up", "--replicas", "kafka=2"],
        &["up", "--replicas", "order=0"],
        &["up", "--with", ""],
        &["up", "--with", "kafka"],
        &["up", "--data-dir", ""],
        &["down", "--data-dir", "", "--delete-data", "--yes"],
        &["status", "--data-dir", ""],
        &["token", "--user", ""],
        &["token", "--user", " "],
        &["positions", "--service", ""],
        &["positions", "--service", "kafka"],
        &["reconcile", "--service", ""],
        &["reconcile", "--order", ""],
        &["reconcile", "--older-than", ""],
        &["reconcile", "--execute"],
        &["reconcile", "--execute", "--reason", " "],
        &["outbox", "list", "--service", ""],
        &["outbox", "retry", "--service", "", "--all"],
        &["outbox", "retry", "--service", "order", ""],
        &["outbox", "drop", "--service", "order", "0", "--reason", "x", "--yes"],
        &["outbox", "drop", "--service", "order", "1", "--reason", " ", "--yes"],
        &["dlq", "list", "--topic", ""],
        &["dlq", "list", "--class", ""],
        &["dlq", "list", "--key", ""],
        &["dlq", "list", "--service", ""],
        &["dlq", "list", "--state", ""],
        &["dlq", "redrive", "", "--execute"],
        &["dlq", "audit", ""],
        &["certs", "issue", "", "--dir", dir],
        &["certs", "issue", "../order", "--dir", dir],
        &["certs", "rotate", "", "--dir", dir],
        &["certs", "rotate", "order", "nobody", "--dir", dir],
        &["certs", "revoke", "", "--reason", "x", "--dir", dir],
        &["certs", "revoke", "nobody", "--reason", "x", "--dir", dir],
        &["certs", "revoke", "order", "--reason", "", "--dir", dir],
    ] {
        let (status, stdout, stderr) = run(folder.path(), arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
    }
    let mut command = holdfast(folder.path(), &["status"]);
    assert_eq!(finished(command.env("HOLDFAST_DATA_DIR", "")).0, Some(2));
    assert_eq!(content(), before, "nothing was done");
    let inside: Vec<_> = fs::read_dir(folder.path()).expect("there").collect();
    assert_eq!(inside.len(), 1, "{inside:?}");
}

/// A time that nothing can wait for, or that no calendar has, is a usage error in every command that takes one, never a panic.
#[test]
fn times_beyond_all_limits_are_usage_errors() {
    let folder = folder();
    for time in [
        "199999999h",
        "99999999999h",
        "18446744073709551615",
        "18446744073709551615ms",
        "3661d",
        "-1s",
        "1.5h",
    ] {
        for command in [
            &["dlq", "list", "--since"][..],
            &["dlq", "list", "--until"],
            &["dlq", "redrive", "--since"],
            &["dlq", "audit", "--since"],
            &["up", "--wait"],
            &["roll", "--wait"],
            &["reconcile", "--older-than"],
            &["token", "--user", "alice", "--ttl"],
            &["topics", "ensure", "--brokers", "localhost:1", "--wait"],
            &["certs", "issue", "order", "--ttl"],
            &["certs", "rotate", "--wait"],
            &["certs", "revoke", "order", "--reason", "x", "--wait"],
            &["certs", "keep", "--every"],
            &["chaos", "run", "--duration"],
            &["bench", "--phase"],
        ] {
            let (status, stdout, stderr) = run(folder.path(), &[command, &[time]].concat());
            assert_eq!((status, stdout.as_str()), (Some(2), ""), "{command:?} {time}: {stderr}");
            assert!(!stderr.contains("panicked"), "{command:?} {time}: {stderr}");
        }
    }
    let inside: Vec<_> = fs::read_dir(folder.path()).expect("there").collect();
    assert!(inside.is_empty(), "{inside:?}");
}

/// A port in use is an error that names the port, its component and the way out.
#[test]
fn a_port_in_use_is_named() {
    let folder = folder();
    let ports = ports();
    let port = 9092 + ports.number;
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free");
    let (status, _, stderr) = run(folder.path(), &["up", "--port-offset", &ports.number.to_string()]);
    assert_eq!(status, Some(1));
    for part in [&port.to_string(), "kafka", "--port-offset"] {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
}

/// Without Java, with an old Java, and with one that prints no version: the error says what to install, and how.
#[test]
fn a_missing_java_is_reported_with_the_way_out() {
    let folder = folder();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("created");
    let java = bin.join("java");
    for (script, expected) in [
        (None, "no Java was found"),
        (Some("echo 'openjdk version \"11.0.2\" 2019' >&2"), "Java 11 is too old"),
        (Some("exit 0"), "does not say its version"),
    ] {
        if let Some(script) = script {
            use std::os::unix::fs::PermissionsExt as _;
            fs::write(&java, format!("#!/bin/sh\n{script}\n")).expect("written");
            fs::set_permissions(&java, fs::Permissions::from_mode(0o755)).expect("allowed");
        }
        let ports = ports();
        let mut command = holdfast(folder.path(), &["up", "--port-offset", &ports.number.to_string()]);
        let (status, _, stderr) = finished(command.env("PATH", &bin));
        assert_eq!(status, Some(1));
        assert!(stderr.contains(expected) && stderr.contains("openjdk-17-jre-headless"), "{stderr}");
    }
}

/// The same of a Redis that was asked for.
#[test]
fn a_missing_redis_is_reported_with_the_way_out() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = folder();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("created");
    let program = |name: &str, script: &str| {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("allowed");
    };
    program("java", "echo 'openjdk version \"21.0.2\" 2024' >&2");
    for (script, expected) in [
        (None, "no redis-server was found"),
        (Some("echo 'Redis server v=6.0.16 sha=00000000:0'"), "Redis 6 is too old"),
        (Some("exit 0"), "does not say its version"),
    ] {
        if let Some(script) = script {
            program("redis-server", script);
        }
        let ports = ports();
        let mut command =
            holdfast(folder.path(), &["up", "--with", "redis", "--port-offset", &ports.number.to_string()]);
        let (status, _, stderr) = finished(command.env("PATH", &bin));
        assert_eq!(status, Some(1));
        assert!(stderr.contains(expected) && stderr.contains("apt-get install redis-server"), "{stderr}");
    }
}

/// `down --delete-data` leaves a folder alone that is not a stack's.
#[test]
fn only_a_stacks_folder_is_deleted() {
    let folder = folder();
    let precious = folder.path().join("precious");
    fs::write(&precious, "x").expect("written");
    let written = ["config", "pki", "kafka", "logs"].map(|name| folder.path().join(name));
    for written in &written {
        fs::create_dir(written).expect("created");
    }
    let (status, _, stderr) = run(folder.path(), &["down", "--delete-data", "--yes"]);
    assert_eq!(status, Some(1));
    assert!(stderr.contains("left alone"), "{stderr}");
    assert!(precious.exists() && written.iter().all(|written| written.exists()));

    // A stack's folder: only with a confirmation, and only what a stack writes.
    let marker = folder.path().join("holdfast-stack");
    fs::write(&marker, "").expect("written");
    let (status, _, stderr) = run(folder.path(), &["down", "--delete-data"]);
    assert_eq!(status, Some(2));
    assert!(stderr.contains("pass --yes"), "{stderr}");
    assert!(written.iter().all(|written| written.exists()));
    // Including files beside the stack's own, in its own folders.
    let beside = ["config/app.yaml", "logs/2026.txt"].map(|name| folder.path().join(name));
    for beside in &beside {
        fs::write(beside, "x").expect("written");
    }
    for own in ["config/order.toml", "logs/order.log", "kafka/server.properties"] {
        fs::write(folder.path().join(own), "x").expect("written");
    }
    let (status, _, stderr) = run(folder.path(), &["down", "--delete-data", "--yes"]);
    assert_eq!(status, Some(0));
    for left in beside.iter().chain([&precious]) {
        assert!(left.exists() && stderr.contains(left.to_str().expect("text")), "{left:?}: {stderr}");
    }
    assert!(!marker.exists() && !folder.path().join("pki").exists() && !folder.path().join("kafka").exists());
    assert!(
        !folder.path().join("config/order.toml").exists() && !folder.path().join("logs/order.log").exists()
    );
}

/// A folder that holds somebody else's files where a stack would write does not become a stack's, and keeps them.
#[test]
fn a_project_does_not_become_a_stack() {
    let folder = folder();
    fs::create_dir(folder.path().join("config")).expect("created");
    let file = folder.path().join("config/order.toml");
    fs::write(&file, "precious").expect("written");
    let ports = ports();
    let (status, _, stderr) = run(folder.path(), &["up", "--port-offset", &ports.number.to_string()]);
    assert_eq!(status, Some(1));
    assert!(stderr.contains("order.toml") && stderr.contains("--data-dir"), "{stderr}");
    let (status, _, _) = run(folder.path(), &["down", "--delete-data", "--yes"]);
    assert_eq!(status, Some(1), "it is not a stack's to delete");
    assert_eq!(fs::read_to_string(file).expect("there"), "precious");
}

/// What is refused before a start leaves no trace: a name that can't be handed on, a limit that is too low, a missing program.
#[test]
fn what_is_refused_leaves_no_trace() {
    use std::os::unix::{ffi::OsStrExt as _, process::CommandExt as _};

    let folder = folder();
    let line_feed = folder.path().join("a\nb");
    let not_text = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    let long =
        folder.path().join("x".repeat(200)).join("y".repeat(200)).join("z".repeat(200)).join("a".repeat(200));
    for (data_dir, expected) in
        [(line_feed, "control characters"), (not_text, "not UTF-8"), (long, "bytes long")]
    {
        let ports = ports();
        let (status, _, stderr) = run(&data_dir, &["up", "--port-offset", &ports.number.to_string()]);
        assert_eq!(status, Some(1), "{stderr}");
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{stderr}");
    }
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 128; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_holdfast"), "up"]);
    let (status, _, stderr) = finished(limited.arg("--data-dir").arg(folder.path().join("new/stack")));
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("only 128 files") && stderr.contains("ulimit"), "{stderr}");
    if is_root() {
        // An id that no user has, as in a container that is started with one.
        let mut nameless = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        nameless.arg("up").uid(54_321).gid(54_321).env("HOME", "/");
        let (status, _, stderr) = finished(nameless.arg("--data-dir").arg(folder.path().join("new/stack")));
        assert_eq!(status, Some(1), "{stderr}");
        assert!(stderr.contains("54321 has no name"), "{stderr}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
}

/// Whoever does not confirm that a stack is deleted keeps it as it is, and it keeps running.
#[test]
fn who_does_not_confirm_keeps_a_running_stack() {
    let folder = folder();
    for (file, content) in [("holdfast-stack", ""), ("state.json", "")] {
        fs::write(folder.path().join(file), content).expect("written");
    }
    // Its supervisor: would be asked to end, and has the lock.
    let lock = fs::File::create(folder.path().join("supervisor.lock")).expect("created");
    lock.lock().expect("free");
    let mut supervisor = Command::new("sleep");
    let mut supervisor = Running(supervisor.arg("600").stdin(lock).spawn().expect("it runs"));
    let pid = supervisor.0.id();
    let report = format!("{{\"supervisor_pid\": {pid}, \"port_offset\": 0, \"components\": []}}");
    fs::write(folder.path().join("state.json"), &report).expect("written");
    let (status, _, stderr) = run(folder.path(), &["down", "--delete-data"]);
    assert_eq!(status, Some(2));
    assert!(
        stderr.contains("pass --yes") && stderr.contains(folder.path().to_str().expect("text")),
        "{stderr}"
    );
    assert!(supervisor.0.try_wait().expect("asked").is_none(), "it runs");
    assert_eq!(fs::read_to_string(folder.path().join("state.json")).expect("there"), report);
}

/// What replaces certificates or an authority for good says what it touches, and does nothing without consent.
#[test]
fn certificates_are_replaced_with_consent_only() {
    let folder = folder();
    let certs = |arguments: &[&str]| run(folder.path(), &[&["certs"], arguments].concat());
    assert_eq!(certs(&["init"]).0, Some(0));
    let content = |file: &str| fs::read(folder.path().join("pki").join(file)).expect("there");
    let contents = || [content("ca.crt"), content("order/tls.crt"), content("payment/tls.crt")];
    let first = contents();
    for (arguments, touched) in [
        (
            &["rotate", "--ca"][..],
            "every certificate of delivery, gateway, operator, order, payment is issued anew",
        ),
        (&["revoke", "order", "--reason", "x"], "is refused everywhere from now on"),
        (&["issue", "payment"], "payment has a certificate (serial "),
    ] {
        let before = contents();
        let (status, stdout, stderr) = certs(arguments);
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(touched) && stderr.contains("pass --yes"), "{arguments:?}: {stderr}");
        assert!(contents() == before, "{arguments:?} has replaced something");
        let (status, _, stderr) = certs(&[arguments, &["--yes"]].concat());
        assert_eq!(status, Some(0), "{arguments:?}: {stderr}");
        assert!(stderr.contains(touched), "{stderr}");
    }
    // What is not there is not replaced.
    assert_eq!(certs(&["issue", "reporting"]).0, Some(0));
    assert!(contents().iter().zip(&first).all(|(last, first)| last != first), "all were");
}

/// Whatever is done to certificates is in their audit, with who did it and why, and programs are told what was done. A change that can't be
/// written down is said, and made.
#[test]
fn what_was_done_to_certificates_is_told() {
    let folder = folder();
    let certs = |arguments: &[&str]| {
        finished(holdfast(folder.path(), &[&["certs"], arguments].concat()).env("USER", "alice"))
    };
    let json = |arguments: &[&str]| -> serde_json::Value {
        let (status, stdout, stderr) = certs(&[arguments, &["-o", "json"]].concat());
        assert_eq!(status, Some(0), "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).expect("JSON")
    };
    assert_eq!(certs(&["init"]).0, Some(0));
    let issued = json(&["issue", "reporting", "--reason", "for the month", "--author", "bob"]);
    assert_eq!(issued["certificate"]["name"], "reporting");
    let rotated = json(&["rotate", "order"]);
    assert_eq!(
        (&rotated["certificates"][0]["name"], &rotated["authority_replaced"]),
        (&"order".into(), &false.into())
    );
    let revoked = json(&["revoke", "gateway", "--reason", "stolen laptop", "--yes"]);
    assert_eq!(revoked["revoked"]["serial"], revoked["certificate"]["replaces"]);
    assert_eq!(revoked["used_by"], serde_json::json!([]));

    let audit = json(&["audit"]);
    let told: Vec<_> = audit["audit"].as_array().expect("a list").iter().take(4).collect();
    for (line, (actor, action, identity, reason)) in told.iter().zip([
        ("alice", "issue", "gateway", "the one of before is revoked"),
        ("alice", "revoke", "gateway", "stolen laptop"),
        ("alice", "rotate", "order", ""),
        ("bob", "issue", "reporting", "for the month"),
    ]) {
        let text = |field: &str| line[field].as_str().unwrap_or_default();
        let found = (text("actor"), text("action"), text("identity"), text("reason"));
        assert_eq!(found, (actor, action, identity, reason), "{line}");
    }
    assert_eq!(told[1]["serial"], revoked["revoked"]["serial"]);
    // The authority concerns everybody.
    let (status, stdout, _) = certs(&["audit", "order"]);
    assert_eq!((status, stdout.lines().count()), (Some(0), 4), "{stdout}");
    assert_eq!(certs(&["audit", "--since", "2999-01-01"]).0, Some(3));
    let (status, stdout, _) = certs(&["status"]);
    let serial = revoked["revoked"]["serial"].as_str().expect("text");
    assert!(status == Some(0) && stdout.contains(serial) && stdout.contains("stolen laptop"), "{stdout}");
    assert_eq!(json(&["status"])["revoked"][0]["reason"], "stolen laptop");

    let file = folder.path().join("pki/audit.jsonl");
    fs::remove_file(&file).expect("removed");
    fs::create_dir(&file).expect("in its way");
    let (status, _, stderr) = certs(&["rotate"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("could not be written into"), "{stderr}");
}

/// States have colours on a terminal, or where somebody asks for them, and never in a pipe; nothing else about a table changes.
#[test]
fn a_pipe_has_no_colours() {
    let folder = folder();
    assert_eq!(run(folder.path(), &["certs", "init"]).0, Some(0));
    let status = |arguments: &[&str]| run(folder.path(), &[&["certs", "status"], arguments].concat()).1;
    let plain = status(&[]);
    assert!(!plain.contains('\u{1b}') && plain.contains("valid"), "{plain}");
    assert_eq!(status(&["--color", "never"]), plain);
    let coloured = status(&["--color", "always"]);
    assert!(coloured.contains("\u{1b}[32mvalid\u{1b}[0m"), "{coloured:?}");
    assert_eq!(coloured.replace("\u{1b}[32m", "").replace("\u{1b}[0m", ""), plain);
    let json = status(&["--color", "always", "-o", "json"]);
    assert!(!json.contains('\u{1b}'), "{json}");
    assert_eq!(run(folder.path(), &["certs", "status", "--color", "sometimes"]).0, Some(2));
}

/// An environment that is not text is no reason to fail, unless it is a setting.
#[test]
fn an_environment_that_is_not_text_is_survived() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    let folder = folder();
    let not_text = OsStr::from_bytes(b"\xff");
    let mut command = holdfast(folder.path(), &["status"]);
    let (status, _, stderr) = finished(command.env(not_text, not_text).env("PGUSER", not_text));
    assert_eq!(status, Some(3), "{stderr}");
    let (status, stdout, stderr) =
        finished(service("order").args(["--config", "/no/such/file"]).env(not_text, not_text));
    assert_eq!(status, Some(2), "{stderr}");
    assert!(last_words(&stdout, &stderr).contains("/no/such/file"), "{stdout}");
    // A name of a file neither.
    let (status, stdout, stderr) = finished(service("order").arg("--config").arg(not_text));
    assert_eq!(status, Some(2), "{stderr}");
    assert!(last_words(&stdout, &stderr).contains("cannot read configuration file"), "{stdout}");
    let mut order = service("order");
    let (status, stdout, stderr) =
        finished(order.args(["--config", "/dev/null"]).env("HOLDFAST__SERVICE__LOG", not_text));
    assert_eq!(status, Some(2), "{stderr}");
    assert!(last_words(&stdout, &stderr).contains("HOLDFAST__SERVICE__LOG is not text"), "{stdout}");
}

/// `certs status` names whatever keeps a certificate from being used, and fails; `rotate` mends it, the other commands work.
#[test]
fn damaged_certificates_are_seen_and_mended() {
    let folder = folder();
    let certs = |arguments: &[&str]| run(folder.path(), &[&["certs"], arguments].concat());
    let pki = folder.path().join("pki");
    assert_eq!(certs(&["init"]).0, Some(0));
    assert_eq!(certs(&["status"]).0, Some(0));
    let state_of = |name: &str| {
        let (status, stdout, stderr) = certs(&["status", "-o", "json"]);
        assert_eq!(status, Some(1), "{name}: {stdout}{stderr}");
        let document: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        let lines = document["certificates"].as_array().expect("a list").iter();
        let mut lines = lines.filter(|line| line["name"] == name);
        lines.next().map(|line| line["state"].as_str().expect("text").to_owned())
    };
    fs::write(pki.join("delivery/tls.crt"), "x").expect("written");
    fs::remove_file(pki.join("order/tls.key")).expect("removed");
    fs::remove_file(pki.join("operator/tls.crt")).expect("removed");
    fs::remove_dir_all(pki.join("payment")).expect("removed");
    for (name, state) in
        [("delivery", "unreadable"), ("order", "no-key"), ("operator", "missing"), ("payment", "missing")]
    {
        assert_eq!(state_of(name).as_deref(), Some(state), "{name}");
    }
    let (status, _, stderr) = certs(&["rotate", "delivery"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(state_of("delivery").as_deref(), Some("valid"));
    assert_eq!(certs(&["rotate"]).0, Some(0));
    assert_eq!(certs(&["init"]).0, Some(0), "and what is missing is created");
    assert_eq!(certs(&["status"]).0, Some(0));

    // Without its key the authority stays the one that it is, whatever is asked for.
    let authority = || fs::read(pki.join("ca.crt")).expect("there");
    let before = authority();
    fs::remove_file(pki.join("ca.key")).expect("removed");
    assert_eq!(certs(&["status"]).0, Some(0), "nothing is wrong with what it has signed");
    assert_eq!(certs(&["init"]).0, Some(0));
    let (status, _, stderr) = certs(&["rotate"]);
    assert_eq!(status, Some(1));
    assert!(stderr.contains("ca.key") && stderr.contains("rotate --ca"), "{stderr}");
    assert_eq!(authority(), before);
    // The command that is named is for this folder.
    let named = format!("`holdfast certs rotate --ca --data-dir {}`", folder.path().display());
    assert!(stderr.contains(&named), "{named} in {stderr}");
    let (status, _, stderr) = certs(&["rotate", "--ca", "--yes"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert_ne!(authority(), before);
    assert_eq!(certs(&["status"]).0, Some(0));
}

/// What an operator has exported for `psql` is not there any more when a command opens a connection.
#[test]
fn variables_of_libpq_reach_no_connection() {
    let folder = folder();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("created");
    let java = bin.join("java");
    // The environment of the command itself, as the kernel shows it.
    let seen = folder.path().join("seen");
    fs::write(&java, format!("#!/bin/sh\n/bin/cat /proc/$PPID/environ > '{}'\n", seen.display()))
        .expect("written");
    fs::set_permissions(&java, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("allowed");
    let ports = ports();
    let mut command =
        holdfast(&folder.path().join("stack"), &["up", "--port-offset", &ports.number.to_string()]);
    command.env("PATH", &bin).env("PGOPTIONS", "-c synchronous_commit=off").env("PGSSLMODE", "verify-full");
    let (status, _, stderr) = finished(&mut command);
    assert_eq!(status, Some(1), "{stderr}");
    let seen = fs::read(seen).expect("it was asked");
    let names: Vec<String> = seen
        .split(|byte| *byte == 0)
        .map(|pair| String::from_utf8_lossy(pair).split('=').next().unwrap_or_default().to_owned())
        .collect();
    assert!(names.contains(&"PATH".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("PG")), "{names:?}");
}

/// Two folders below a closed home, whose databases are kept elsewhere: deleting one, by whatever name, deletes its own
/// databases and never the other's. This only happens for root, so the test needs root too.
#[test]
fn deleting_a_stack_leaves_the_databases_of_another_alone() {
    if !is_root() {
        eprintln!("skipped: only root's databases are kept outside of their stack's folder");
        return;
    }
    // Closed to others, like a home directory.
    let home = folder();
    fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("allowed");
    let home = home.path().canonicalize().expect("there");
    let _databases =
        Elsewhere(Path::new("/var/lib/holdfast").join(home.strip_prefix("/").expect("absolute")));
    let databases = |stack: &Path| {
        Path::new("/var/lib/holdfast").join(stack.strip_prefix("/").expect("absolute")).join(".databases")
    };
    let (one, other) = (home.join("b"), home.join("deep/b"));
    for stack in [&one, &other] {
        fs::create_dir_all(stack).expect("created");
        fs::write(stack.join("holdfast-stack"), "").expect("written");
        let cluster = databases(stack).join("orders-db");
        fs::create_dir_all(&cluster).expect("created");
        fs::write(cluster.join("PG_VERSION"), "x").expect("written");
    }
    let delete = |name: &str| {
        let mut command = holdfast(Path::new(name), &["down", "--delete-data", "--yes"]);
        finished(command.current_dir(home.join("deep")))
    };
    let (status, _, stderr) = delete("../b");
    assert_eq!(status, Some(1), "whose the databases are is not written down: {stderr}");
    assert!(one.join("holdfast-stack").exists() && databases(&one).join("orders-db").exists(), "{stderr}");

    for stack in [&one, &other] {
        fs::write(databases(stack).join("owner"), format!("{}\n", stack.display())).expect("written");
    }
    let (status, _, stderr) = delete("../b");
    assert_eq!(status, Some(0), "{stderr}");
    assert!(!one.exists() && !databases(&one).exists(), "its own are gone");
    assert!(databases(&other).join("orders-db/PG_VERSION").exists(), "the other's are there");

    // A folder of databases that names another stack is not this one's.
    fs::write(databases(&other).join("owner"), format!("{}\n", one.display())).expect("written");
    let (_, _, stderr) = delete("b");
    assert!(databases(&other).join("orders-db/PG_VERSION").exists(), "{stderr}");
    fs::write(databases(&other).join("owner"), format!("{}\n", other.display())).expect("written");
    fs::create_dir_all(&other).expect("created");
    fs::write(other.join("holdfast-stack"), "").expect("written");
    let (status, _, stderr) = delete("b");
    assert_eq!(status, Some(0), "{stderr}");
    assert!(!databases(&other).exists(), "by itself it may");
}

/// What a test has created outside of its folder; deleted with the test, even if it fails.
struct Elsewhere(std::path::PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // Folders above it may lead to somebody else's.
        for parent in self.0.ancestors().skip(1).take_while(|parent| parent.starts_with("/var/lib/holdfast"))
        {
            let _ = fs::remove_dir(parent);
        }
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id runs");
    output.stdout == b"0\n"
}

fn service(name: &str) -> Command {
    let beside = Path::new(env!("CARGO_BIN_EXE_holdfast")).with_file_name(format!("holdfast-{name}"));
    let mut command = Command::new(beside);
    command.env_clear();
    command
}

/// The line of the log by which a process says why it ended: there is nothing else, neither on stdout nor on stderr.
fn last_words(stdout: &str, stderr: &str) -> String {
    assert_eq!(stderr, "", "{stdout}");
    let line = stdout.lines().next_back().expect("a line");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"stopped by a failure".into()));
    line["error"].as_str().expect("why").to_owned()
}

/// A service with a broken configuration stops before it binds anything, says in its log what is wrong, and exits with 2.
#[test]
fn a_broken_configuration_is_reported() {
    let folder = folder();
    let file = folder.path().join("config.toml");
    let good = "[service]\nadmin_listen = \"127.0.0.1:1\"\n";
    for (text, expected) in [
        ("this is not TOML", "TOML"),
        ("[service]\nadmin_listen = \"nowhere\"\n", "socket address"),
        (&format!("{good}colour = \"red\"\n"), "colour"),
        (good, "missing"),
    ] {
        fs::write(&file, text).expect("written");
        for name in service_names() {
            let (status, stdout, stderr) = finished(service(name).arg("--config").arg(&file));
            assert_eq!(status, Some(2), "{name}: {stderr}");
            let error = last_words(&stdout, &stderr);
            assert!(error.contains(expected), "{expected} in {error}");
            assert_eq!(stdout.lines().count(), 1, "{stdout}");
        }
    }
    let (status, stdout, stderr) = finished(service("order").args(["--config", "/no/such/file"]));
    assert_eq!(status, Some(2));
    assert!(last_words(&stdout, &stderr).contains("/no/such/file"), "{stdout}");
    // Whoever types a command is answered in words, as is whoever asks for readiness.
    let (status, _, stderr) = finished(service("order").arg("--verbose"));
    assert_eq!(status, Some(2));
    assert!(stderr.contains("usage"), "{stderr}");
}

/// What ends a process while it starts, or while it runs, is the last line of its log, once and in the same form.
#[test]
fn an_error_that_ends_the_process_is_one_line_of_the_log() {
    let (_folder, admin, mut command) = lonely_order();
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, admin)).expect("free");
    let (status, stdout, stderr) = finished(&mut command);
    assert_eq!(status, Some(1), "{stderr}");
    let error = last_words(&stdout, &stderr);
    assert!(error.contains(&format!("cannot listen on 127.0.0.1:{admin}")), "{error}");
    assert_eq!(stdout.matches("cannot listen").count(), 1, "{stdout}");

    let (_folder, _, mut command) = lonely_order();
    let (status, stdout, stderr) = finished(command.env("HOLDFAST__SERVICE__LOG", "a=b=c"));
    assert_eq!(status, Some(2), "{stderr}");
    assert!(last_words(&stdout, &stderr).contains("service.log is not a log filter"), "{stdout}");
}

/// The status and the body of a GET on loopback; 0 while nobody answers.
fn get(port: u16, path: &str) -> (u16, String) {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_default();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

/// Ends with the test, even if it fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Log lines that can't be written are lost, nothing else: with standard output and error on a full disk, a service
/// starts, answers, and stops cleanly.
#[test]
fn a_service_lives_without_a_log() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let (_folder, admin, mut command) = lonely_order();
    let mut process = Running(command.stdout(full()).stderr(full()).spawn().expect("it starts"));
    // By then it has logged that database and broker are away: each attempt is a line.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) || get(admin, "/healthz").0 != 200 {
        assert!(begin.elapsed() < Duration::from_secs(120), "it does not answer");
        assert!(process.0.try_wait().expect("asked").is_none(), "it lives");
        #[expect(clippy::disallowed_methods, reason = "this test has no runtime")]
        thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").arg(process.0.id().to_string()).status().expect("kill runs").success());
    assert_eq!(process.0.wait().expect("it ends").code(), Some(0));
}

/// The order service, alone: its folder, its admin port, and the command that starts it.
fn lonely_order() -> (tempfile::TempDir, u16, Command) {
    let folder = folder();
    let certificates = holdfast_certs::Pki::open_or_init(folder.path()).expect("created");
    certificates.ensure_leaf("order").expect("issued");
    // Below the range of ephemeral ports: a client that keeps retrying a port in that range may eventually connect to
    // itself.
    let free_port = || {
        let mut ports = std::iter::repeat_with(|| fastrand::u16(20_000..32_000));
        ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).expect("endless")
    };
    let (admin, grpc, absent) = (free_port(), free_port(), free_port());
    let pki = folder.path().join("order");
    let config = format!(
        "[service]\nadmin_listen = \"127.0.0.1:{admin}\"\n[grpc]\nlisten = \"127.0.0.1:{grpc}\"\n\
         [kafka]\nbrokers = \"127.0.0.1:{absent}\"\n\
         [identity]\ncertificate = \"{}\"\nkey = \"{}\"\ntrust_bundle = \"{}\"\n",
        pki.join("tls.crt").display(),
        pki.join("tls.key").display(),
        pki.join("ca.crt").display()
    );
    let file = folder.path().join("order.toml");
    fs::write(&file, config).expect("written");
    let mut command = service("order");
    command
        .arg("--config")
        .arg(&file)
        .env("HOLDFAST__DATABASE__URL", format!("postgres://nobody:hush@127.0.0.1:{absent}/none"));
    (folder, admin, command)
}

/// Started alone, a service waits for its database and its broker, says so, stays alive, and stops cleanly when asked
/// to.
#[test]
fn a_service_waits_for_what_is_absent() {
    let (folder, admin, mut command) = lonely_order();
    let log = fs::File::create(folder.path().join("log")).expect("created");
    let process = command.stdout(log.try_clone().expect("open")).stderr(log).spawn().expect("it starts");
    let mut process = Running(process);
    let begin = Instant::now();
    let body = loop {
        let (status, body) = get(admin, "/readyz");
        if status == 503 && body.contains("Connection refused") && body.contains("Broker transport failure") {
            break body;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "{status} {body}");
        #[expect(clippy::disallowed_methods, reason = "this test has no runtime")]
        thread::sleep(Duration::from_millis(20));
    };
    assert!(
        body.contains("\"database\":{\"ready\":false") && body.contains("\"kafka\":{\"ready\":false"),
        "{body}"
    );
    assert_eq!(get(admin, "/healthz").0, 200);
    assert!(process.0.try_wait().expect("asked").is_none(), "it lives");

    let stopping = Instant::now();
    assert!(Command::new("kill").arg(process.0.id().to_string()).status().expect("kill runs").success());
    let status = process.0.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(10), "within the time that supervisors give");
    let log = fs::read_to_string(folder.path().join("log")).expect("there");
    assert!(!log.contains("hush"), "no secret in the log: {log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let fields = line.as_object().expect("an object").iter();
        for (field, text) in fields.filter_map(|(field, value)| Some((field, value.as_str()?))) {
            for mark in ["Some(", "Err(", " { ", "\\\""] {
                assert!(!text.contains(mark), "{field} is for programmers: {text}");
            }
        }
    }
}
