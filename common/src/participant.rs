//! A participant of the saga: a service with a database of its own that answers gRPC, reads events and writes events.
//! Order, payment and delivery are assembled here in the same way, so that start, readiness and drain are the same.

use holdfast_proto::ops::v1::{
    dead_letter_service_server::DeadLetterServiceServer, outbox_service_server::OutboxServiceServer,
    reconcile_service_server::ReconcileServiceServer,
};
use sqlx::migrate::Migrator;
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::{
    config::{DatabaseConfig, GrpcConfig, IdentityConfig, KafkaConfig},
    consumer::{Handler, any::AnyHandler, batch::Processor, group::Group, runtime::Runtime},
    database::Database,
    dead_letter::{depth, progress, service::DeadLetters},
    error::BoxError,
    grpc::{self, Permissions},
    identity::Identity,
    janitor::{self, Expiring},
    kafka::Brokers,
    metric,
    outbox::{
        probe,
        publisher::Publisher,
        relay::{PROGRESS_TIME_MAX, Relay},
        service::Outbox,
    },
    reconcile::{Facts, service::Reconcile},
    reload::{self, reload_on_change},
    service::{Context, bind},
};

/// Calls that are handled at a time per database connection: one uses it while another reads its message or writes its
/// answer. More would only wait for a connection.
const CALLS_PER_CONNECTION: usize = 2;

/// The parts of a participant.
#[derive(Debug)]
pub struct Participant<'a> {
    /// Where it listens.
    pub grpc: &'a GrpcConfig,
    /// Who it is.
    pub identity: &'a IdentityConfig,
    /// Its state.
    pub database: &'a DatabaseConfig,
    /// Its events.
    pub kafka: &'a KafkaConfig,
    /// Its own tables.
    pub migrations: &'static Migrator,
    /// The topics it reads; its consumer group is named after the service.
    pub topics: &'a [&'static str],
    /// Who may call it.
    pub permissions: Permissions,
    /// Which of its rows have their time.
    pub expiring: &'a [Expiring],
}

impl Participant<'_> {
    /// Binds the port and starts the parts; none of them needs the database or the broker yet.
    pub async fn start(
        self,
        context: &mut Context,
        database: &Database,
        handler: impl Handler,
        facts: impl Facts,
        routes: Routes,
    ) -> Result<(), BoxError> {
        let listener = bind(self.grpc.listen).await?;
        let group = Group::new(database.clone(), context.name, AnyHandler::new(handler));
        let reconcile = Reconcile::new(database.clone(), context.name, facts);
        self.spawn(context, listener, group, reconcile, routes)
    }

    // What follows is not asynchronous itself and has no type parameters, so that what it starts is compiled here once, and not again with
    // each service.

    fn spawn(
        &self,
        context: &mut Context,
        listener: TcpListener,
        group: Group<AnyHandler>,
        reconcile: Reconcile,
        routes: Routes,
    ) -> Result<(), BoxError> {
        let identity = Identity::load(self.identity.clone())?;
        let brokers = Brokers::new(self.kafka, &identity)?;
        let database = &group.database.clone();

        let processor = Processor::new(group.clone());
        let consumer = Runtime::new(&brokers, self.topics, processor, &context.health);
        let dead_letters = DeadLetterServiceServer::new(DeadLetters::new(group, consumer.view()))
            .max_decoding_message_size(grpc::OPERATOR_MESSAGE_BYTES_MAX);
        let reconcile = ReconcileServiceServer::new(reconcile)
            .max_decoding_message_size(grpc::OPERATOR_MESSAGE_BYTES_MAX);
        let routes = routes.add_service(dead_letters).add_service(reconcile);
        let (migrated, stopped) = (database.clone(), context.stop.clone());
        let consume = async move {
            tokio::select! {
                () = stopped.cancelled() => return Ok(()),
                () = migrated.migrated() => {}
            }
            consumer.run(stopped).await
        };

        self.spawn_database(context, database, &identity);
        spawn_kafka(context, database, &brokers)?;
        context.spawn("consumer", consume);
        self.spawn_periodic(context, database);
        self.spawn_grpc(context, database, identity, listener, routes)
    }

    fn spawn_database(&self, context: &mut Context, database: &Database, identity: &Identity) {
        let (health, stop) = (context.health.clone(), context.stop.clone());
        let (tls, swaps) = (&self.database.tls, identity.swaps());
        // Before anything connects.
        database.identify(tls, identity);
        let task = database.clone().identify_on_swap(tls.clone(), identity.clone(), swaps, stop.clone());
        context.spawn("database identity", finished(task));
        if database.has_password_file() {
            let task = health.periodic("database-password-reload", reload::SUCCESS_EVERY_MAX);
            let (following, failures) = (database.clone(), metric::DATABASE_PASSWORD_RELOAD_FAILURES_TOTAL);
            let follow = move || following.follow_password();
            let task = reload_on_change("database password", failures, follow, task, stop.clone());
            context.spawn("database password", finished(task));
        }
        let task = database.clone().migrate_and_probe(self.migrations, health.required("database"), stop);
        context.spawn("database", finished(task));
    }

    fn spawn_periodic(&self, context: &mut Context, database: &Database) {
        let (health, stop) = (context.health.clone(), context.stop.clone());
        let task = health.periodic("janitor", janitor::SUCCESS_EVERY_MAX);
        let expiring = [&[janitor::INBOX, progress::REDRIVES], self.expiring].concat();
        context.spawn("janitor", finished(janitor::run(database.clone(), expiring, task, stop.clone())));
        let task = health.periodic("dead-letter-depth", depth::SUCCESS_EVERY_MAX);
        let depth = depth::publish_depth(database.clone(), context.name, task, stop);
        context.spawn("dead letters", finished(depth));
    }

    fn spawn_grpc(
        &self,
        context: &mut Context,
        database: &Database,
        identity: Identity,
        listener: TcpListener,
        routes: Routes,
    ) -> Result<(), BoxError> {
        let (health, stop) = (context.health.clone(), context.stop.clone());
        let outbox = OutboxServiceServer::new(Outbox::new(database.clone(), context.name))
            .max_decoding_message_size(grpc::OPERATOR_MESSAGE_BYTES_MAX);
        let routes = routes.add_service(outbox);
        let task = health.periodic("certificate-reload", reload::SUCCESS_EVERY_MAX);
        context.spawn("identity", finished(identity.clone().reload_on_change(task, stop.clone())));
        let places = CALLS_PER_CONNECTION * usize::try_from(self.database.connections_max)?;
        context
            .spawn("grpc", grpc::serve(listener, identity, self.permissions, routes, places, health, stop));
        Ok(())
    }
}

/// Has clients of Kafka that are made later show what the files of the certificate have then.
pub fn follow_certificate(context: &mut Context, brokers: &Brokers) {
    if brokers.has_tls() {
        let task = context.health.periodic("kafka-certificate-reload", reload::SUCCESS_EVERY_MAX);
        let (following, failures) = (brokers.clone(), metric::CERTIFICATE_RELOAD_FAILURES_TOTAL);
        let follow = move || following.reload();
        let task = reload_on_change("kafka certificate", failures, follow, task, context.stop.clone());
        context.spawn("kafka certificate", finished(task));
    }
}

fn spawn_kafka(context: &mut Context, database: &Database, brokers: &Brokers) -> Result<(), BoxError> {
    let (health, stop) = (context.health.clone(), context.stop.clone());
    follow_certificate(context, brokers);
    let publisher = Publisher::new(brokers)?;
    let task = probe::run(publisher.clone(), health.component("kafka"), stop.clone());
    context.spawn("kafka", finished(task));

    let relay = Relay::new(database.clone(), publisher, health.component("outbox"))
        .with_heartbeat(health.heartbeat("relay", PROGRESS_TIME_MAX));
    context.spawn("relay", finished(relay.run(stop)));
    Ok(())
}

/// For a task that ends only when asked to.
pub async fn finished(task: impl Future<Output = ()>) -> Result<(), BoxError> {
    task.await;
    Ok(())
}
