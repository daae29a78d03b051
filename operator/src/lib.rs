//! What the operator's tools share, whether they are commands or pages: `holdfast` and the console.
//!
//! - [`admin`]: pages of admin ports;
//! - [`service`]: a service, called as the identity `operator`, and what its refusals mean;
//! - [`position`], [`redrive`]: how far a reader and a redrive are;
//! - [`examine`], [`verdict`]: events that a reader has not handled, and whether they are lost; [`reemit`]: what is done about it;
//! - [`document`], [`schema`]: a dead letter and its event as JSON, and back;
//! - [`moment`], [`text`]: times and figures as people write and read them;
//! - [`ticket`]: how somebody who may read the stack's folder is let into the console.

pub mod admin;
pub mod document;
pub mod examine;
pub mod moment;
pub mod position;
pub mod redrive;
pub mod reemit;
pub mod schema;
pub mod service;
pub mod text;
pub mod ticket;
pub mod verdict;
