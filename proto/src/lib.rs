//! The contract as types: the generated gRPC packages and events, and the vocabulary that all services share.
//!
//! Parse once, at the edge: [`OrderId`], [`UserId`], [`IdempotencyKey`] and [`Money`] can only hold what the
//! contract allows, so the code behind them never checks again. This crate must never do I/O.

mod hex;
mod id;
mod identity;
pub mod limits;
mod money;
pub mod scope;
pub mod text;
mod timestamp;
pub mod topic;

pub use hex::hexadecimal;
pub use id::{IDEMPOTENCY_KEY_BYTES_MAX, IdError, IdempotencyKey, OrderId, USER_ID_BYTES_MAX, UserId};
pub use identity::{CONSOLE, OPERATOR, OPERATORS, TRUST_DOMAIN};
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
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::holdfast::*;

/// The OpenTelemetry protocol (OTLP 1.9, traces only), from the unchanged files in `proto/opentelemetry`.
pub mod otlp {
    #[allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::pedantic,
        reason = "generated, like our own packages"
    )]
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/otlp.rs"));
    }
    pub use generated::opentelemetry::proto::*;
}

/// All message types as an encoded `FileDescriptorSet`; tools decode events by it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The unary calls whose `.proto` marks them as idempotent (`idempotency_level`): sent twice, they have the effect of
/// one call. Only these may be retried.
const IDEMPOTENT_METHODS: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/idempotent.rs"));

/// Whether `service`/`method` may be sent again when its outcome is unknown.
#[must_use]
pub fn is_idempotent(service: &str, method: &str) -> bool {
    IDEMPOTENT_METHODS.contains(&(service, method))
}

/// Every call of the contract, as `package.Service/Method`.
const METHODS: &[&str] = &include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// What metrics call a method that is not part of the contract: its name is whatever its caller likes.
pub const METHOD_OTHER: &str = "_OTHER";

/// Returns the method of a call by its path, `package.Service/Method`, if it is part of the contract.
#[must_use]
pub fn method_of(path: &str) -> Option<&'static str> {
    let name = path.strip_prefix('/')?;
    METHODS.iter().copied().find(|method| *method == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A method is idempotent because its `.proto` says so, not because its name sounds like a read.
    #[test]
    fn idempotent_is_what_the_contract_marks() {
        assert!(is_idempotent("holdfast.order.v1.OrderService", "CreateOrder"));
        assert!(is_idempotent("holdfast.payment.v1.PaymentService", "GetAccount"));
        assert!(!is_idempotent("holdfast.order.v1.OrderService", "Create"));
        assert!(!is_idempotent("grpc.health.v1.Health", "Check"));
    }

    #[test]
    fn a_method_is_part_of_the_contract_or_has_no_name() {
        let create = "holdfast.order.v1.OrderService/CreateOrder";
        assert_eq!(method_of(&format!("/{create}")), Some(create));
        assert_eq!(method_of(create), None);
        assert_eq!(method_of("/holdfast.order.v1.OrderService/Guess"), None);
    }
}
