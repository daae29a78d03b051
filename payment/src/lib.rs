//! The payment service: accounts with a ledger, one payment per order, refunds for failed deliveries.
//!
//! [`domain`] decides, without I/O; [`store`] holds all SQL; [`grpc`] and [`consumer`] translate between the wire and
//! the domain; [`opening`] gives the accounts of a development stack their first money.

mod config;
pub mod consumer;
mod credit;
pub mod domain;
mod event;
mod facts;
mod grpc;
mod opening;
mod store;

use std::{process::ExitCode, sync::LazyLock};

use holdfast_common::{
    database::Database,
    error::BoxError,
    grpc::MESSAGE_BYTES_MAX,
    participant::{Participant, finished},
    service::{Context, run_service},
};
use holdfast_proto::{OPERATORS, payment::v1::payment_service_server::PaymentServiceServer, topic};
use sqlx::migrate::Migrator;
use tonic::service::Routes;

pub use crate::config::Config;

static MIGRATIONS: LazyLock<Migrator> =
    holdfast_common::migrations!["1001_payments.sql", "1002_payment_address.sql", "1003_key_age.sql"];

/// Runs the service to its end. Not in `main`, because what is asynchronous is compiled where it is run, and so would be compiled
/// a second time.
pub fn run() -> ExitCode {
    run_service("payment", start)
}

async fn start(context: &mut Context, config: Config) -> Result<(), BoxError> {
    let database = Database::new(&config.database)?;
    let server = PaymentServiceServer::new(grpc::PaymentHandler::new(database.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let balances = opening::parse(&config.payment.opening_balances)?;
    let opening = opening::open(database.clone(), balances, context.health.component("accounts"));
    Participant {
        grpc: &config.grpc,
        identity: &config.identity,
        database: &config.database,
        kafka: &config.kafka,
        migrations: &MIGRATIONS,
        topics: &topic::read_by(context.name),
        permissions: &[
            ("holdfast.payment.v1.PaymentService", &["gateway"]),
            ("holdfast.ops.v1.DeadLetterService", OPERATORS),
            ("holdfast.ops.v1.OutboxService", OPERATORS),
            ("holdfast.ops.v1.ReconcileService", OPERATORS),
        ],
        expiring: &[store::KEYS],
    }
    .start(context, &database, consumer::PaymentEvents, facts::PaymentFacts, Routes::new(server))
    .await?;
    let stop = context.stop.clone();
    context.spawn(
        "opening",
        finished(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = async { opening.await; stop.cancelled().await } => {}
            }
        }),
    );
    Ok(())
}
