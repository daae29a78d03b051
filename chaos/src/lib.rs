//! Load on a stack from outside, and what it measures; and chaos runs: what is done to a stack under load, what was seen, and
//! what it proves.
//!
//! - [`rest`]: a client of the REST interface as a user would write one;
//! - [`events`]: a client of its streams;
//! - [`admin`]: what a service says on its admin port;
//! - [`load`]: open-loop load: requests start when they are due, whether or not earlier ones have been answered;
//! - [`fault`]: what is done to a stack on purpose;
//! - [`invariant`]: what must hold of it, whatever happened;
//! - [`process`]: what the processes of a stack cost;
//! - [`bench`]: the figures of `make bench`; `spans` receives the traces that arrive meanwhile.
//!
//! A chaos run:
//!
//! - [`scenario`]: what is to be done, and the plan that a seed makes of it;
//! - [`stack`]: the stack that it is done to;
//! - [`workload`], [`journal`]: what the clients do and see;
//! - [`storm`]: carries the faults out;
//! - [`watch`]: looks at the stack meanwhile;
//! - [`topics`]: what the broker has;
//! - [`evidence`]: everything that was seen, in a folder;
//! - [`judge`]: what it proves: pure functions of the evidence;
//! - [`report`]: the verdicts for people and programs;
//! - [`run`]: all of it, from the first account to the report.

#![warn(clippy::print_stderr)]

pub mod admin;
pub mod bench;
mod disk;
pub mod events;
pub mod evidence;
pub mod fault;
pub mod invariant;
pub mod journal;
pub mod judge;
pub mod load;
pub mod process;
pub mod report;
pub mod rest;
pub mod run;
pub mod scenario;
mod spans;
pub mod stack;
pub mod storm;
pub mod topics;
pub mod watch;
pub mod workload;
