//! The delivery service: one delivery per paid order, which moves on at due times kept in its table.
//!
//! [`domain`] decides, without I/O; [`store`] holds all SQL; [`grpc`] and [`consumer`] translate between the wire and
//! the domain; [`progress`] moves deliveries on.

mod config;
pub mod consumer;
pub mod domain;
pub mod event;
mod facts;
mod grpc;
mod progress;
mod store;

use std::{process::ExitCode, sync::LazyLock};

use holdfast_common::{
    database::Database,
    error::BoxError,
    grpc::MESSAGE_BYTES_MAX,
    participant::{Participant, finished},
    service::{Context, run_service},
};
use holdfast_proto::{OPERATORS, delivery::v1::delivery_service_server::DeliveryServiceServer, topic};
use sqlx::migrate::Migrator;
use tonic::service::Routes;

pub use crate::config::Config;

static MIGRATIONS: LazyLock<Migrator> = holdfast_common::migrations![
    "1001_deliveries.sql",
    "1002_delivery_trace.sql",
    "1003_due_from.sql",
    "1004_due_from_of_stored_deliveries.sql",
    "1005_index_by_due_from.sql"
];

/// Runs the service to its end. Not in `main`, because what is asynchronous is compiled where it is run, and so would be compiled
/// a second time.
pub fn run() -> ExitCode {
    run_service("delivery", start)
}

async fn start(context: &mut Context, config: Config) -> Result<(), BoxError> {
    let plan = config.delivery.plan()?;
    let database = Database::new(&config.database)?;
    let server = DeliveryServiceServer::new(grpc::DeliveryHandler::new(database.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let task = context.health.periodic("progress", progress::SUCCESS_EVERY_MAX);
    let progress = progress::run(database.clone(), plan.step, task, context.stop.clone());
    Participant {
        grpc: &config.grpc,
        identity: &config.identity,
        database: &config.database,
        kafka: &config.kafka,
        migrations: &MIGRATIONS,
        topics: &topic::read_by(context.name),
        permissions: &[
            ("holdfast.delivery.v1.DeliveryService", &["gateway"]),
            ("holdfast.ops.v1.DeadLetterService", OPERATORS),
            ("holdfast.ops.v1.OutboxService", OPERATORS),
            ("holdfast.ops.v1.ReconcileService", OPERATORS),
        ],
        expiring: &[],
    }
    .start(context, &database, consumer::DeliveryEvents::new(plan), facts::DeliveryFacts, Routes::new(server))
    .await?;
    context.spawn("progress", finished(progress));
    Ok(())
}
