//! A password that changes while a program runs.

mod support;

use std::fs;

use holdfast_common::{config::DatabaseConfig, database::Database, identity::Reload};
use holdfast_native::layout::Tls;
use holdfast_testkit::stack::infrastructure;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, postgres::PgConnectOptions};
use support::Lab;

async fn run(lab: &Lab, statement: String) {
    sqlx::query(AssertSqlSafe(statement)).execute(lab.database.pool()).await.expect("done");
}

/// New connections use the password that is in the file now; those that are open go on, and a file that can't be used changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_file_is_followed() {
    let lab = Lab::new("password").await;
    // Of a service that does not run here, so nobody else needs its password.
    let role = r#""order""#;
    run(&lab, format!("alter role {role} password 'one'")).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let write = |password: &str| fs::write(file.path(), password).expect("written");
    write("one\n");
    let server: PgConnectOptions = lab.database_config.url.expose_secret().parse().expect("a URL");
    let layout = &infrastructure().layout;
    let tls = match layout.database_tls() {
        Tls::On => layout.tls_parameters("order"),
        Tls::Off => String::new(),
    };
    let url = format!("postgres://order@127.0.0.1:{}/orders?{tls}", server.get_port());
    let config = DatabaseConfig {
        url: url.into(),
        password_file: Some(file.path().to_owned()),
        ..lab.database_config.clone()
    };
    let database = Database::new(&config).expect("valid");
    let mut open = database.pool().acquire().await.expect("let in");
    assert_eq!(database.follow_password().expect("read"), Reload::Unchanged);

    run(&lab, format!("alter role {role} password 'two'")).await;
    database.pool().acquire().await.expect_err("the old password");
    write("");
    database.follow_password().expect_err("there is none");
    write("two\n");
    assert_eq!(database.follow_password().expect("read"), Reload::Swapped);
    drop(database.pool().acquire().await.expect("the new password"));
    open.ping().await.expect("still open");
    drop(open);
    database.pool().close().await;

    fs::remove_file(file.path()).expect("removed");
    Database::new(&config).expect_err("no file, no password");
    let both = DatabaseConfig { password: Some("one".into()), ..config };
    Database::new(&both).expect_err("two passwords");
}
