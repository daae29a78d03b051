//! A simulation: the three services run over a broker and databases in memory, one [`operation::Operation`] after the
//! other, with a fault at any step. A run is a list of operations and nothing else, so it can be repeated, made shorter
//! ([`shrink`]) and kept as a test. Thousands of runs take seconds, and reach interleavings that a run of processes
//! meets once in a day.
//!
//! **Real code**: the services' transitions, decoders, decisions and events (`order`, `payment`, `delivery`: `domain`,
//! `consumer::decide`, `event`); of the consumer all that decides ([`holdfast_common::consumer::pure`]: checks of form,
//! comparison with the inbox, sorting, the search for a culprit, verdicts); the order of a redrive
//! ([`holdfast_common::dead_letter::redrive::Line`]) and what a letter is.
//!
//! **Modelled**: the broker ([`broker`]), the tables of the library ([`database`]), those of the services ([`service`]),
//! the relay ([`relay`]), a group's members and the consumer's transaction ([`participant`]), clients and operators
//! ([`world`]). Transactions run one after the other: locks, and what they protect from, are not simulated, nor is SQL.
//! That is what the tests against PostgreSQL and Kafka, and chaos runs, are for.
//!
//! [`bug::Bug`] breaks the modelled part in ways that such code is broken in; the tests show that each is found.

pub mod broker;
pub mod bug;
pub mod database;
mod forge;
pub mod invariant;
pub mod operation;
pub mod participant;
pub mod relay;
pub mod service;
pub mod shrink;
pub mod world;
