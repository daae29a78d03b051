//! File descriptors: connections must not take those that files and upstream connections need. Without descriptors certificates,
//! keys and deny lists can't be read again, so rotation and revocation would stop.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// So many are kept for anything but connections of clients: files, upstreams, the database, the admin port, and those that are told
/// that there is no place ([`super::TURNED_AWAY_MAX`]).
const RESERVED: u64 = 320;

/// Raises the soft limit to the hard one, and returns how many there are. Where that is not allowed, the limit stays.
pub(crate) fn raise_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return RESERVED * 2 };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
}

/// How many connections there may be of the `wanted` ones, with so many descriptors.
pub(super) fn affordable(wanted: usize, descriptors: u64) -> usize {
    let reserved = RESERVED.min(descriptors / 2);
    wanted.min(usize::try_from(descriptors - reserved).unwrap_or(usize::MAX))
}

/// The soft limit now.
pub(super) fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(RESERVED * 2, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some descriptors are always left for files and upstreams.
    #[test]
    fn some_descriptors_are_always_left() {
        for (wanted, descriptors, expected) in [
            (2_048, 1_048_576, 2_048),
            (2_048, 2_368, 2_048),
            (2_048, 1_024, 704),
            (2_048, 256, 128),
            (64, 1_024, 64),
        ] {
            assert_eq!(affordable(wanted, descriptors), expected);
        }
    }

    /// The soft limit becomes the hard one.
    #[test]
    fn the_soft_limit_is_raised() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("asked");
        assert_eq!(raise_limit(), hard);
        assert_eq!(limit(), hard);
    }
}
