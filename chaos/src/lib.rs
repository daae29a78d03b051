//! Load on a stack from outside, and what it measures. Faults and the checker of the chaos runs stand on the same load.
//!
//! - [`rest`]: a client of the REST interface as a user would write one;
//! - [`load`]: open-loop load: requests start when they are due, whether or not earlier ones have been answered;
//! - [`process`]: what the processes of a stack cost;
//! - [`bench`]: the figures of `make bench`.

pub mod bench;
pub mod load;
pub mod process;
pub mod rest;
