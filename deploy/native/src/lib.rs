//! The native stack: real Apache Kafka, three real PostgreSQL servers and the services as child processes on loopback,
//! without a container engine. `make up`, the tests and the chaos runs all use this one supervisor.
//!
//! - [`layout`]: ports, folders, names; what is where;
//! - [`prepare`]: everything that must be true before something is started, each failure with what to do about it;
//! - [`artifacts`], [`postgres`], [`kafka`], [`services`]: how each component is fetched, set up and started;
//! - [`probe`]: how a component is, asked of itself;
//! - [`component`]: what a component is: started, asked, ended;
//! - [`state`]: what the two below share on disk: the report, the lock, the deletion;
//! - [`supervisor`]: starts, watches, restarts, stops;
//! - [`control`]: the other side: is a stack running, how is it, stop it;
//! - [`removal`]: what of a folder is a stack's, and may go;
//! - [`testkit`]: a stack of its own for a test process.

mod artifacts;
mod component;
pub mod control;
mod kafka;
pub mod layout;
mod postgres;
pub mod prepare;
mod probe;
mod removal;
mod services;
pub mod state;
pub mod supervisor;
mod talk;
pub mod testkit;
