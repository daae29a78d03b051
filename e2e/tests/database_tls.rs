//! TLS between the services and their databases: who gets in, with what, and what happens when certificates are renewed, expire or
//! are revoked while everything runs.

use std::{fs, path::Path, sync::Arc, time::Duration};

use holdfast_certs::LEAF_LIFE_MAX;
use holdfast_chaos::{
    fault::certificate::{Flaw, Flawed},
    rest::sample_order,
};
use holdfast_e2e::{PATIENCE, World, eventually, id};
use holdfast_native::layout::{
    PARTICIPANTS, Participant, Scope, identities, participant_names, service_names,
};
use holdfast_testkit::stack::TestStack;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};
use sqlx::{
    Connection as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{Mutex, OnceCell},
};
use tokio_rustls::TlsAcceptor;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A stack and clients that are patient: late answers and overload of a slow machine are not what is looked at here.
async fn world() -> World {
    static STACK: OnceCell<TestStack> = OnceCell::const_new();
    let start = || {
        let environment = [
            ("HOLDFAST_DATABASE_TLS", "on"),
            ("HOLDFAST__DELIVERY__STEP", "50ms"),
            ("HOLDFAST__GATEWAY__DEADLINE", "20s"),
        ];
        TestStack::start(Scope::Everything, &[], &environment)
    };
    let stack = STACK.get_or_init(|| async { tokio::task::spawn_blocking(start).await.expect("it starts") });
    let World { stack, rest } = World::of(stack.await);
    World { stack, rest: rest.patient(PATIENCE) }
}

fn participant(service: &str) -> &'static Participant {
    PARTICIPANTS.iter().find(|participant| participant.name == service).expect("a service")
}

/// The password of a service's role.
fn password(world: &World, participant: &Participant) -> String {
    let [_, role] = world.stack.layout.password_files(participant);
    fs::read_to_string(role).expect("written at the start").trim().to_owned()
}

/// A login of the service to its own database, with nothing shown.
fn login(world: &World, participant: &Participant) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(world.stack.layout.database_port(participant))
        .username(participant.name)
        .password(&password(world, participant))
        .database(participant.database)
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(world.stack.layout.pki_dir().join("ca.crt"))
}

/// The same with the certificate in `folder`.
fn showing(options: PgConnectOptions, folder: &Path) -> PgConnectOptions {
    options.ssl_client_cert(folder.join("tls.crt")).ssl_client_key(folder.join("tls.key"))
}

async fn gets_in(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    PgConnection::connect_with(options).await?.close().await
}

async fn assert_refused(what: &str, options: &PgConnectOptions) {
    assert!(gets_in(options).await.is_err(), "{what} gets in");
}

/// A service with its certificate and its password gets into its own database, and into nothing else. Everybody else's certificate, no
/// certificate, a wrong password, or a connection without TLS gets in nowhere, whatever else is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_opens_its_own_database_only() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world().await;
    let pki = world.stack.layout.pki_dir();
    for owner in PARTICIPANTS {
        let right = showing(login(&world, owner), &pki.join(owner.name));
        gets_in(&right).await.unwrap_or_else(|error| panic!("{} does not get in: {error}", owner.name));
        let servers = PARTICIPANTS.iter().map(|participant| participant.server);
        for other in identities().chain(servers).filter(|other| *other != owner.name) {
            let stolen = showing(login(&world, owner), &pki.join(other));
            assert_refused(&format!("{other} with the password of {}", owner.name), &stolen).await;
        }
        assert_refused("who has no certificate", &login(&world, owner)).await;
        assert_refused("who comes without TLS", &login(&world, owner).ssl_mode(PgSslMode::Disable)).await;
        assert_refused("a wrong password", &right.clone().password("guessed")).await;
        assert_refused("a service in another database", &right.clone().database("postgres")).await;
        for service in participant_names().filter(|service| *service != owner.name) {
            let own = participant(service);
            let visitor = showing(login(&world, own), &pki.join(service))
                .port(world.stack.layout.database_port(owner))
                .database(owner.database);
            assert_refused(&format!("{service} at {}", owner.server), &visitor).await;
        }
        let password =
            fs::read_to_string(world.stack.layout.owner_password_file(owner)).expect("written at the start");
        let migrations = login(&world, owner).username(&owner.owner_role()).password(password.trim());
        assert_refused("the owner of the tables without a certificate", &migrations).await;
        let guessed = showing(migrations.clone(), &pki.join(owner.name)).password("guessed");
        assert_refused("the owner of the tables with a wrong password", &guessed).await;
        gets_in(&showing(migrations, &pki.join(owner.name))).await.expect("migrations get in");
        // The superuser's login is the operator's, by certificate alone.
        for other in service_names() {
            let raised = showing(login(&world, owner), &pki.join(other)).username("holdfast");
            assert_refused(&format!("{other} as the superuser"), &raised).await;
        }
        let operator = showing(login(&world, owner), &pki.join("operator")).username("holdfast");
        gets_in(&operator).await.expect("the operator gets in");
        let folder = tempfile::tempdir().expect("a folder");
        let foreign = holdfast_certs::Pki::open_or_init(folder.path()).expect("created");
        foreign.issue(owner.name, LEAF_LIFE_MAX).expect("issued");
        let foreign = showing(login(&world, owner), &folder.path().join(owner.name));
        assert_refused("a certificate of a foreign authority", &foreign).await;
    }
}

/// A service may do what it wants with its own tables, and nothing with the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_no_superuser() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world().await;
    for participant in PARTICIPANTS {
        let own = showing(login(&world, participant), &world.stack.layout.pki_dir().join(participant.name));
        let mut connection = PgConnection::connect_with(&own).await.expect("it gets in");
        for forbidden in [
            "copy (select 1) to program 'true'",
            "select pg_read_file('/etc/passwd')",
            "create role another login",
            "select pg_reload_conf()",
        ] {
            let refused = sqlx::query(forbidden).execute(&mut connection).await.expect_err(forbidden);
            let code = refused.as_database_error().and_then(|error| error.code().map(String::from));
            assert_eq!(code.as_deref(), Some("42501"), "{forbidden}: {refused}");
        }
    }
    let passwords: std::collections::HashSet<String> = PARTICIPANTS
        .iter()
        .flat_map(|participant| world.stack.layout.password_files(participant))
        .map(|file| fs::read_to_string(file).expect("there"))
        .collect();
    assert_eq!(passwords.len(), 2 * PARTICIPANTS.len(), "no two are the same");
}

/// What shows the certificate of a service, which any intruder in that service has, is no database: the client says nothing to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_services_certificate_makes_no_database() {
    let world = world().await;
    let folder = world.stack.layout.pki_dir().join("payment");
    let chain =
        CertificateDer::pem_file_iter(folder.join("tls.crt")).expect("there").collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_file(folder.join("tls.key")).expect("there");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("there")
        .with_no_client_auth()
        .with_single_cert(chain.expect("PEM"), key)
        .expect("they fit");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let intruder = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("somebody comes");
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await.expect("asked for TLS");
        stream.write_all(b"S").await.expect("written");
        let heard = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        assert!(heard.is_err(), "the client shook hands");
    });
    let order = participant("order");
    let options = showing(login(&world, order), &world.stack.layout.pki_dir().join("order")).port(port);
    let refused = gets_in(&options).await.expect_err("it is no database").to_string();
    assert!(refused.contains("not valid for name"), "{refused}");
    intruder.await.expect("no panic");
}

/// All certificates are renewed, and then the authority is replaced too, while orders come in: none fails, none is lost, no
/// connection to a database is refused, and afterwards connections show the new certificates.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_refuses_no_connection() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world().await;
    let user = world.user("rotation", "100000.00").await;
    let before = world.metric_of_all("holdfast_database_untrusted_total").await;
    let log = |participant: &Participant| {
        fs::read_to_string(world.stack.layout.log_file(participant.server)).expect("a log")
    };
    let logged: Vec<usize> = PARTICIPANTS.iter().map(|participant| log(participant).len()).collect();
    world.rotate_under_load(&user, &["orders-db", "order"]).await;
    assert!(
        (world.metric_of_all("holdfast_database_untrusted_total").await - before).abs() < 0.5,
        "a connection was refused"
    );
    for (participant, logged) in PARTICIPANTS.iter().zip(logged) {
        let log = log(participant);
        // A handshake that a slow machine cuts off is no complaint about certificates.
        for complaint in ["was not reloaded", "contains errors", "certificate verify failed", "alert"] {
            assert!(!log[logged..].contains(complaint), "{}: {complaint}", participant.server);
        }
    }
    let folder = world.stack.layout.pki_dir();
    let pki = holdfast_certs::Pki::open(&folder).expect("there");
    let wanted = pki.leaf_status("order").expect("there").serial;
    // Connections that are used show the new one; that of the relay's lock lives as long as the lock.
    eventually("the new certificate is shown", || async {
        world.create(&user, "1 Quay Street", 1).await;
        let mut connection = world.connect("order").await;
        let rows = sqlx::query(
            "select client_serial::text as serial from pg_stat_ssl join pg_stat_activity using (pid)
            where usename = 'order'",
        );
        let rows = rows.fetch_all(&mut connection).await.expect("read");
        rows.iter().any(|row| holdfast_certs::decimal_serial(&wanted) == Some(row.get("serial")))
    })
    .await;
}

/// A certificate expires, on either side: new connections are refused and the service says why; a renewed one is used by itself, and
/// what waited is done.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_refused_until_it_is_renewed() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world().await;
    let user = world.user("expiry", "1000.00").await;
    let pki = world.stack.layout.pki_dir();
    for (identity, flaw_of) in [("payment", "received fatal alert"), ("payments-db", "certificate expired")] {
        let before = world.metric("payment", "holdfast_database_untrusted_total", &[]).await;
        let flawed = Flawed::install(&pki, identity, Flaw::Expires).expect("installed");
        // Only connections that begin show anything: those that are open end with the server.
        eventually("the flawed certificate is in use", || async {
            world.certificate_is_used(identity).await
        })
        .await;
        eventually("it has expired", || async { world.has_expired(identity) }).await;
        let order = world.create(&user, "1 Quay Street", 1).await;
        world.restart("payments-db").await;
        eventually("payment says that it has no database, and why", || async {
            let (status, body) = world.readyz("payment").await;
            let detail = body["components"]["database"]["detail"].as_str().unwrap_or_default().to_owned();
            status == 503 && detail.contains(flaw_of)
        })
        .await;
        eventually("the metric says so", || async {
            world.metric("payment", "holdfast_database_untrusted_total", &[]).await > before
        })
        .await;
        flawed.heal().expect("issued");
        eventually("payment is well", || async { world.is_well("payment").await }).await;
        eventually("the order is paid", || async {
            user.get(&format!("/api/orders/{}", id(&order))).await.is_ok_and(|answer| {
                !["PENDING", ""].contains(&answer.json()["status"].as_str().unwrap_or_default())
            })
        })
        .await;
    }
    world.invariants_hold().await;
}

/// Who has stolen a service's certificate and password is thrown out within seconds of its revocation, and does not get in again; the
/// service goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_thrown_out() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world().await;
    let user = world.user("revoked", "1000.00").await;
    let stolen = tempfile::tempdir().expect("a folder");
    for file in ["tls.crt", "tls.key"] {
        let source = world.stack.layout.pki_dir().join("order").join(file);
        fs::copy(source, stolen.path().join(file)).expect("stolen");
    }
    let order = participant("order");
    let thief = showing(login(&world, order), stolen.path());
    let mut connection = PgConnection::connect_with(&thief).await.expect("it works for the thief");
    world.certs(&["revoke", "order", "--reason", "stolen", "--yes"]).await;
    let asked = std::time::Instant::now();
    loop {
        if sqlx::query("select 1").execute(&mut connection).await.is_err() {
            break;
        }
        assert!(asked.elapsed() < Duration::from_secs(60), "the thief is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_refused("the thief", &showing(login(&world, order), stolen.path())).await;
    let created = world.create(&user, "1 Quay Street", 1).await;
    eventually("the order is paid", || async {
        let answer = user.get(&format!("/api/orders/{}", id(&created))).await;
        answer.is_ok_and(|answer| answer.json()["status"] != "PENDING")
    })
    .await;
}

/// A statement that waits for a lock ends with the deadline of its call, over TLS too: what it has locked itself is free again, however long
/// it would have to wait. To close its connection in good order would take 5 s, because the server says nothing before it has the lock.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_holds_no_lock() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world().await;
    let user = world.user("cut-off", "10.00").await;
    world.create(&user, "1 Quay Street", 1).await;
    let url = world.stack.layout.database_url(participant("order")).expect("it was made");
    let mut observer = PgConnection::connect(&url).await.expect("connected");
    let mut holder = PgConnection::connect(&url).await.expect("connected");
    let mut held = holder.begin().await.expect("begun");
    let lock = "select from user_positions where user_id = $1 for update";
    sqlx::query(lock).bind(user.user.as_str()).execute(&mut *held).await.expect("locked");

    let created = tokio::spawn({
        let user = user.clone();
        async move { user.create_order(&sample_order("2 Quay Street", 1), Some("cut-off")).await }
    });
    let waiting = "select pid, backend_start::text from pg_stat_activity
        where query like '%order.insert_order%' and pid <> pg_backend_pid() and wait_event_type = 'Lock'";
    let backend = Mutex::new(None);
    let asked = Mutex::new(&mut observer);
    eventually("it waits", || async {
        let row = sqlx::query(waiting).fetch_optional(&mut **asked.lock().await).await.expect("asked");
        let found = row.map(|row| (row.get::<i32, _>(0), row.get::<String, _>(1)));
        *backend.lock().await = found.clone();
        found.is_some()
    })
    .await;
    let (pid, start) = backend.into_inner().expect("it was found");
    let begin = std::time::Instant::now();
    let there = "select count(*) from pg_stat_activity where pid = $1 and backend_start::text = $2";
    loop {
        let row = sqlx::query(there).bind(pid).bind(&start).fetch_one(&mut **asked.lock().await).await;
        if row.expect("asked").get::<i64, _>(0) == 0 {
            break;
        }
        // An attempt has a second.
        assert!(begin.elapsed() < Duration::from_millis(4500), "the statement still waits for the lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    held.rollback().await.expect("released");
    let answer = created.await.expect("no panic").expect("answered");
    assert!([201, 503, 504, 409].contains(&answer.status.as_u16()), "{}", answer.json());
    eventually("the order is there once it can be", || async {
        let answer = user.create_order(&sample_order("2 Quay Street", 1), Some("cut-off")).await;
        answer.is_ok_and(|answer| answer.status == 201)
    })
    .await;
}
