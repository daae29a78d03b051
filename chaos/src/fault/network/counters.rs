//! What a proxy has done, so that a fault is known to have landed.

use std::{
    iter::Sum,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

/// One list for what is counted and what is read, so that neither lacks a counter.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a proxy has done since its start.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// What was added since an earlier look.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }

        impl Sum for Counters {
            fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
                all.fold(Self::default(), |sum, one| Self { $($name: sum.$name + one.$name,)* })
            }
        }

        /// The counters while they are counted.
        #[derive(Debug, Default)]
        pub(super) struct Counting {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counting {
            pub(super) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Connections that were accepted.
    connections,
    /// Connections that were reset because of a condition, or because one ended; not those that a peer reset.
    connections_reset,
    /// Connections that lost their server's side while the client was not told.
    connections_half_open,
    /// Bytes that arrived at servers.
    bytes_to_server,
    /// Bytes that arrived at clients.
    bytes_to_client,
    /// Bytes that came while nothing passed in their direction. They pass once that has ended.
    bytes_held,
    /// Bytes of clients whose connection was half-open: nobody ever gets them.
    bytes_dropped,
    /// Bytes that arrived while the link was slow.
    bytes_delayed,
    /// Bytes that were changed.
    bytes_corrupted,
}

/// Adds a number of bytes.
pub(super) fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}
