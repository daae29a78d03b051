//! The resilience library: everything that the four services have in common, without any business logic.
//!
//! One module per concern. A service reads its configuration ([`config`]) and calls [`service::run_service`]; in
//! between it takes what it needs from here:
//!
//! - calls: [`identity`] (who is at the other end), [`grpc`] (the server column), [`client`] (the client column), [`subject`]
//!   (for whom the gateway calls);
//! - state: [`database`] (transactions that a caller can't break), [`outbox`] (write an event together with the change
//!   that it reports), [`consumer`] (handle an event once: inbox, batches, dead letters), [`janitor`] (rows that have their time);
//! - events: [`event`] (what is in one), [`record`] (what Kafka has of it), [`kafka`] (settings), [`dead_letter`] (what could not
//!   be handled, and its redrive), [`reconcile`] (what was lost on the way);
//! - [`participant`] puts these together for a service with a database and events;
//! - the edge: [`mod@http`] (connections of clients that may be slow, silent or hostile);
//! - operation: [`health`], [`admin`], [`metric`] (the one list of metrics), [`handles`], [`telemetry`], [`trace`], [`service`];
//! - the ground floor: [`error`], [`clock`], [`deadline`], [`duration`], [`backoff`], [`stop`], [`reload`], [`idempotency`].

pub mod admin;
pub mod backoff;
pub mod client;
pub mod clock;
pub mod config;
pub mod consumer;
pub mod database;
pub mod dead_letter;
pub mod deadline;
pub mod duration;
pub mod error;
pub mod event;
pub mod grpc;
pub mod handles;
pub mod health;
pub mod http;
pub mod idempotency;
pub mod identity;
pub mod janitor;
pub mod kafka;
pub mod metric;
pub mod outbox;
mod panic;
pub mod participant;
pub mod planted;
pub mod reconcile;
pub mod record;
pub mod reload;
pub mod service;
pub mod stop;
pub mod subject;
pub mod telemetry;
pub mod trace;
