//! Load on a stack from outside, and what it measures. Faults and invariants, which tests and chaos runs
//! share.
//!
//! - [`rest`]: a client of the REST interface as a user would write one;
//! - [`load`]: open-loop load: requests start when they are due, whether or not earlier ones have been answered;
//! - [`fault`]: what is done to a stack on purpose;
//! - [`invariant`]: what must hold of it, whatever happened;
//! - [`process`]: what the processes of a stack cost;
//! - [`bench`]: the figures of `make bench`.

pub mod bench;
pub mod fault;
pub mod invariant;
pub mod load;
pub mod process;
pub mod rest;
