//! Starts: several at once, interrupted ones, and those in surroundings that nobody has prepared.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use holdfast_chaos::rest::sample_order;
use holdfast_e2e::{World, eventually, id, interrupt::interrupted};
use holdfast_native::{
    control::{self, Found},
    layout::{Layout, Scope},
    port_offset::PortOffset,
    state::StackReport,
};
use holdfast_testkit::stack::{TestStack, binary};
use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        stat::{Mode, umask},
    },
    unistd::{Pid, User, geteuid},
};

/// A stack of one test, that is deleted with it.
struct Own {
    folder: tempfile::TempDir,
    port_offset: String,
    _ports: PortOffset,
}

impl Own {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = PortOffset::draw([], false).expect("some are free");
        Self { folder, port_offset: ports.number.to_string(), _ports: ports }
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("there").join("stack")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--data-dir").arg(self.data_dir());
        command
    }

    /// Infrastructure only: the services change nothing here.
    fn up(&self, more: &[&str]) -> Child {
        let mut command = self.command(&["up", "--port-offset", &self.port_offset]);
        command
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command.spawn().expect("it runs")
    }

    fn is_up(&self) -> StackReport {
        let output = self.up(&["--infrastructure-only"]).wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", talk(&output));
        match control::find(&self.data_dir()).expect("readable") {
            Found::Running(report) => report,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.data_dir().exists() {
            let down = self.command(&["down", "--delete-data", "--yes"]).output().expect("it runs");
            assert!(down.status.success() || std::thread::panicking(), "{}", talk(&down));
        }
    }
}

fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Three starts at once in a folder that is not there yet make one stack: one has its turn, the others wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn starts_at_once_make_one_stack() {
    let own = Own::new();
    let starts: Vec<Child> = (0..3).map(|_| own.up(&["--infrastructure-only"])).collect();
    let ends = starts.into_iter().map(|start| start.wait_with_output().expect("it ends"));
    let ends: Vec<Output> = ends.collect();
    for end in &ends {
        assert!(end.status.success(), "{}", talk(end));
    }
    let others = ends.iter().filter(|end| talk(end).contains("runs already")).count();
    assert_eq!(others, 2, "{:?}", ends.iter().map(talk).collect::<Vec<_>>());
    assert!(matches!(control::find(&own.data_dir()), Ok(Found::Running(_))));
}

/// A start that waits for a stack which somebody stops meanwhile ends with it, and says what its supervisor said last.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_ends_with_its_supervisor() {
    let own = Own::new();
    // Without the proxies of its links it never becomes ready.
    let mut start = own.up(&["--links"]);
    let data_dir = own.data_dir();
    eventually("it runs", || async { matches!(control::find(&data_dir), Ok(Found::Running(_))) }).await;
    let down = own.command(&["down"]).output().expect("it runs");
    assert!(down.status.success(), "{}", talk(&down));
    eventually("the start has ended", || std::future::ready(start.try_wait().expect("asked").is_some()))
        .await;
    let end = start.wait_with_output().expect("it ends");
    assert_eq!(end.status.code(), Some(1));
    let talk = talk(&end);
    assert!(talk.contains("the supervisor has ended") && talk.contains("stopping"), "{talk}");
}

/// Ctrl-C while a stack starts ends the command alone, which says that the start goes on, and how to see or stop it.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_wait_says_that_the_start_goes_on() {
    let own = Own::new();
    // Without the proxies of its links it never becomes ready.
    let start = own.up(&["--links"]);
    let data_dir = own.data_dir();
    eventually("it runs", || async { matches!(control::find(&data_dir), Ok(Found::Running(_))) }).await;
    let end = interrupted(start).await;
    let said = talk(&end);
    assert_eq!(end.status.code(), Some(1), "{said}");
    let folder = data_dir.display();
    for part in [
        "the start goes on in the background",
        &format!("`holdfast status --data-dir {folder}` shows it"),
        &format!("`holdfast down --data-dir {folder}` stops it"),
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(matches!(control::find(&data_dir), Ok(Found::Running(_))), "the stack is as it was");
    let down = own.command(&["down"]).output().expect("it runs");
    assert!(down.status.success(), "{}", talk(&down));
}

/// A start that is killed with -9 in the middle of `initdb`, with its children, leaves nothing that keeps the next one from working;
/// neither do a report of which half was written, and a server's note that names a process that is somebody else's now.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_start_heals() {
    let own = Own::new();
    let layout = Layout::new(own.data_dir(), 0);
    let start = own.up(&["--infrastructure-only"]);
    let clusters = || {
        let folders = layout.data_folders().into_iter();
        folders.filter(|(name, _)| name.ends_with("-db")).map(|(_, folder)| folder).collect::<Vec<_>>()
    };
    eventually("initdb has begun", || async {
        clusters().iter().any(|folder| folder.join("PG_VERSION").exists())
    })
    .await;
    killpg(Pid::from_raw(i32::try_from(start.id()).expect("a pid")), Signal::SIGKILL).expect("killed");
    drop(start.wait_with_output());
    let half = clusters().iter().filter(|folder| !folder.join("initialised").exists()).count();
    assert!(half > 0, "it was faster than this test");
    // The same of the broker, by hand: whether a kill meets it is chance.
    let logs = layout.kafka_dir().join("logs");
    fs::create_dir_all(&logs).expect("created");
    fs::write(logs.join("bootstrap.checkpoint"), "half").expect("written");

    let report = own.is_up();
    for pid in std::iter::once(report.supervisor_pid).chain(report.components.iter().filter_map(|of| of.pid))
    {
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("killed");
    }
    eventually("all are gone", || async {
        matches!(control::find(&own.data_dir()), Ok(Found::Abandoned(report)) if !control::anything_runs(&layout, &report))
    })
    .await;
    fs::write(layout.state_file(), "{\"supervisor_pid\": 1").expect("written");
    let mut stranger = Command::new("sleep");
    stranger.arg("600");
    if geteuid().is_root() {
        // PostgreSQL takes no notice of processes of other users.
        let nobody = User::from_name("nobody").expect("asked").expect("there");
        stranger.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
    }
    let mut stranger = stranger.spawn().expect("it runs");
    for folder in clusters() {
        let note = folder.join("postmaster.pid");
        let text = fs::read_to_string(&note).expect("there");
        let (_, rest) = text.split_once('\n').expect("lines");
        fs::write(&note, format!("{}\n{rest}", stranger.id())).expect("written");
    }
    own.is_up();
    stranger.kill().expect("killed");
    stranger.wait().expect("it ends");
}

/// A stopped stack says that it is one, and the next start has the ports of the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_stack_remembers_its_ports() {
    let own = Own::new();
    let run = |arguments: &[&str]| {
        let output = own.command(arguments).output().expect("it runs");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &talk(&output);
        (output.status.code(), shown)
    };
    let first = own.is_up();
    let (code, shown) = run(&["up", "--port-offset", "1", "--infrastructure-only"]);
    assert!(code == Some(1) && shown.contains("it runs with --port-offset"), "{shown}");
    assert_eq!(run(&["up", "--infrastructure-only"]).0, Some(0), "nothing else was asked for");
    assert_eq!(run(&["down"]).0, Some(0));
    let (code, shown) = run(&["status", "-o", "json"]);
    assert_eq!(code, Some(3), "{shown}");
    assert!(
        shown.contains("\"components\": []") && shown.contains("is stopped, its data is kept"),
        "{shown}"
    );
    let (code, shown) = run(&["up", "--infrastructure-only"]);
    assert_eq!(code, Some(0), "{shown}");
    for part in [&format!("as before: --port-offset {}", own.port_offset), "kafka is ready ("] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    match control::find(&own.data_dir()).expect("readable") {
        Found::Running(second) => assert_eq!(second.port_offset, first.port_offset),
        other => panic!("{other:?}"),
    }
}

/// What was left down is named by `doctor`, with the command that starts it; that works, and restarts what runs, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_down_is_restarted() {
    let own = Own::new();
    let output = own.up(&["--infrastructure-only", "--no-restart"]).wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", talk(&output));
    let run = |arguments: &[&str]| {
        let output = own.command(arguments).output().expect("it runs");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &talk(&output);
        (output.status.code(), shown)
    };
    let pid_of = |name: &str| match control::find(&own.data_dir()) {
        Ok(Found::Running(report)) => {
            report.components.into_iter().find(|component| component.name == name).and_then(|of| of.pid)
        }
        other => panic!("{other:?}"),
    };
    let (before, of_kafka) = (pid_of("orders-db").expect("it runs"), pid_of("kafka"));
    kill(Pid::from_raw(i32::try_from(before).expect("a pid")), Signal::SIGQUIT).expect("killed");
    eventually("it is down", || std::future::ready(pid_of("orders-db").is_none())).await;
    assert_eq!(run(&["status"]).0, Some(1));
    let (code, shown) = run(&["doctor"]);
    assert!(code == Some(1) && shown.contains("holdfast restart orders-db --data-dir"), "{shown}");
    let (code, shown) = run(&["restart", "orders-db", "kafka", "--wait", "3m"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(pid_of("orders-db").is_some_and(|pid| pid != before) && pid_of("kafka") != of_kafka, "{shown}");
    let (code, shown) = run(&["doctor", "-o", "json"]);
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(run(&["restart", "order"]).0, Some(1), "it has none");
    // Lines of the supervisor are among those of the others, by their times.
    let (code, shown) = run(&["logs", "supervisor", "orders-db", "--since", "10m", "--level", "info"]);
    let times = shown.lines().filter_map(|line| line.split(" | ").nth(1)?.get(..10));
    assert!(code == Some(0) && times.count() > 10 && shown.contains("orders-db: ended"), "{shown}");
}

/// What an operator has exported for other programs.
const EXPORTED: [(&str, &str); 12] = [
    ("PGOPTIONS", "-c synchronous_commit=off -c default_transaction_read_only=on"),
    ("PGSSLMODE", "verify-full"),
    ("PGHOST", "db.invalid"),
    ("JAVA_TOOL_OPTIONS", "-Dhttp.nonProxyHosts=\"localhost|127.*\""),
    ("JDK_JAVA_OPTIONS", "-Xmx8m"),
    ("KAFKA_OPTS", "-Xmx8m"),
    ("http_proxy", "http://proxy.invalid:3128"),
    ("HTTPS_PROXY", "http://proxy.invalid:3128"),
    ("LC_ALL", "xx_XX.ISO-8859-1"),
    ("LANG", ""),
    ("TZ", "Asia/Tokyo"),
    ("LD_LIBRARY_PATH", "/nowhere"),
];

/// With all of that exported, a umask that closes nothing to others, and a folder below a closed home whose name has letters and
/// signs of all kinds: the stack works, each component has the environment and the user that we give it, and nobody else can read
/// what the stack has written.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_surroundings_reaches_a_component() {
    umask(Mode::empty());
    let home = tempfile::tempdir().expect("a folder");
    let base = home.path().canonicalize().expect("there").join("op st\u{e4}ck, a:b 'c' $d %41 #e");
    fs::create_dir(&base).expect("created");
    let start = move || TestStack::start_in(&base, Scope::Everything, &[], &EXPORTED);
    let stack = tokio::task::spawn_blocking(start).await.expect("it starts");
    let stack: &'static TestStack = Box::leak(Box::new(stack));
    let world = World::of(stack);
    tokio::task::spawn_blocking(|| stack.wait_until_ready()).await.expect("it is ready");
    let user = world.user("surroundings", "100.00").await;
    // A busy machine may take longer than a request may; the key makes it one order all the same.
    eventually("the order is paid", || async {
        let order = user.create_order(&sample_order("1 Quay Street", 1), Some("one")).await;
        let Some(order) = order.ok().filter(|answer| answer.status == 201).map(|answer| answer.json()) else {
            return false;
        };
        let answer = user.get(&format!("/api/orders/{}", id(&order))).await;
        answer.is_ok_and(|answer| answer.json()["status"] == "PAID")
    })
    .await;

    let components_run_as = if geteuid().is_root() {
        User::from_name("nobody").expect("asked").expect("there").uid
    } else {
        geteuid()
    };
    let given = BTreeSet::from(["HOME", "LC_ALL", "PATH", "TZ"].map(str::to_owned));
    for component in stack.report().components {
        let process = PathBuf::from(format!("/proc/{}", component.pid.expect("it runs")));
        let environment = fs::read(process.join("environ")).expect("readable");
        let names = environment.split(|byte| *byte == 0).filter(|pair| !pair.is_empty());
        let names =
            names.map(|pair| String::from_utf8_lossy(pair).split('=').next().unwrap_or_default().to_owned());
        let foreign: BTreeSet<String> = names.filter(|name| !name.starts_with("HOLDFAST_")).collect();
        assert!(foreign.is_subset(&given), "{}: {foreign:?}", component.name);
        let owner = fs::metadata(&process).expect("it runs").uid();
        assert_eq!(owner, components_run_as.as_raw(), "{}", component.name);
    }
    let data_dir = &stack.layout.data_dir;
    assert!(data_dir.join("kafka/logs/meta.properties").exists(), "it is where it should be");
    assert_eq!(open_to_others(data_dir), Vec::<PathBuf>::new());
}

/// Files in a folder that somebody else could read, but for what is public, and folders that somebody else could list.
fn open_to_others(folder: &Path) -> Vec<PathBuf> {
    const PUBLIC: [&str; 8] =
        ["ca.crt", "ca.crl", "tls.crt", "revoked", "jwks.json", "token.kid", "addresses", "rotation"];
    let mode = fs::metadata(folder).expect("there").permissions().mode();
    let mut open = if mode & 0o066 == 0 { Vec::new() } else { vec![folder.to_owned()] };
    for entry in fs::read_dir(folder).expect("readable") {
        let entry = entry.expect("read");
        let (path, kind) = (entry.path(), entry.file_type().expect("known"));
        let is_public = entry.file_name().to_str().is_some_and(|name| PUBLIC.contains(&name));
        if kind.is_dir() {
            open.extend(open_to_others(&path));
        } else if !is_public && fs::metadata(&path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
            open.push(path);
        }
    }
    open
}
