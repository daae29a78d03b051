//! The contract as types: the generated gRPC packages and events, and the vocabulary that all services share.
//!
//! Parse once, at the edge: [`OrderId`], [`UserId`], [`IdempotencyKey`] and [`Money`] can only hold what the
//! contract allows, so the code behind them never checks again. This crate must never do I/O.

mod id;
pub mod limits;
mod money;
mod timestamp;
pub mod topic;

pub use id::{IDEMPOTENCY_KEY_BYTES_MAX, IdError, IdempotencyKey, OrderId, USER_ID_BYTES_MAX, UserId};
pub use money::{Currency, Money, MoneyError};
pub use timestamp::{from_timestamp, to_timestamp};

/// The generated code; the `.proto` files hold its documentation.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated; the comments of the .proto files are the documentation, and which lints apply depends on them"
)]
mod generated {
    pub mod r#type {
        pub mod v1 {
            tonic::include_proto!("holdfast.r#type.v1");
        }
    }
    pub mod order {
        pub mod v1 {
            tonic::include_proto!("holdfast.order.v1");
        }
    }
    pub mod payment {
        pub mod v1 {
            tonic::include_proto!("holdfast.payment.v1");
        }
    }
    pub mod delivery {
        pub mod v1 {
            tonic::include_proto!("holdfast.delivery.v1");
        }
    }
    pub mod ops {
        pub mod v1 {
            tonic::include_proto!("holdfast.ops.v1");
        }
    }
}

pub use generated::{delivery, ops, order, payment, r#type};

/// All message types as an encoded `FileDescriptorSet`; tools decode events by it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
