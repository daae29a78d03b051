//! Port offsets for stacks that tests and chaos runs start beside one another.
//!
//! The supervisor looks at its ports once, and its components take them seconds later. Whoever draws an offset meanwhile would find the same
//! ports free. So each holder locks its ports in a file that all of a user share, a byte for each; the locks end with their process.

use std::{
    env,
    fs::{self, File, OpenOptions},
    iter,
    ops::RangeInclusive,
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::{
    artifacts::user_dir,
    layout::{Extra, Layout, PORT_OFFSET_MAX, Replicas, Scope},
};

/// Those that put every port outside of the range from which the kernel gives ports to outgoing connections (32768 to 60999 by default).
const PORT_OFFSETS: RangeInclusive<u16> = 11_000..=PORT_OFFSET_MAX;
const ATTEMPTS_MAX: usize = 1_000;

/// An offset whose ports no other holder has, as long as this lives.
#[derive(Debug)]
pub struct PortOffset {
    /// Added to each port.
    pub number: u16,
    /// `None` of one that was not drawn.
    _locks: Option<File>,
}

impl PortOffset {
    /// One that somebody has chosen, who has to know that its ports are free.
    #[must_use]
    pub const fn chosen(number: u16) -> Self {
        Self { number, _locks: None }
    }

    /// Draws one for a stack that begins with these replicas (`order=2`), and may get a second one of each service. An error if one of
    /// them is no such number, the file of the locks can't be written, or everything is taken.
    pub fn draw<'r>(replicas: impl IntoIterator<Item = &'r str>, with_links: bool) -> Result<Self> {
        let folder = user_dir()?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut most = Replicas::of_each(2);
        for of_service in replicas {
            let mut asked = Replicas::default();
            asked.set(of_service)?;
            most = most.at_least(asked);
        }
        Self::draw_from(&folder.join("ports"), most, with_links)
    }

    fn draw_from(file: &Path, replicas: Replicas, with_links: bool) -> Result<Self> {
        let mut drawn = iter::repeat_with(|| fastrand::u16(PORT_OFFSETS)).take(ATTEMPTS_MAX);
        let found = drawn.find_map(|number| Self::take(file, number, replicas, with_links).transpose());
        found.unwrap_or_else(|| Err(anyhow!("tests and chaos runs have all ports")))
    }

    /// `None`: somebody has one of its ports.
    fn take(file: &Path, number: u16, replicas: Replicas, with_links: bool) -> Result<Option<Self>> {
        let layout = Layout::new(env::temp_dir(), number);
        let links = if with_links { layout.links(replicas) } else { Vec::new() };
        // A file of its own for each, whose locks all go when one can't be had.
        let locks = OpenOptions::new().create(true).truncate(false).write(true).open(file);
        let locks = locks.with_context(|| format!("cannot open {}", file.display()))?;
        for (_, port) in layout.ports(Scope::Everything, replicas, &Extra::ALL, &links) {
            match lock(&locks, port) {
                Ok(()) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock a byte of {}", file.display()));
                }
            }
        }
        Ok(Some(Self { number, _locks: Some(locks) }))
    }
}

/// Locks the byte of a port for this open file, unless another one has it. The byte needs not be there.
fn lock(file: &File, port: u16) -> Result<(), Errno> {
    let small = |constant: libc::c_int| libc::c_short::try_from(constant).map_err(|_| Errno::EINVAL);
    let byte = libc::flock {
        l_type: small(libc::F_WRLCK)?,
        l_whence: small(libc::SEEK_SET)?,
        l_start: port.into(),
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&byte)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn ports(offset: &PortOffset, with_links: bool) -> HashSet<u16> {
        let layout = Layout::new(env::temp_dir(), offset.number);
        let replicas = Replicas::of_each(2);
        let links = if with_links { layout.links(replicas) } else { Vec::new() };
        let ports = layout.ports(Scope::Everything, replicas, &Extra::ALL, &links);
        ports.into_iter().map(|(_, port)| port).collect()
    }

    /// No two holders share a port, whatever they draw; what somebody gives back can be had again.
    #[test]
    fn no_two_holders_share_a_port() {
        let file = env::temp_dir().join(format!("holdfast-ports-of-a-test-{}", std::process::id()));
        let draw = |with_links| {
            PortOffset::draw_from(&file, Replicas::of_each(2), with_links).expect("some are free")
        };
        let held: Vec<_> = (0..20).map(|turn| (draw(turn % 4 == 0), turn % 4 == 0)).collect();
        let mut all = HashSet::new();
        for (offset, with_links) in &held {
            assert!(PORT_OFFSETS.contains(&offset.number));
            for port in ports(offset, *with_links) {
                assert!(all.insert(port), "{port} of {} is somebody else's", offset.number);
            }
        }
        let again = held[0].0.number;
        let take = || PortOffset::take(&file, again, Replicas::of_each(2), false).expect("readable");
        assert!(take().is_none());
        drop(held);
        assert!(take().is_some());
        fs::remove_file(file).expect("it was there");
    }
}
