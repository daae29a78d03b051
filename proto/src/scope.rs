//! What a token can allow: the parts of its `scope`.

/// Read one's own orders, their payments and deliveries.
pub const ORDERS_READ: &str = "orders:read";
/// Create orders of one's own.
pub const ORDERS_WRITE: &str = "orders:write";
/// Read one's own account.
pub const ACCOUNTS_READ: &str = "accounts:read";
/// Pay into any account.
pub const ACCOUNTS_CREDIT: &str = "accounts:credit";

/// All of them.
pub const ALL: [&str; 4] = [ORDERS_READ, ORDERS_WRITE, ACCOUNTS_READ, ACCOUNTS_CREDIT];
