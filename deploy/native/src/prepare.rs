//! Everything that must be true before anything is started. Each failure says what to do about it.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use holdfast_certs::{Author, Pki, TokenIssuer};
use nix::sys::statvfs::statvfs;

use crate::{
    artifacts::Artifacts,
    environment,
    files::{self, Owner, Passage},
    kafka,
    layout::{CONSOLE, Extra, KAFKA, Layout, PARTICIPANTS, Replicas, Scope, Tls, identities, service_names},
    link::Link,
    ports::{self, Taken},
    postgres, programs, redis,
    remembered::{self, Remembered},
    removal::{self, Content, Folder},
    say, services,
    state::Lock,
};

/// Free space that a start requires, in bytes: three clusters, a broker's log, and room to work.
const FREE_BYTES_MIN: u64 = 512 * 1024 * 1024;
const MARKER: &str =
    "The data of a Holdfast stack. `holdfast down --delete-data` deletes what it wrote here.\n";
const JAVA_VERSION_MIN: u32 = 17;

/// Ports that are in use, all of them.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}; choose other ports with --port-offset N, or stop what is in the way{}",
    .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    self.console_alone()
)]
pub struct PortTaken(Vec<Taken>);

impl PortTaken {
    /// A stack can do without its console.
    fn console_alone(&self) -> &'static str {
        let is_consoles = |taken: &Taken| taken.component.starts_with(CONSOLE);
        if self.0.iter().all(is_consoles) { ", or leave the console out with --without console" } else { "" }
    }
}

/// What to do about a port that becomes free by itself, because only an outgoing connection has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporary {
    /// Wait for it.
    Wait,
    /// Fail, so that others are tried.
    Fail,
}

/// A closed connection keeps its port for a minute.
const TEMPORARY_TIME_MAX: Duration = Duration::from_secs(70);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The exit code for a test's stack when a port is taken, so that the test tries others. Nobody else gets it.
pub const PORT_TAKEN_EXIT_CODE: u8 = 5;

/// A stack that can be started.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Where it is.
    pub layout: Layout,
    /// How much of it.
    pub scope: Scope,
    /// How many of each service.
    pub replicas: Replicas,
    /// What it has that others do without.
    pub(crate) extras: Vec<Extra>,
    /// Options that a command needs for this stack, such as ` --data-dir DIR`: its console shows commands.
    pub(crate) command_options: String,
    /// Its links, if it has any.
    pub(crate) links: Vec<Link>,
    /// What is remembered of this start. Not read again while the stack runs: components must start again whatever became of the file.
    pub(crate) started: Remembered,
    pub(crate) artifacts: Artifacts,
}

/// What a stack is to be.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// How much of it.
    pub scope: Scope,
    /// How many of each service.
    pub replicas: Replicas,
    /// What it has that others do without.
    pub extras: Vec<Extra>,
    /// Options that a command needs for it, such as ` --data-dir DIR`.
    pub command_options: String,
    /// Those of the layout, or none: then clients reach servers by the servers' own ports.
    pub links: Vec<Link>,
    /// The folder of the services' programs, if that is not where this one is.
    pub programs: Option<&'a Path>,
    /// Whether connections to the databases are encrypted.
    pub database_tls: Tls,
    /// Whether those to the broker are.
    pub kafka_tls: Tls,
    /// What to do about ports that outgoing connections have.
    pub temporary_ports: Temporary,
    /// Settings of services, by `section.key`; services take up others when they are started.
    pub settings: BTreeMap<String, String>,
}

/// A check with its name.
type Check<'a> = (&'static str, Box<dyn FnOnce() -> Result<()> + 'a>);

/// What is checked before a start, in this order. Nothing is written: what is refused here leaves no trace.
fn each_check<'a>(layout: &'a Layout, wanted: &Wanted<'a>) -> Vec<Check<'a>> {
    let there = || layout.data_dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let mut checks: Vec<Check<'a>> = vec![
        ("name of the folder", Box::new(|| check_name(&layout.data_dir))),
        ("user", Box::new(environment::check_user)),
        ("open files", Box::new(environment::raise_descriptors)),
    ];
    if wanted.kafka_tls == Tls::On {
        checks.push(("TLS to Kafka", Box::new(check_kafka_tls)));
    }
    checks.push(("Java", Box::new(check_java)));
    for extra in &wanted.extras {
        match extra {
            Extra::Redis => checks.push(("Redis", Box::new(redis::check))),
            Extra::Console => {
                checks.push(("user of the console", Box::new(|| environment::console_user().map(drop))));
            }
        }
    }
    checks.push(("space", Box::new(move || check_space(there()))));
    checks.push(("folder", Box::new(|| check_nothing_else(layout))));
    if wanted.scope == Scope::Everything {
        let (programs, extras) = (wanted.programs, wanted.extras.clone());
        checks.push(("programs", Box::new(move || programs::check(programs, &extras))));
    }
    checks
}

/// Checks the machine and the folder for a start; the first check that fails is the error.
pub fn check(layout: &Layout, wanted: &Wanted<'_>) -> Result<()> {
    each_check(layout, wanted).into_iter().try_for_each(|(_, check)| check())
}

/// The outcome of each check for a usual start, also of those behind one that fails.
#[must_use]
pub fn checks(layout: &Layout) -> Vec<(&'static str, Result<()>)> {
    let wanted = Wanted {
        scope: Scope::Everything,
        replicas: Replicas::default(),
        extras: Extra::DEFAULT.into(),
        command_options: String::new(),
        links: Vec::new(),
        programs: None,
        database_tls: Tls::DEFAULT,
        kafka_tls: Tls::Off,
        temporary_ports: Temporary::Fail,
        settings: BTreeMap::new(),
    };
    each_check(layout, &wanted).into_iter().map(|(name, check)| (name, check())).collect()
}

/// Makes the folder a stack's, and takes its lock: before anything else is made in it. `None` while another start or a supervisor
/// has it.
pub fn claim(layout: &Layout) -> Result<Option<Lock>> {
    let folder = &layout.data_dir;
    let mut parents = DirBuilder::new();
    let created = match folder.parent() {
        // As anybody else would create them.
        Some(parent) => parents.recursive(true).mode(0o755).create(parent),
        None => Ok(()),
    };
    created
        .and_then(|()| match fs::create_dir(folder) {
            Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o700)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        })
        .with_context(|| format!("cannot create the data folder {}", folder.display()))?;
    environment::keep_private();
    let Some(lock) = Lock::take(layout)? else { return Ok(None) };
    fs::write(layout.marker_file(), MARKER)
        .with_context(|| format!("cannot write {}", layout.marker_file().display()))?;
    Ok(Some(lock))
}

/// Creates files, databases, certificates and configurations where they are missing; what an interrupted start has left behind is
/// completed or made anew. The holder of the lock may do so when nothing of an earlier life runs any more. The stack's folder becomes
/// the working folder of this process, and so that of components: through it they get to their files wherever it is.
pub fn prepare(layout: Layout, lock: &Lock, wanted: Wanted<'_>) -> Result<Prepared> {
    let Wanted { scope, replicas, extras, links, programs, database_tls, kafka_tls, command_options, .. } =
        wanted;
    let (temporary_ports, settings) = (wanted.temporary_ports, wanted.settings);
    check_ports(&layout.ports(scope, replicas, &extras, &links), temporary_ports)?;
    let artifacts = Artifacts::ensure()?;
    open_to_components(&layout.data_dir)?;
    std::env::set_current_dir(&layout.data_dir)
        .with_context(|| format!("cannot enter {}", layout.data_dir.display()))?;
    files::folder(&layout.data_dir.join("config"), Passage::Components)?;
    files::folder(&layout.data_dir.join("logs"), Passage::Closed)?;
    let replicas_asked_for = replicas.arguments().collect();
    let started = Remembered { port_offset: layout.port_offset, replicas: replicas_asked_for, settings };
    remembered::remember(&layout, &started)?;
    write_down(&layout.database_tls_file(), database_tls)?;
    write_down(&layout.kafka_tls_file(), kafka_tls)?;
    files::folder(&layout.pki_dir(), Passage::Components)?;
    renew_certificates(&layout, scope, &extras)?;
    postgres::prepare(&layout, lock, &artifacts)?;
    kafka::prepare(&layout, lock, &artifacts, &links)?;
    for extra in &extras {
        match extra {
            Extra::Redis => redis::prepare(&layout)?,
            Extra::Console => prepare_console(&layout)?,
        }
    }
    if scope == Scope::Everything {
        TokenIssuer::load_or_create(&layout.pki_dir())?;
        // Older versions wrote it as the umask said.
        let keys = layout.pki_dir().join("jwks.json");
        files::publish(&keys).with_context(|| format!("cannot open {} to the gateways", keys.display()))?;
        for name in service_names() {
            files::folder_of(Owner::Components, &layout.pki_dir().join(name))?;
        }
        services::prepare(&layout, replicas, &extras, &links, &command_options)?;
        programs::prepare(&layout, replicas, programs)?;
    }
    Ok(Prepared { layout, scope, replicas, extras, command_options, links, started, artifacts })
}

/// Components that run as another user get through the stack's folder, and can't list it.
fn open_to_components(folder: &Path) -> Result<()> {
    if environment::unprivileged()?.is_none() {
        return Ok(());
    }
    let open = || {
        let mode = fs::metadata(folder)?.permissions().mode();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011))
    };
    open().with_context(|| format!("cannot open {} to the components", folder.display()))
}

/// What the console alone may read: its certificate and the tickets of those who may come in.
fn prepare_console(layout: &Layout) -> Result<()> {
    files::folder_of(Owner::Console, &layout.pki_dir().join(CONSOLE))?;
    // Its own, so that nobody but the supervisor can replace what is in it.
    files::folder(&layout.console_dir(), Passage::Components)?;
    files::folder_of(Owner::Console, &layout.console_tickets_dir())
}

/// Who renews certificates by itself, in their audit.
const SUPERVISOR: &str = "supervisor";

/// Makes sure that every identity has a certificate with time left.
pub(crate) fn renew_certificates(layout: &Layout, scope: Scope, extras: &[Extra]) -> Result<()> {
    let (databases, broker) = (layout.database_tls() == Tls::On, layout.kafka_tls() == Tls::On);
    if scope == Scope::Infrastructure && !databases && !broker {
        return Ok(());
    }
    let author = Author { name: SUPERVISOR.to_owned(), reason: None, unrecorded: |error| say!("{error}") };
    let pki = Pki::open_or_init_by(&layout.pki_dir(), author)?;
    let console = extras.contains(&Extra::Console).then_some(CONSOLE);
    for identity in identities().chain(console) {
        pki.ensure_leaf(identity)?;
    }
    let servers = PARTICIPANTS.iter().map(|participant| participant.server).filter(|_| databases);
    for server in servers.chain(broker.then_some(KAFKA)) {
        // Clients have nothing but the address; no service's certificate says that it answers there.
        pki.answers_at(server, &[Ipv4Addr::LOCALHOST.into()])?;
        pki.ensure_leaf(server)?;
    }
    Ok(())
}

/// For all who look for the databases, or for the broker, of this stack.
fn write_down(path: &Path, tls: Tls) -> Result<()> {
    match tls {
        Tls::On => files::write(path, b"Connections are by TLS only.\n", Owner::Supervisor),
        Tls::Off => removal::remove(path),
    }
}

/// PostgreSQL's own names of files must fit behind it (`MAXPGPATH` is 1,024), also where databases are kept elsewhere.
const NAME_BYTES_MAX: usize = 800;

/// The name is part of configurations, command lines and messages, which are text.
fn check_name(folder: &Path) -> Result<()> {
    let Some(name) = folder.to_str() else {
        bail!("the name of the data folder is not UTF-8: choose another one with --data-dir");
    };
    if name.chars().any(char::is_control) {
        bail!("the name of the data folder has control characters: choose another one with --data-dir");
    }
    if name.len() > NAME_BYTES_MAX {
        bail!(
            "the name of the data folder is {} bytes long, {NAME_BYTES_MAX} are possible: choose another one with --data-dir",
            name.len()
        );
    }
    Ok(())
}

fn check_space(folder: &Path) -> Result<()> {
    let stat =
        statvfs(folder).with_context(|| format!("cannot ask for the free space of {}", folder.display()))?;
    // The widths of these two differ between platforms.
    #[allow(clippy::useless_conversion, reason = "needed where they are 32 bits wide")]
    let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    enough(free, folder)
}

fn enough(free: u64, folder: &Path) -> Result<()> {
    if free < FREE_BYTES_MIN {
        bail!(
            "only {} MiB are free in {}, {} MiB are needed: make room, or choose another folder with --data-dir",
            free >> 20,
            folder.display(),
            FREE_BYTES_MIN >> 20
        );
    }
    Ok(())
}

/// A start overwrites files under its names, and marks the folder as one that may be deleted.
fn check_nothing_else(layout: &Layout) -> Result<()> {
    if layout.marker_file().exists() {
        return Ok(());
    }
    let foreign = Content::of(layout, Folder::Unmarked)?.foreign;
    if let Some(first) = foreign.first() {
        bail!(
            "{} is not a stack's, and {} is where a stack would write ({} such files or folders): choose another folder \
             with --data-dir",
            layout.data_dir.display(),
            first.display(),
            foreign.len()
        );
    }
    Ok(())
}

fn check_kafka_tls() -> Result<()> {
    if !kafka::CAN_ENCRYPT {
        bail!("{}", kafka::NOT_BUILT);
    }
    Ok(())
}

fn check_java() -> Result<()> {
    const HELP: &str = "Apache Kafka needs Java 17 or newer: run `make deps`, or install a Java runtime (Debian: apt-get install \
         openjdk-17-jre-headless) so that `java` is on the PATH";
    let Ok(output) = environment::command("java").arg("-version").output() else {
        bail!("no Java was found. {HELP}");
    };
    // openjdk version "17.0.15" 2025-04-15
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text
        .split('"')
        .nth(1)
        .and_then(|version| version.split(['.', '-', '+']).next())
        .and_then(|major| major.parse::<u32>().ok());
    match version {
        Some(version) if version >= JAVA_VERSION_MIN => Ok(()),
        Some(version) => bail!("Java {version} is too old. {HELP}"),
        None => bail!("`java -version` does not say its version. {HELP}"),
    }
}

/// An error if any is taken, at the latest when those that become free by themselves should be.
#[expect(
    clippy::disallowed_methods,
    reason = "called by a command that has no runtime, so there is none to block"
)]
fn check_ports(ports: &[(String, u16)], temporary: Temporary) -> Result<(), PortTaken> {
    let begin = Instant::now();
    let mut has_said = false;
    loop {
        let taken = ports::taken(ports);
        if taken.is_empty() {
            return Ok(());
        }
        let is_temporary = temporary == Temporary::Wait && taken.iter().all(Taken::is_temporary);
        if !is_temporary || begin.elapsed() > TEMPORARY_TIME_MAX {
            return Err(PortTaken(taken));
        }
        if !has_said {
            for taken in &taken {
                say!("{taken}: waiting for it");
            }
            has_said = true;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A password, created at the first start.
pub(crate) fn write_password(path: &Path, owner: Owner) -> Result<()> {
    // An empty one is what an older version left behind when it was interrupted.
    if fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    let password = uuid::Uuid::new_v4().simple().to_string();
    files::write(path, format!("{password}\n").as_bytes(), owner)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A full disk is reported before anything is started, with how much is needed and what to do.
    #[test]
    fn a_full_disk_is_reported_with_the_way_out() {
        let folder = Path::new("/full/disk");
        let text = enough(FREE_BYTES_MIN - 1, folder).expect_err("too little").to_string();
        for part in ["511 MiB", "/full/disk", "512 MiB", "--data-dir"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(enough(FREE_BYTES_MIN, folder).is_ok());
    }

    /// A folder whose name can't be handed on is refused in one sentence; spaces and letters of any language are none of those.
    #[test]
    fn a_name_that_cannot_be_handed_on_is_refused() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

        for (name, expected) in [
            (&b"/x/\xff"[..], "not UTF-8"),
            (b"/x/a\nb", "control characters"),
            (&[b'a'; NAME_BYTES_MAX + 1], "bytes long"),
        ] {
            let refused = check_name(Path::new(OsStr::from_bytes(name))).expect_err("refused").to_string();
            assert!(refused.contains(expected) && refused.contains("--data-dir"), "{refused}");
        }
        check_name(Path::new("/x/op st\u{e4}ck, $HOME 'a' %41:#")).expect("a name");
    }

    /// Ports in use have an error type of their own, and one message with all of them. Nobody waits for a listener; for what only an
    /// outgoing connection has, whoever wants to does.
    #[test]
    fn ports_in_use_are_one_error() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let connection = TcpStream::connect(address).expect("connected");
        let (listens, connects) = (address.port(), connection.local_addr().expect("bound").port());
        let ports = [("kafka".to_owned(), listens), ("order".to_owned(), connects)];
        let taken = check_ports(&ports, Temporary::Wait).expect_err("in use");
        let text = anyhow::Error::from(taken).to_string();
        for part in [&listens.to_string(), "kafka", &connects.to_string(), "order", "--port-offset"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(check_ports(&ports[1..], Temporary::Fail).is_err());
        assert!(!text.contains("--without"), "{text}");
        let of_console = ["console", "console (admin)"].map(|name| (name.to_owned(), listens));
        let taken = check_ports(&of_console, Temporary::Fail).expect_err("in use").to_string();
        assert!(taken.ends_with(", or leave the console out with --without console"), "{taken}");
        // Its other end closes first, so this one's port is free as soon as it is closed too.
        drop(listener.accept().expect("accepted"));
        let waits = std::thread::spawn(move || check_ports(&ports[1..], Temporary::Wait).is_ok());
        drop(connection);
        assert!(waits.join().expect("no panic"), "it is free now");
    }
}
