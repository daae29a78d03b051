//! The walk of the README (start, order, stop, start, delete) by whoever starts it: root and a user without rights, with any umask,
//! with and without a locale, with what they have exported for other programs, in folders of any name.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use holdfast_e2e::skipped;
use holdfast_native::port_offset::PortOffset;
use holdfast_testkit::stack::binary;
use nix::unistd::{User, geteuid};
use serde_json::Value;

/// How somebody walks.
#[derive(Debug, Clone, Copy)]
struct Walk {
    as_root: bool,
    umask: &'static str,
    locale: Option<&'static str>,
    /// What they have exported for other programs.
    exports: &'static [(&'static str, &'static str)],
    folder: &'static str,
}

const LATIN_1: Option<&str> = Some("de_DE.ISO-8859-1");
const ODD: &str = "mein Ordner f\u{fc}r \u{c4}pfel";

/// Every pair of values of any two of these is in one walk.
const WALKS: [Walk; 6] = [
    Walk { as_root: true, umask: "022", locale: LATIN_1, exports: &EXPORTS, folder: ODD },
    Walk { as_root: false, umask: "022", locale: None, exports: &[], folder: "stack" },
    Walk { as_root: true, umask: "027", locale: LATIN_1, exports: &[], folder: "stack" },
    Walk { as_root: false, umask: "027", locale: None, exports: &EXPORTS, folder: ODD },
    Walk { as_root: true, umask: "077", locale: None, exports: &EXPORTS, folder: "stack" },
    Walk { as_root: false, umask: "077", locale: LATIN_1, exports: &[], folder: ODD },
];

/// Settings for `psql`, Java and a browser.
const EXPORTS: [(&str, &str); 5] = [
    ("PGHOST", "db.invalid"),
    ("PGOPTIONS", "-c default_transaction_read_only=on"),
    ("PGSSLMODE", "verify-full"),
    ("JAVA_TOOL_OPTIONS", "-Xmx8m"),
    ("HTTPS_PROXY", "http://proxy.invalid:3128"),
];

/// Tests on stacks of their own draw their ports; those of a stranger may be met.
const PORTS_TRIED: usize = 5;

/// Somebody, with a home of their own and the programs.
struct Walker {
    walk: Walk,
    home: tempfile::TempDir,
    holdfast: PathBuf,
}

impl Walker {
    fn new(walk: Walk) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let mut walker = Self { walk, home, holdfast: binary() };
        if let Some(user) = walker.user() {
            chown(walker.home.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("allowed");
            // What is built below a closed home nobody else can run.
            if !walker.command("test").arg("-x").arg(&walker.holdfast).status().expect("it runs").success() {
                walker.holdfast = copy_programs(&walker.holdfast, &walker.home.path().join("bin"));
            }
        }
        walker
    }

    /// Whom to become for the walk.
    fn user(&self) -> Option<User> {
        let becomes = geteuid().is_root() && !self.walk.as_root;
        becomes.then(|| User::from_name("nobody").expect("asked").expect("there"))
    }

    fn data_dir(&self) -> PathBuf {
        self.home.path().canonicalize().expect("there").join(self.walk.folder)
    }

    /// A program in the surroundings of the walk, and in no others.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        // The umask of a child can only be set by itself.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", self.walk.umask]).arg(program.as_ref());
        command.env_clear().current_dir(self.home.path());
        for name in ["PATH", "CARGO_TARGET_DIR"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        // The components were fetched by whoever has built this.
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        let cache = if geteuid().is_root() { Some(PathBuf::from("/var/cache")) } else { cache };
        command.envs(cache.map(|cache| ("XDG_CACHE_HOME", cache)));
        command.env("HOME", self.home.path()).env("HOLDFAST_DATA_DIR", self.data_dir());
        // Deliveries take a moment, not six seconds.
        command.env("HOLDFAST__DELIVERY__STEP", "50ms");
        command.envs(self.walk.locale.map(|locale| ("LANG", locale)));
        command.envs(self.walk.exports.iter().copied());
        if let Some(user) = self.user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(&self.holdfast).args(arguments).output().expect("it runs")
    }

    fn done(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{:?} {arguments:?}: {}", self.walk, talk(&output));
    }

    /// Starts on ports that are free, and that nobody else takes as long as what is returned lives.
    fn up(&self) -> PortOffset {
        for _ in 0..PORTS_TRIED {
            let port_offset = PortOffset::draw([], false).expect("some are free");
            let output = self.run(&["up", "--port-offset", &port_offset.number.to_string()]);
            if output.status.success() {
                return port_offset;
            }
            assert!(talk(&output).contains("port"), "{:?}: {}", self.walk, talk(&output));
        }
        panic!("{:?}: no ports are free", self.walk);
    }

    /// The console's process.
    fn console(&self) -> u64 {
        let status: Value =
            serde_json::from_slice(&self.run(&["status", "-o", "json"]).stdout).expect("JSON");
        let components = status["components"].as_array().expect("a list");
        let console = components.iter().find(|component| component["name"] == "console").expect("it runs");
        console["pid"].as_u64().expect("it runs")
    }

    /// Whether a process runs for this stack.
    fn is_ours(&self, process: u64) -> bool {
        let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&*self.data_dir().to_string_lossy())
    }

    /// One order, from its creation to its delivery.
    fn order(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test-create-order.sh");
        // It may be below a closed home too.
        let script = fs::read_to_string(script).expect("there");
        let mut command = self.command("bash");
        let output = command.args(["-c", &script]).env("HOLDFAST", &self.holdfast).output().expect("it runs");
        assert!(output.status.success(), "{:?}: {}", self.walk, talk(&output));
    }

    fn walk(&self) {
        let first = self.up();
        self.done(&["status"]);
        self.order();
        // Whoever has started the stack is let in, and nothing is left of the console.
        self.done(&["console"]);
        let console = self.console();
        assert!(self.is_ours(console), "{:?}: {console}", self.walk);
        self.done(&["down"]);
        assert!(!self.is_ours(console), "{:?}: {console}", self.walk);
        assert_eq!(self.run(&["status"]).status.code(), Some(3), "{:?}", self.walk);
        drop(first);
        let _ports = self.up();
        self.done(&["status"]);
        self.order();
        assert_eq!(open_to_others(&self.data_dir()), Vec::<PathBuf>::new(), "{:?}", self.walk);
        self.done(&["down", "--delete-data", "--yes"]);
        assert!(!self.data_dir().exists(), "{:?}", self.walk);
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        if self.data_dir().exists() {
            let down = self.run(&["down", "--delete-data", "--yes"]);
            assert!(down.status.success() || std::thread::panicking(), "{}", talk(&down));
        }
    }
}

fn talk(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The programs beside `holdfast` in another folder.
fn copy_programs(holdfast: &Path, folder: &Path) -> PathBuf {
    fs::create_dir(folder).expect("created");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("allowed");
    for service in ["", "-gateway", "-order", "-payment", "-delivery", "-console"] {
        let name = format!("holdfast{service}");
        fs::copy(holdfast.with_file_name(&name), folder.join(&name)).expect("copied");
    }
    folder.join("holdfast")
}

/// Secrets in a folder that somebody else could read.
fn open_to_others(folder: &Path) -> Vec<PathBuf> {
    let mut open = Vec::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("read").path();
        let is_secret = path.extension().is_some_and(|extension| extension == "key" || extension == "toml");
        if path.is_dir() {
            open.extend(open_to_others(&path));
        } else if is_secret && fs::metadata(&path).expect("there").permissions().mode() & 0o077 != 0 {
            open.push(path);
        }
    }
    open
}

/// See the file. Two walk at a time: a start mostly waits.
#[test]
fn everybody_can_walk() {
    let walks = WALKS.iter().filter(|walk| geteuid().is_root() || !walk.as_root);
    if !geteuid().is_root() {
        skipped("only root can walk as root, so the other half of the walks was not walked");
    }
    for pair in walks.collect::<Vec<_>>().chunks(2) {
        std::thread::scope(|scope| {
            for walk in pair {
                scope.spawn(move || Walker::new(**walk).walk());
            }
        });
    }
}

/// The walks have every pair of values.
#[test]
fn every_pair_is_walked() {
    let values = |walk: &Walk| {
        [
            walk.as_root.to_string(),
            walk.umask.to_owned(),
            format!("{:?}", walk.locale),
            format!("{:?}", walk.exports),
            walk.folder.to_owned(),
        ]
    };
    let rows: Vec<_> = WALKS.iter().map(values).collect();
    for one in 0..rows[0].len() {
        for other in 0..one {
            for (of_one, of_other) in rows.iter().flat_map(|a| rows.iter().map(move |b| (&a[one], &b[other])))
            {
                let is_walked = rows.iter().any(|row| row[one] == *of_one && row[other] == *of_other);
                assert!(is_walked, "{one}: {of_one} with {other}: {of_other}");
            }
        }
    }
}
