//! `/api/accounts`.

mod credit;
mod read;

pub(crate) use self::{credit::credit, read::read};
