//! The order service: accepts orders, publishes them, and tracks what becomes of them.
//!
//! [`domain`] decides, without I/O; [`store`] holds all SQL; [`grpc`] and [`consumer`] translate between the wire and
//! the domain; [`changes`] announces what was committed; [`watchdog`] reports orders that stay unfinished.

mod changes;
mod config;
pub mod consumer;
mod create;
pub mod domain;
pub mod event;
mod facts;
mod grpc;
mod page;
mod store;
mod watchdog;

use std::{process::ExitCode, sync::LazyLock};

use holdfast_common::{
    database::Database,
    error::BoxError,
    grpc::MESSAGE_BYTES_MAX,
    participant::{Participant, finished},
    service::{Context, run_service},
};
use holdfast_proto::{OPERATORS, order::v1::order_service_server::OrderServiceServer, topic};
use sqlx::migrate::Migrator;
use tonic::service::Routes;

pub use crate::{changes::Changes, config::Config};

static MIGRATIONS: LazyLock<Migrator> = holdfast_common::migrations![
    "1001_orders.sql",
    "1002_change_positions.sql",
    "1003_key_age.sql",
    "1004_blocks.sql",
    "1005_blocks_of_stored_orders.sql",
    "1006_indexes_by_block.sql"
];

/// Runs the service to its end. Not in `main`, because what is asynchronous is compiled where it is run, and so would be compiled
/// a second time.
pub fn run() -> ExitCode {
    run_service("order", start)
}

async fn start(context: &mut Context, config: Config) -> Result<(), BoxError> {
    let database = Database::new(&config.database)?;
    let changes = Changes::default();
    let handler = grpc::OrderHandler::new(database.clone(), changes.clone(), context.stop.clone());
    let server = OrderServiceServer::new(handler).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let task = context.health.periodic("watchdog", watchdog::SUCCESS_EVERY_MAX);
    let watchdog = watchdog::watch(database.clone(), config.order.stuck_after, task, context.stop.clone());
    Participant {
        grpc: &config.grpc,
        identity: &config.identity,
        database: &config.database,
        kafka: &config.kafka,
        migrations: &MIGRATIONS,
        topics: &topic::read_by(context.name),
        permissions: &[
            ("holdfast.order.v1.OrderService", &["gateway"]),
            ("holdfast.ops.v1.DeadLetterService", OPERATORS),
            ("holdfast.ops.v1.OutboxService", OPERATORS),
            ("holdfast.ops.v1.ReconcileService", OPERATORS),
        ],
        expiring: &[store::KEYS],
    }
    .start(context, &database, consumer::OrderEvents::new(changes), facts::OrderFacts, Routes::new(server))
    .await?;
    context.spawn("watchdog", finished(watchdog));
    Ok(())
}
