/// The trust domain of all identities: a certificate of `order` names `spiffe://holdfast.internal/order`.
pub const TRUST_DOMAIN: &str = "holdfast.internal";

/// The identity of whoever runs `holdfast`.
pub const OPERATOR: &str = "operator";
/// The identity of the console, with which it can do what its pages show: it logs in to no database, and only reads topics.
pub const CONSOLE: &str = "console";
/// The identities that may call `holdfast.ops.v1`.
pub const OPERATORS: &[&str] = &[OPERATOR, CONSOLE];
