//! What reaches the disk, from `/proc/diskstats`. What the kernel counts for a process (`write_bytes` in `/proc/<pid>/io`) is not that: a page of
//! the cache that is written again counts as all of its folio, many times the page.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::Result;
use nix::sys::stat::{major, minor};

/// Of a sector in `/proc/diskstats`, whatever the disk's own is.
const SECTOR_BYTES: u64 = 512;

/// Bytes that everything on this machine has written to the disk of this folder since it was started; `None` if no disk is
/// below it, as with tmpfs or overlayfs.
pub(crate) fn written_bytes(folder: &Path) -> Result<Option<u64>> {
    let device = fs::metadata(folder)?.dev();
    Ok(written_in(&fs::read_to_string("/proc/diskstats")?, (major(device), minor(device))))
}

/// Each line: major and minor number, name, then counters, of which the seventh is of sectors that were written.
fn written_in(statistics: &str, device: (u64, u64)) -> Option<u64> {
    statistics.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        ((number(0)?, number(1)?) == device).then(|| number(9))?.map(|sectors| sectors * SECTOR_BYTES)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of the device is read, and none is made up for one that has no line.
    #[test]
    fn the_line_of_the_device_is_read() {
        let statistics = " 254       0 vda 539668 94684 108294306 969862 12978274 3664120 1184921008 15064962 0 1804612 17217274\n\
                          \n 254       1 vda1 1 2 3 4 5 6 7 8 9 10 11\n";
        assert_eq!(written_in(statistics, (254, 0)), Some(1_184_921_008 * 512));
        assert_eq!(written_in(statistics, (254, 1)), Some(7 * 512));
        assert_eq!(written_in(statistics, (0, 33)), None);
        assert_eq!(written_in("254 0 vda 1", (254, 0)), None);
    }
}
