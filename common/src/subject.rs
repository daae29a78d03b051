//! On whose behalf the gateway calls a service. It travels beside the message, so a handler of the gateway that names the wrong
//! user in its message is refused by the service instead of showing somebody else's data. Only the gateway may call the services
//! ([`crate::grpc`]), so nobody else can set it.

use holdfast_proto::UserId;
use tonic::{
    Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use crate::metric;

/// The subject of the token that the gateway has checked.
const USER: &str = "holdfast-user";
/// The scopes of that token that are ours, separated by spaces.
const SCOPES: &str = "holdfast-scopes";

/// Subject and scopes of a token.
#[derive(Debug, Clone)]
pub struct Subject {
    user: MetadataValue<Ascii>,
    scopes: MetadataValue<Ascii>,
}

impl Subject {
    /// `None` if one of the texts can't be metadata, which no user id and no scope of ours is.
    #[must_use]
    pub fn new(user_id: &UserId, scopes: &[&str]) -> Option<Self> {
        Some(Self { user: user_id.as_str().parse().ok()?, scopes: scopes.join(" ").parse().ok()? })
    }

    /// Says it with a call.
    pub fn write(&self, metadata: &mut MetadataMap) {
        metadata.insert(USER, self.user.clone());
        metadata.insert(SCOPES, self.scopes.clone());
    }
}

/// Checks that the subject of a call is this user and has this scope; otherwise `PERMISSION_DENIED`.
///
/// A call that names no subject comes from a gateway of an earlier version, which must be able to run beside this one. It is
/// counted.
pub fn authorize(metadata: &MetadataMap, user_id: &UserId, scope: &str) -> Result<(), Status> {
    let text = |key| metadata.get(key).and_then(|value: &MetadataValue<Ascii>| value.to_str().ok());
    let Some(user) = text(USER) else {
        metrics::counter!(metric::GRPC_CALLS_WITHOUT_SUBJECT_TOTAL).increment(1);
        return Ok(());
    };
    let has_scope = text(SCOPES).is_some_and(|scopes| scopes.split(' ').any(|granted| granted == scope));
    if user == user_id.as_str() && has_scope {
        return Ok(());
    }
    metrics::counter!(metric::GRPC_PERMISSION_DENIED_TOTAL).increment(1);
    tracing::error!(scope, "the gateway has called for a user or with a scope that its caller does not have");
    Err(Status::permission_denied("the caller of the gateway may not do this"))
}

#[cfg(test)]
mod tests {
    use holdfast_proto::scope::{ORDERS_READ, ORDERS_WRITE};
    use tonic::Code;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a user")
    }

    /// A call may concern its subject, within the scopes; one without a subject is of an earlier gateway.
    #[test]
    fn a_call_concerns_its_subject() {
        let mut metadata = MetadataMap::new();
        assert!(authorize(&metadata, &user("alice"), ORDERS_READ).is_ok());
        Subject::new(&user("alice"), &[ORDERS_READ, "accounts:read"]).expect("text").write(&mut metadata);
        assert!(authorize(&metadata, &user("alice"), ORDERS_READ).is_ok());
        for (name, scope) in
            [("bob", ORDERS_READ), ("alice", ORDERS_WRITE), ("alice", "orders"), ("alice", "")]
        {
            let refused = authorize(&metadata, &user(name), scope).expect_err("refused");
            assert_eq!(refused.code(), Code::PermissionDenied, "{name} {scope}");
        }
        Subject::new(&user("alice"), &[]).expect("text").write(&mut metadata);
        assert!(authorize(&metadata, &user("alice"), ORDERS_READ).is_err());
    }
}
