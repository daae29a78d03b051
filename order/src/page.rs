//! Pages that are bounded in entries and in bytes. Because nobody knows beforehand how long orders are, a page is read in parts:
//! the first shows how long they are, so the database never reads many times what is sent. Pure.

use holdfast_proto::limits::PAGE_BYTES_MAX;
use prost::Message;

/// Entries that are read first: as many of the longest ones as fit.
const FIRST_ENTRIES: usize = 20;

/// A page that is being read: at most so many entries and [`PAGE_BYTES_MAX`] bytes, but at least one entry if there is one.
#[derive(Debug)]
pub(crate) struct Page<M> {
    size: usize,
    bytes: usize,
    entries: Vec<M>,
    /// Entries of the part that comes next; 0 when there is none.
    part: usize,
    more: bool,
}

impl<M: Message> Page<M> {
    pub(crate) fn new(size: u32) -> Self {
        let size = size as usize;
        Self { size, bytes: 0, entries: Vec::new(), part: FIRST_ENTRIES.min(size), more: false }
    }

    /// How many entries to read next at most, after the last one; `None` when the page is complete. One of them is not for
    /// this page: it shows that there are more.
    pub(crate) fn wanted(&self) -> Option<i64> {
        (self.part > 0).then(|| i64::try_from(self.part + 1).unwrap_or(i64::MAX))
    }

    /// The last entry.
    pub(crate) fn last(&self) -> Option<&M> {
        self.entries.last()
    }

    /// Takes what was read.
    pub(crate) fn take(&mut self, found: impl ExactSizeIterator<Item = M>) {
        let wanted = std::mem::take(&mut self.part);
        self.more = found.len() > wanted;
        for entry in found.take(wanted) {
            self.bytes += entry.encoded_len();
            if self.bytes > PAGE_BYTES_MAX && !self.entries.is_empty() {
                self.more = true;
                return;
            }
            self.entries.push(entry);
        }
        if self.more {
            // What will fit if the rest is like this, and one entry that does not.
            let fit = PAGE_BYTES_MAX.saturating_sub(self.bytes) * self.entries.len() / self.bytes.max(1);
            self.part = (fit + 1).min(self.size - self.entries.len());
        }
    }

    /// The entries, and whether there are more after the last one.
    pub(crate) fn finish(self) -> (Vec<M>, bool) {
        (self.entries, self.more)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::order::v1::Order;

    use super::*;

    /// How many entries the page has, whether there are more, and how many entries were read for it.
    fn read(size: u32, lengths: &[usize]) -> (usize, bool, usize) {
        let order = |length: &usize| Order { delivery_address: "x".repeat(*length), ..Order::default() };
        let (mut page, mut read) = (Page::new(size), 0);
        while let Some(limit) = page.wanted() {
            let rest = lengths[page.entries.len()..].iter().map(order);
            let found: Vec<Order> = rest.take(usize::try_from(limit).expect("positive")).collect();
            read += found.len();
            page.take(found.into_iter());
        }
        let (entries, more) = page.finish();
        assert_eq!(entries, lengths[..entries.len()].iter().map(order).collect::<Vec<_>>());
        (entries.len(), more, read)
    }

    /// Pages end by their number of entries or by their bytes, and say whether there is more.
    #[test]
    fn a_page_is_bounded_in_entries_and_bytes() {
        assert_eq!(read(20, &[]), (0, false, 0));
        assert_eq!(read(20, &[10; 20]), (20, false, 20));
        assert_eq!(read(20, &[10; 21]), (20, true, 21));
        assert_eq!(read(100, &[10; 99]), (99, false, 100), "one is read twice");
        assert_eq!(read(100, &[10; 500]), (100, true, 102));
        assert_eq!(read(1, &[PAGE_BYTES_MAX, 10]), (1, true, 2));
        assert_eq!(read(100, &[PAGE_BYTES_MAX, 10]), (1, true, 2), "never none");
        let (entries, more, read) = read(100, &[PAGE_BYTES_MAX / 30; 100]);
        assert!((28..30).contains(&entries) && more && read < 40, "{entries} of {read}");
    }

    /// Entries that get longer or shorter end the page all the same.
    #[test]
    fn lengths_may_change() {
        let mut lengths = vec![10; 30];
        lengths.extend(vec![PAGE_BYTES_MAX / 4; 30]);
        assert_eq!(read(100, &lengths).0, 33);
        lengths.reverse();
        assert_eq!(read(100, &lengths).0, 3);
    }
}
