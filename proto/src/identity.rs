/// The trust domain of all identities: a certificate of `order` names `spiffe://holdfast.internal/order`.
pub const TRUST_DOMAIN: &str = "holdfast.internal";

/// The identity of whoever runs `holdfast`.
pub const OPERATOR: &str = "operator";
/// The identity of the console, with which it can do what its pages show, and cannot log in to a database or a broker.
pub const CONSOLE: &str = "console";
/// The identities that may call `holdfast.ops.v1`.
pub const OPERATORS: &[&str] = &[OPERATOR, CONSOLE];
