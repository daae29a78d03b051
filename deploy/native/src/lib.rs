//! The native stack: real Apache Kafka, three real PostgreSQL servers and the services as child processes on loopback,
//! without a container engine. `make up`, the tests and the chaos runs all use this one supervisor.
//!
//! - [`layout`]: ports, folders, names; what is where;
//! - [`link`]: ports between components, for faults of the network;
//! - [`environment`], [`files`]: with which variables, rights and modes; the caller's own reach no component;
//! - [`ports`]: which ports of this machine are taken, and by whom;
//! - [`port_offset`]: ports for tests and chaos runs that start stacks beside one another;
//! - [`prepare`]: everything that must be true before anything is started; each failure says what to do about it;
//! - [`artifacts`], [`postgres`], [`kafka`], [`redis`], [`services`]: how each component is fetched, set up and started;
//! - [`roles`]: what a service has in the server of its database, also for other servers;
//! - [`topics`]: the topics and their settings, also for other brokers;
//! - [`programs`]: where the program of a service comes from;
//! - [`probe`]: probes a component;
//! - [`component`]: what a component is; starts, probes and stops one;
//! - [`mod@scale`]: another number of replicas while it runs;
//! - [`remembered`]: with what a stack was started last;
//! - [`talk`]: messages to whoever has typed the command;
//! - [`mod@log`]: the logs of components, which are kept short;
//! - [`state`]: what the next two share on disk: the report, the lock, the deletion;
//! - [`supervisor`]: starts, watches, restarts, stops;
//! - [`control`]: the commands' side: whether a stack is running, how it is, stopping it;
//! - [`certificates`]: what database servers and the broker show, and how they get it;
//! - [`removal`]: which files in a folder are a stack's, and may be deleted;

#![warn(clippy::print_stderr)]

mod artifacts;
pub mod certificates;
mod component;
pub mod control;
pub mod environment;
mod files;
pub mod kafka;
pub mod layout;
pub mod link;
pub mod log;
pub mod port_offset;
pub mod ports;
mod postgres;
pub mod prepare;
mod probe;
pub mod programs;
mod redis;
pub mod remembered;
mod removal;
pub mod roles;
pub mod scale;
mod services;
pub mod state;
pub mod supervisor;
pub mod talk;
pub mod topics;
