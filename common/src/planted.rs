//! Bugs on purpose, and crashes at durable steps. They prove that a chaos run finds what it says it finds
//! (`docs/chaos-proof.md`): a checker that has never seen a bug proves nothing by its silence.
//!
//! All of it is behind the feature `planted-bugs`, which no release has; without it every question here is a constant.

/// Makes the enum from one row per bug: what is wrong, and its name in `HOLDFAST_PLANTED_BUG`.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As `HOLDFAST_PLANTED_BUG` names it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

bugs! {
    /// The position moves in a transaction of its own before the effects are there.
    PositionBeforeCommit = "position-before-commit",
    /// Every event is taken for new.
    NoInbox = "no-inbox",
    /// The relay claims only rows above the last one that it has published.
    OutboxAfterLastId = "outbox-after-last-id",
    /// Rows are deleted before the broker has acknowledged them.
    OutboxDeleteBeforeAck = "outbox-delete-before-ack",
    /// A repeated call has another idempotency key.
    NewKeyOnRetry = "new-key-on-retry",
    /// A refund is told, and the money does not come back.
    DroppedRefund = "dropped-refund",
    /// A member whose partitions were taken away reads nothing any more.
    ConsumerNeverRejoins = "consumer-never-rejoins",
    /// A successful probe opens the breaker again.
    BreakerNeverCloses = "breaker-never-closes",
    /// An order is now and then read as it was created.
    StatusGoesBack = "status-goes-back",
    /// The owner of an order is not looked at.
    ForeignRead = "foreign-read",
    /// A balance is now and then one cent less than its entries say.
    BalanceWithoutEntry = "balance-without-entry",
    /// The address of an order is logged.
    AddressInLog = "address-in-log",
    /// A refusal does not say when to come back.
    NoRetryAfter = "no-retry-after",
    /// What was not paid is delivered too.
    DeliveryWithoutPayment = "delivery-without-payment",
    /// A record that must be parked is passed over and counted as applied.
    PoisonDropped = "poison-dropped",
    /// Events behind a parked one of their aggregate are applied.
    BlockedNotParked = "blocked-not-parked",
}

#[cfg(feature = "planted-bugs")]
pub use self::armed::{crash_point, now_and_then, planted};

#[cfg(feature = "planted-bugs")]
mod armed {
    use std::{
        env,
        fs::{self, OpenOptions},
        io::Write as _,
        path::PathBuf,
        process,
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use super::Bug;

    /// Whether this process has the bug.
    pub fn planted(bug: Bug) -> bool {
        static NAME: OnceLock<Option<String>> = OnceLock::new();
        let name = NAME.get_or_init(|| env::var("HOLDFAST_PLANTED_BUG").ok());
        name.as_deref() == Some(bug.name())
    }

    /// The same, once in `every` questions.
    pub fn now_and_then(bug: Bug, every: u64) -> bool {
        static ASKED: AtomicU64 = AtomicU64::new(1);
        planted(bug) && ASKED.fetch_add(1, Ordering::Relaxed).is_multiple_of(every)
    }

    /// Ends the process here, as a power cut would, in one of four passes while a crash is ordered: while the folder
    /// `HOLDFAST_CRASH_POINTS` has a file with the name of this service. `HOLDFAST_CRASH_POINT` leaves only one place.
    pub fn crash_point(step: &str, moment: &str) {
        static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
        let Some(folder) = FOLDER.get_or_init(|| env::var_os("HOLDFAST_CRASH_POINTS").map(PathBuf::from))
        else {
            return;
        };
        let point = format!("{step}.{moment}");
        let service = service();
        let order = folder.join(&service);
        let elsewhere = env::var("HOLDFAST_CRASH_POINT").is_ok_and(|only| only != point);
        // Whoever takes the order away carries it out.
        if elsewhere || !order.exists() || !is_fourth() || fs::remove_file(&order).is_err() {
            return;
        }
        let line = format!("{service} {point}\n");
        let written = OpenOptions::new().create(true).append(true).open(folder.join("crashes"));
        // It crashes all the same; only the list lacks a line.
        let _ = written.and_then(|mut file| file.write_all(line.as_bytes()));
        process::abort();
    }

    /// `order` for the program `holdfast-order`.
    fn service() -> String {
        let program = env::current_exe().unwrap_or_default();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.trim_start_matches("holdfast-").to_owned()
    }

    /// A quarter of all passes, other ones in each process.
    fn is_fourth() -> bool {
        static PASSES: AtomicU64 = AtomicU64::new(0);
        let pass = PASSES.fetch_add(1, Ordering::Relaxed).wrapping_add(u64::from(process::id()));
        // The upper bits of a product with an odd number are well mixed.
        (pass.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62) == 0
    }
}

/// Whether this process has the bug: never.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

/// The same, once in so many questions: never.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn now_and_then(_: Bug, _: u64) -> bool {
    false
}

/// A place to crash at: nothing happens.
#[cfg(not(feature = "planted-bugs"))]
pub const fn crash_point(_: &str, _: &str) {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Each bug has a name of its own, and none is there unless it is planted.
    #[test]
    fn no_bug_is_there_by_itself() {
        let names: HashSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        assert!(Bug::ALL.iter().all(|bug| !planted(*bug)));
    }
}
