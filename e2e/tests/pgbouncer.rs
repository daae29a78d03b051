//! The services behind PgBouncer in transaction mode, as `docs/postgresql.md` describes it: one pooler for each database, with the
//! sample's settings and TLS on both sides. Skipped where no PgBouncer is that knows prepared statements.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use futures_util::{StreamExt as _, stream};
use holdfast_chaos::rest::{Session, sample_order};
use holdfast_e2e::{PATIENCE, World, eventually, reaches, skipped};
use holdfast_native::layout::{PARTICIPANTS, Participant, service_names};
use holdfast_testkit::stack::{TestStack, binary};
use nix::unistd::{User, geteuid};
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

const SAMPLE: &str = include_str!("../../deploy/pgbouncer/pgbouncer.ini");
/// Fewer than a service's pool has, so that connections change between transactions.
const SERVER_CONNECTIONS: i64 = 3;
const ORDERS: usize = 40;
/// More than there are connections to the database, and few enough for a machine that has no time.
const CLIENTS: usize = 6;
/// What the script answers where no PgBouncer can be had.
const CANNOT_BE_HAD: i32 = 77;

/// The program, or why there is none.
fn program() -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/pgbouncer.sh");
    let output = Command::new(script).output().expect("bash runs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.code() == Some(CANNOT_BE_HAD) {
        return Err(said(&output.stderr));
    }
    assert!(output.status.success(), "{}", said(&output.stderr));
    Ok(said(&output.stdout).into())
}

/// A pooler of one database; it ends with the value.
struct Pooler {
    program: PathBuf,
    settings: PathBuf,
    process: Option<Child>,
}

impl Pooler {
    /// Its files are in a folder of its own in `base`.
    fn start(program: &Path, base: &Path, stack: &TestStack, participant: &Participant, port: u16) -> Self {
        let folder = base.join(participant.server);
        fs::create_dir(&folder).expect("created");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("allowed");
        let pki = stack.layout.pki_dir();
        let copy = |from: PathBuf, name: &str| private(&folder.join(name), &fs::read(from).expect("there"));
        copy(pki.join("ca.crt"), "ca.crt");
        for (identity, name) in [(participant.server, "database"), (participant.name, "service")] {
            copy(pki.join(identity).join("tls.crt"), &format!("{name}.crt"));
            copy(pki.join(identity).join("tls.key"), &format!("{name}.key"));
        }
        let [_, password] = stack.layout.password_files(participant);
        let password = fs::read_to_string(password).expect("written at the start");
        let users = format!("\"{}\" \"{}\"\n", participant.name, password.trim());
        private(&folder.join("users"), users.as_bytes());
        let settings = folder.join("pgbouncer.ini");
        let server = format!("host=127.0.0.1 port={}", stack.layout.database_port(participant));
        private(&settings, of_sample(participant, &server, port, &folder).as_bytes());
        let mut pooler = Self { program: program.to_owned(), settings, process: None };
        pooler.launch();
        pooler
    }

    /// As another user than root, whom it refuses to run as.
    fn launch(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.settings.with_extension("log"));
        let mut command = Command::new(&self.program);
        command.arg(&self.settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log"));
        if let Some((uid, gid)) = unprivileged() {
            command.uid(uid).gid(gid);
        }
        self.process = Some(command.spawn().expect("it starts"));
    }

    fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // Fails only if it has ended already.
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The sample's settings, for another place: whatever else it says is what runs.
fn of_sample(participant: &Participant, server: &str, port: u16, folder: &Path) -> String {
    let replaced = [
        ("orders = host=orders-db.internal port=5432", format!("{} = {server}", participant.database)),
        ("listen_port = 6432", format!("listen_port = {port}")),
        ("default_pool_size = 8", format!("default_pool_size = {SERVER_CONNECTIONS}")),
        ("/etc/pgbouncer/pki", folder.display().to_string()),
        ("/etc/pgbouncer", folder.display().to_string()),
    ];
    replaced.iter().fold(SAMPLE.to_owned(), |text, (there, here)| {
        assert!(text.contains(there), "the sample says nothing of {there}");
        text.replace(there, here)
    })
}

fn unprivileged() -> Option<(u32, u32)> {
    let nobody = || User::from_name("nobody").expect("asked").expect("there is one");
    geteuid().is_root().then(|| (nobody().uid.as_raw(), nobody().gid.as_raw()))
}

fn private(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("allowed");
    if let Some((uid, gid)) = unprivileged() {
        chown(path, Some(uid), Some(gid)).expect("given away");
    }
}

/// Programs that reach their database by a pooler, and what needs the database itself by the URL that they were given.
fn wrapped(folder: &Path, ports: &[u16]) {
    let own = binary();
    for service in service_names() {
        let program = own.with_file_name(format!("holdfast-{service}"));
        let place = PARTICIPANTS.iter().position(|participant| participant.name == service);
        let settings = place.map(|place| {
            let (port, database) = (ports[place], PARTICIPANTS[place].database);
            format!(
                "export HOLDFAST__DATABASE__DIRECT_URL=\"$HOLDFAST__DATABASE__URL\"\n\
                 export HOLDFAST__DATABASE__URL=\"${{HOLDFAST__DATABASE__URL%:*}}:{port}/{database}\"\n"
            )
        });
        let script =
            format!("#!/bin/sh\n{}exec {} \"$@\"\n", settings.unwrap_or_default(), program.display());
        let path = folder.join(format!("holdfast-{service}"));
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("allowed");
    }
}

async fn all_are_well(world: &World) {
    for participant in PARTICIPANTS {
        eventually(&format!("{} is well", participant.name), || async {
            world.is_well(participant.name).await
        })
        .await;
    }
}

/// Several orders at a time; returns once all of this user's, `total`, are delivered.
async fn orders_are_delivered(world: &World, user: &Session, total: usize) {
    let sample = sample_order("1 Quay Street", 1);
    let create = |_| async {
        // With a key: what is sent again after a 503, as on a machine that is too slow, is one order.
        let key = Uuid::now_v7().to_string();
        eventually("the order is accepted", || async {
            let answer = user.create_order(&sample, Some(&key)).await.expect("answered");
            assert!([201, 503].contains(&answer.status.as_u16()), "{:?}", answer.body);
            answer.status == 201
        })
        .await;
    };
    stream::iter(0..ORDERS).map(create).buffer_unordered(CLIENTS).collect::<()>().await;
    reaches("delivered orders", i64::try_from(total).expect("few"), || {
        let sql = "select count(*) from orders where user_id = $1 and delivery_status = 'DELIVERED'";
        world.count("order", sql, &user.user)
    })
    .await;
}

/// All services work through poolers with fewer connections than they have themselves: every order is delivered, and all connections to
/// the database but those with a lock are the pooler's. While a pooler is dead its service says so; once it is back, everything goes on.
#[tokio::test(flavor = "multi_thread")]
async fn services_work_through_a_pooler() {
    let found = match tokio::task::spawn_blocking(program).await.expect("no panic") {
        Ok(program) => program,
        Err(reason) => return skipped(&reason),
    };
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("allowed");
    // Where every user can get.
    let program = folder.path().join("pgbouncer");
    fs::copy(found, &program).expect("copied");
    let ports: Vec<u16> = PARTICIPANTS
        .iter()
        .map(|_| TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port").port())
        .collect();
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).expect("created");
    wrapped(&programs, &ports);
    let environment = [
        ("HOLDFAST_DATABASE_TLS", "on"),
        ("HOLDFAST__DELIVERY__STEP", "50ms"),
        ("HOLDFAST__GATEWAY__DEADLINE", "20s"),
    ];
    let start = move || TestStack::start_with_programs(&programs, &environment);
    let stack: &TestStack = Box::leak(Box::new(tokio::task::spawn_blocking(start).await.expect("it starts")));
    let mut poolers: Vec<Pooler> = PARTICIPANTS
        .iter()
        .zip(&ports)
        .map(|(participant, port)| Pooler::start(&program, folder.path(), stack, participant, *port))
        .collect();
    tokio::task::spawn_blocking(|| stack.wait_until_ready()).await.expect("ready");
    let World { stack, rest } = World::of(stack);
    let world = World { stack, rest: rest.patient(PATIENCE) };
    let user = world.user("pooled", "10000.00").await;
    orders_are_delivered(&world, &user, ORDERS).await;
    for participant in PARTICIPANTS {
        let (pooled, with_lock) = connections(stack, participant).await;
        assert!((1..=SERVER_CONNECTIONS).contains(&pooled), "{}: {pooled}", participant.server);
        assert_eq!(with_lock, 1, "{}: the relay's", participant.server);
        assert_eq!(limits(&ports, folder.path(), stack, participant).await, ["10s", "10s", "100ms"]);
    }

    for pooler in &mut poolers {
        pooler.kill();
    }
    for participant in PARTICIPANTS {
        eventually(&format!("{} says that it has no database, and why", participant.name), || async {
            let (status, body) = world.readyz(participant.name).await;
            status == 503 && body["components"]["database"]["detail"].to_string().contains("refused")
        })
        .await;
    }
    for pooler in &mut poolers {
        pooler.launch();
    }
    all_are_well(&world).await;
    orders_are_delivered(&world, &user, 2 * ORDERS).await;
    world.invariants_hold().await;
}

/// Connections of the service's role: those that neither have a lock that outlives a transaction nor listen, and those with a lock.
async fn connections(stack: &TestStack, participant: &Participant) -> (i64, i64) {
    let mut connection =
        PgConnection::connect(&stack.database_url(participant.name)).await.expect("connected");
    let row = sqlx::query(
        "select count(*) filter (where not locks and not listens) as pooled, count(*) filter (where locks) as with_lock
        from (select query like 'LISTEN %' as listens, exists (select from pg_locks where pg_locks.pid = pg_stat_activity.pid
            and locktype = 'advisory' and granted) as locks
            from pg_stat_activity where usename = $1) as connections",
    )
    .bind(participant.name)
    .fetch_one(&mut connection)
    .await
    .expect("read");
    (row.get("pooled"), row.get("with_lock"))
}

/// What ends a statement that nobody waits for, as whoever comes through the pooler has it.
async fn limits(ports: &[u16], folder: &Path, stack: &TestStack, participant: &Participant) -> [String; 3] {
    let place = PARTICIPANTS.iter().position(|other| other.name == participant.name).expect("one of them");
    let [_, password] = stack.layout.password_files(participant);
    let own = folder.join(participant.server);
    let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(ports[place])
        .username(participant.name)
        .password(fs::read_to_string(password).expect("there").trim())
        .database(participant.database)
        .ssl_mode(sqlx::postgres::PgSslMode::VerifyFull)
        .ssl_root_cert(own.join("ca.crt"))
        .ssl_client_cert(own.join("service.crt"))
        .ssl_client_key(own.join("service.key"));
    let mut connection = PgConnection::connect_with(&options).await.expect("let in");
    let row = sqlx::query(
        "select current_setting('statement_timeout') as statement, \
            current_setting('idle_in_transaction_session_timeout') as transaction, \
            current_setting('client_connection_check_interval') as look",
    );
    let row = row.fetch_one(&mut connection).await.expect("read");
    ["statement", "transaction", "look"].map(|column| row.get(column))
}
