/// The trust domain of all identities: a certificate of `order` names `spiffe://holdfast.internal/order`.
pub const TRUST_DOMAIN: &str = "holdfast.internal";
