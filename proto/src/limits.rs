//! Limits of the contract that both the edge and the services keep: the edge to name everything that is wrong at once,
//! the services because they don't trust the edge.

use crate::text::{is_invisible, reorders, separates_lines};

/// Most lines of an order.
pub const ITEMS_MAX: usize = 100;
/// Most pieces of one line.
pub const QUANTITY_MAX: u32 = 10_000;
/// Highest price of one piece and highest credit, in cents: 1,000,000.00.
pub const AMOUNT_MINOR_MAX: i64 = 100_000_000;
/// Most characters of an address.
pub const ADDRESS_CHARS_MAX: usize = 500;
/// Most characters of a product id.
pub const PRODUCT_ID_CHARS_MAX: usize = 64;
/// Largest page of a listing.
pub const PAGE_SIZE_MAX: u32 = 100;
/// Bytes of a page of orders, as JSON: one that would be longer has fewer orders, but at least one.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;

/// Whether a text can be the id of a product: 1-64 of `[A-Za-z0-9._:-]`.
#[must_use]
pub fn is_product_id(text: &str) -> bool {
    (1..=PRODUCT_ID_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// Whether a text can be an address: it has something readable, and nothing that changes how it is displayed.
#[must_use]
pub fn is_address(text: &str) -> bool {
    (1..=ADDRESS_CHARS_MAX).contains(&text.chars().count())
        && !text.chars().all(is_invisible)
        && !text.chars().any(|c| c.is_control() || reorders(c) || separates_lines(c))
}
