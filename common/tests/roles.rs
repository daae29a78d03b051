//! What the role of a service may do in the native stack, here without TLS: its own rows, and nothing with tables, with the server, with
//! other databases, or with what operators did.

mod support;

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use holdfast_common::{
    config::{DatabaseConfig, DatabaseTlsConfig},
    database::Database,
    health::Health,
};
use holdfast_native::layout::{PARTICIPANTS, Participant, Scope};
use holdfast_testkit::stack::TestStack;
use sqlx::{Connection as _, PgConnection, migrate::Migrator, postgres::PgConnectOptions};
use support::{business, eventually};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// One test takes what the other one works with.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn stack() -> &'static TestStack {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    STACK.get_or_init(|| TestStack::start(Scope::Infrastructure, &[], &[("HOLDFAST_DATABASE_TLS", "off")]))
}

fn password(participant: &Participant) -> String {
    let [_, role] = stack().layout.password_files(participant);
    std::fs::read_to_string(role).expect("written at the start").trim().to_owned()
}

/// The login of a service to a database of its own server.
fn url(participant: &Participant, database: &str) -> String {
    let port = stack().layout.database_port(participant);
    format!(
        "postgres://{}:{}@127.0.0.1:{port}/{database}?sslmode=disable",
        participant.name,
        password(participant)
    )
}

/// That of the owner of its tables, without the password, and the password.
fn owner_login(participant: &Participant) -> (String, String) {
    let layout = &stack().layout;
    let password =
        std::fs::read_to_string(layout.owner_password_file(participant)).expect("written at the start");
    let (role, port, database) =
        (participant.owner_role(), layout.database_port(participant), participant.database);
    (format!("postgres://{role}@127.0.0.1:{port}/{database}?sslmode=disable"), password.trim().to_owned())
}

fn owner_url(participant: &Participant) -> String {
    let (login, password) = owner_login(participant);
    login.replacen('@', &format!(":{password}@"), 1)
}

/// The SQLSTATE with which a statement is refused.
async fn refusal(connection: &mut PgConnection, statement: &'static str) -> Option<String> {
    let refused = sqlx::query(statement).execute(connection).await.err()?;
    refused.as_database_error()?.code().map(String::from)
}

/// The migrations run as the owner of the tables, and then the service can do its work: but it is no superuser, finds no other database,
/// and can change neither the audit nor a table, nor become the owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_its_rows_and_nothing_else() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for participant in PARTICIPANTS {
        let own = url(participant, participant.database);
        let config =
            DatabaseConfig { owner_url: Some(owner_url(participant).into()), ..config_of(participant) };
        // Two replicas, and again: who grants what is granted already changes nothing.
        let replicas = [Database::new(&config).expect("a URL"), Database::new(&config).expect("a URL")];
        let migrations = business();
        let (one, other) = tokio::join!(replicas[0].migrate(&migrations), replicas[1].migrate(&migrations));
        one.and(other).expect("they may");
        replicas[0].migrate(&migrations).await.expect("it may");
        let mut connection = PgConnection::connect(&own).await.expect("it gets in");
        for allowed in [
            "insert into outbox_audit (actor, action, outbox_id, topic, reason) values ('a', 'drop', 1, 't', 'r')",
            "insert into dead_letter_audit (id, group_name, actor, action, detail)
                values (gen_random_uuid(), 'g', 'a', 'resume', 'd')",
            "select from dead_letter_audit, outbox_audit",
            "delete from outbox",
            "insert into effects (subject, payload) values ('s', 'p')",
            // Answered with a warning, since it is the owner who may; below it is seen that nothing was granted.
            "grant all on dead_letter_audit, outbox_audit to current_user",
        ] {
            sqlx::query(allowed).execute(&mut connection).await.expect(allowed);
        }
        for forbidden in [
            "update dead_letter_audit set actor = 'somebody else'",
            "delete from dead_letter_audit",
            "truncate dead_letter_audit",
            "update outbox_audit set actor = 'somebody else'",
            "delete from outbox_audit",
            "truncate outbox_audit",
            "drop table outbox",
            "alter table outbox add column more text",
            "create table more (n bigint)",
            "copy (select 1) to program 'true'",
            "select pg_read_file('/etc/passwd')",
            "create role another login",
            "create database another",
            "select pg_reload_conf()",
        ] {
            assert_eq!(refusal(&mut connection, forbidden).await.as_deref(), Some("42501"), "{forbidden}");
        }
        let owner: &'static str = format!("set role \"{}\"", participant.owner_role()).leak();
        assert_eq!(refusal(&mut connection, owner).await.as_deref(), Some("42501"), "{owner}");
        PgConnection::connect(&url(participant, "postgres"))
            .await
            .expect_err("another database of its server");
        for other in PARTICIPANTS.iter().filter(|other| other.name != participant.name) {
            let port = stack().layout.database_port(other);
            let foreign: PgConnectOptions = own.parse().expect("a URL");
            let foreign = foreign.port(port).database(other.database);
            PgConnection::connect_with(&foreign).await.expect_err("another server");
        }
        let raised: PgConnectOptions = own.parse().expect("a URL");
        PgConnection::connect_with(&raised.username("holdfast")).await.expect_err("the superuser");
    }
}

/// How a service of the stack gets to its database.
fn config_of(participant: &Participant) -> DatabaseConfig {
    DatabaseConfig {
        url: url(participant, participant.database).into(),
        password: None,
        password_file: None,
        direct_url: None,
        owner_url: None,
        owner_password_file: None,
        migrate: true,
        tls: DatabaseTlsConfig::default(),
        connections_max: 2,
    }
}

/// Whether every table is `role`'s.
async fn all_belong_to(connection: &mut PgConnection, role: &str) -> bool {
    sqlx::query_scalar(
        "select count(*) > 0 and bool_and(pg_get_userbyid(relowner) = $1) from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'S')",
    )
    .bind(role)
    .fetch_one(connection)
    .await
    .expect("asked")
}

/// A process without the owner's login serves as soon as another one has migrated, and not before. That one takes over what the service owned
/// while it was the only role, if it may, without a moment at which the service has no rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_who_migrates() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let participant = PARTICIPANTS.iter().find(|participant| participant.name == "payment").expect("there");
    let (service, owner) = (participant.role(), participant.owner_role());
    let mut administrator =
        PgConnection::connect(&stack().database_url("payment")).await.expect("the superuser");
    let run = async |connection: &mut PgConnection, statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await.expect("done");
    };
    let emptied = "drop schema public cascade; create schema public authorization pg_database_owner; grant usage on schema public to public";
    run(&mut administrator, emptied.to_owned()).await;

    let migrations: &'static Migrator = Box::leak(Box::new(business()));
    let (health, stop) = (Health::default(), CancellationToken::new());
    let waiting = DatabaseConfig { migrate: false, ..config_of(participant) };
    let waiting = Database::new(&waiting).expect("a URL");
    let component = health.required("database");
    let task = tokio::spawn(waiting.clone().migrate_and_probe(migrations, component, stop.clone()));
    eventually("it waits", || async {
        health.components()["database"].detail.contains("waiting for migration 1:")
    })
    .await;

    // As it was when there was one role.
    run(&mut administrator, format!("grant create on schema public to {service}")).await;
    let alone = Database::new(&config_of(participant)).expect("a URL");
    alone.migrate(migrations).await.expect("it may");
    run(&mut administrator, format!("revoke create on schema public from {service}")).await;
    eventually("it serves", || async { health.is_ready() }).await;
    assert!(all_belong_to(&mut administrator, service).await);

    let file = tempfile::NamedTempFile::new().expect("a file");
    let (login, password) = owner_login(participant);
    std::fs::write(file.path(), format!("{password}\n")).expect("written");
    let migrating = DatabaseConfig {
        owner_url: Some(login.into()),
        owner_password_file: Some(file.path().to_owned()),
        ..config_of(participant)
    };
    let migrating = Database::new(&migrating).expect("a URL");
    let refused = migrating.migrate(migrations).await.expect_err("it is no member of the service's role");
    assert!(refused.to_string().contains("must be owner of table"), "{refused}");
    assert!(all_belong_to(&mut administrator, service).await);

    run(&mut administrator, format!("grant {service} to \"{owner}\"")).await;
    let is_over = AtomicBool::new(false);
    let works = async {
        let mut works = 0;
        let mut connection =
            PgConnection::connect(&url(participant, participant.database)).await.expect("let in");
        while !is_over.load(Ordering::Relaxed) || works == 0 {
            for statement in [
                "insert into effects (subject, payload) values ('s', 'p')",
                "insert into outbox_audit (actor, action, outbox_id, topic, reason) values ('a', 'drop', 1, 't', 'r')",
                "delete from effects where subject = 's'",
            ] {
                sqlx::query(statement).execute(&mut connection).await.expect(statement);
            }
            works += 1;
        }
    };
    let takes_over = async {
        migrating.migrate(migrations).await.expect("now it may");
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(works, takes_over);
    assert!(all_belong_to(&mut administrator, &owner).await);
    let mut connection =
        PgConnection::connect(&url(participant, participant.database)).await.expect("let in");
    for forbidden in
        ["update outbox_audit set actor = 'x'", "drop table effects", "delete from _sqlx_migrations"]
    {
        assert_eq!(refusal(&mut connection, forbidden).await.as_deref(), Some("42501"), "{forbidden}");
    }

    // What is new is waited for, and so are the rights on it.
    run(&mut administrator, "create table unknown (n bigint)".to_owned()).await;
    let next = DatabaseConfig { migrate: false, ..config_of(participant) };
    let next = Database::new(&next).expect("a URL");
    let component = health.required("next");
    let next = tokio::spawn(next.migrate_and_probe(migrations, component, stop.clone()));
    eventually("it waits for rights", || async {
        health.components()["next"].detail.contains("rights on unknown")
    })
    .await;
    run(&mut administrator, "drop table unknown".to_owned()).await;
    eventually("both serve", || async { health.is_ready() }).await;

    stop.cancel();
    for task in [task, next] {
        task.await.expect("it ends");
    }
    run(&mut administrator, format!("revoke {service} from \"{owner}\"")).await;
}

/// A stack from before the roles, whose services were superusers or owned their tables: the running supervisor gives all of it to the owner.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_made_is_given_to_the_owner() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut administrator =
        PgConnection::connect(&stack().database_url("delivery")).await.expect("the superuser");
    for statement in [
        "create table by_the_superuser (n bigint generated always as identity)",
        "create table by_the_service (n bigint)",
        "alter table by_the_service owner to delivery",
        "alter database deliveries owner to delivery",
    ] {
        sqlx::query(statement).execute(&mut administrator).await.expect(statement);
    }
    eventually("they are the owner's", || async {
        let mut connection = PgConnection::connect(&stack().database_url("delivery")).await.expect("there");
        let others: i64 = sqlx::query_scalar(
            "select count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'S')
            and pg_get_userbyid(relowner) <> 'delivery-owner'",
        )
        .fetch_one(&mut connection)
        .await
        .expect("counted");
        others == 0
    })
    .await;
}
