//! What the role of a service may do in the native stack, here without TLS: its own rows and tables, and nothing with the server, with
//! other databases, or with what operators did.

mod support;

use std::sync::OnceLock;

use holdfast_common::{
    config::{DatabaseConfig, DatabaseTlsConfig},
    database::Database,
};
use holdfast_native::layout::{PARTICIPANTS, Participant, Scope};
use holdfast_testkit::stack::TestStack;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use support::{business, eventually};
use tokio::sync::Mutex;

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

/// The SQLSTATE with which a statement is refused.
async fn refusal(connection: &mut PgConnection, statement: &'static str) -> Option<String> {
    let refused = sqlx::query(statement).execute(connection).await.err()?;
    refused.as_database_error()?.code().map(String::from)
}

/// The migrations run as the service's role, and then it can do its work: but it is no superuser, finds no other database, and can't
/// change the audit.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_its_rows_and_nothing_else() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for participant in PARTICIPANTS {
        let own = url(participant, participant.database);
        let config = DatabaseConfig {
            url: own.clone().into(),
            password: None,
            password_file: None,
            direct_url: None,
            tls: DatabaseTlsConfig::default(),
            connections_max: 2,
        };
        Database::new(&config).expect("a URL").migrate(&business()).await.expect("it may");
        let mut connection = PgConnection::connect(&own).await.expect("it gets in");
        for allowed in [
            "insert into outbox_audit (actor, action, outbox_id, topic, reason) values ('a', 'drop', 1, 't', 'r')",
            "insert into dead_letter_audit (id, group_name, actor, action, detail)
                values (gen_random_uuid(), 'g', 'a', 'resume', 'd')",
            "select from dead_letter_audit, outbox_audit",
            "delete from outbox",
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
            "copy (select 1) to program 'true'",
            "select pg_read_file('/etc/passwd')",
            "create role another login",
            "create database another",
            "select pg_reload_conf()",
        ] {
            assert_eq!(refusal(&mut connection, forbidden).await.as_deref(), Some("42501"), "{forbidden}");
        }
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

/// A stack from before the roles, whose services were superusers: the running supervisor gives the role what they have made.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_superuser_made_is_given_to_the_service() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut administrator =
        PgConnection::connect(&stack().database_url("delivery")).await.expect("the superuser");
    for statement in [
        "create table made_before (n bigint generated always as identity)",
        "alter database deliveries owner to holdfast",
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut administrator).await.expect(statement);
    }
    let delivery = PARTICIPANTS.iter().find(|participant| participant.name == "delivery").expect("a service");
    let own = url(delivery, delivery.database);
    eventually("the table is the service's", || async {
        let mut connection = PgConnection::connect(&own).await.expect("it gets in");
        sqlx::query("alter table made_before add column m text").execute(&mut connection).await.is_ok()
    })
    .await;
}
