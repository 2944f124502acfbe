//! The rules of physical region pages (NVMe Base 2.0, section 4.1.1), as pure functions.
//!
//! PRP1 names the first page and may start inside it, at a multiple of four bytes. What PRP2 is
//! depends on how many pages the transfer touches: nothing for one, the second page for two, and
//! beyond that a list of the second to the last page. In a list page the last slot names the next
//! list page if more entries follow, and is an ordinary entry if none do.

/// Bytes of a PRP entry.
pub const ENTRY_BYTES: usize = 8;

/// What PRP1 and PRP2 mean for a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrpShape {
    /// No data: both are unused.
    None,
    /// One page: PRP2 is unused.
    One,
    /// Two pages: PRP2 is the second.
    Two,
    /// More: PRP2 points to a list of `entries` pages.
    List {
        /// Pages named by the list: all but the first.
        entries: usize,
    },
}

/// Pages that `len_bytes` touch from `offset` into a page of `page_bytes`.
///
/// `page_bytes` must not be 0 and `offset + len_bytes` must fit a `usize`.
#[inline]
#[must_use]
pub const fn pages(offset: usize, len_bytes: usize, page_bytes: usize) -> usize {
    if len_bytes == 0 {
        return 0;
    }
    (offset % page_bytes + len_bytes).div_ceil(page_bytes)
}

/// What PRP1 and PRP2 mean for `len_bytes` from `offset` into a page.
#[inline]
#[must_use]
pub const fn shape(offset: usize, len_bytes: usize, page_bytes: usize) -> PrpShape {
    match pages(offset, len_bytes, page_bytes) {
        0 => PrpShape::None,
        1 => PrpShape::One,
        2 => PrpShape::Two,
        pages => PrpShape::List { entries: pages - 1 },
    }
}

/// List pages needed for `entries` entries when the list starts at a page's first slot.
#[must_use]
pub const fn list_pages(entries: usize, page_bytes: usize) -> usize {
    let slots = page_bytes / ENTRY_BYTES;
    if entries <= slots {
        return if entries == 0 { 0 } else { 1 };
    }
    // Each page but the last gives one slot to the link.
    (entries - 1).div_ceil(slots - 1)
}

/// Where entry `index` of a list of `entries` lies: list page and slot.
///
/// The list starts at a page's first slot; `index` must be below `entries`.
#[inline]
#[must_use]
pub const fn list_position(index: usize, entries: usize, page_bytes: usize) -> (usize, usize) {
    let slots = page_bytes / ENTRY_BYTES;
    let page = index / (slots - 1);
    let slot = index % (slots - 1);
    // The very last entry takes the slot that would have been a link.
    if slot == 0 && page > 0 && index + 1 == entries {
        return (page - 1, slots - 1);
    }
    (page, slot)
}

/// Whether PRP1 is well formed: dword aligned.
#[inline]
#[must_use]
pub const fn prp1_is_valid(prp1: u64) -> bool {
    prp1 & 3 == 0
}

/// Whether an entry other than PRP1 is well formed: page aligned.
#[inline]
#[must_use]
pub const fn entry_is_valid(entry: u64, page_bytes: u64) -> bool {
    entry & (page_bytes - 1) == 0
}

/// Whether PRP2 as a list pointer is well formed: 8-byte aligned, it may start inside a page.
#[inline]
#[must_use]
pub const fn list_pointer_is_valid(prp2: u64) -> bool {
    prp2 & 7 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_the_number_of_pages() {
        assert_eq!(shape(0, 0, 4096), PrpShape::None);
        assert_eq!(shape(0, 4096, 4096), PrpShape::One);
        assert_eq!(shape(4092, 4, 4096), PrpShape::One);
        assert_eq!(shape(4092, 8, 4096), PrpShape::Two);
        assert_eq!(shape(0, 8192, 4096), PrpShape::Two);
        assert_eq!(shape(4, 8192, 4096), PrpShape::List { entries: 2 });
        assert_eq!(shape(512, 511 * 4096, 4096), PrpShape::List { entries: 511 });
    }

    #[test]
    fn a_list_of_512_entries_fits_one_page_and_513_need_two() {
        assert_eq!(list_pages(0, 4096), 0);
        assert_eq!(list_pages(1, 4096), 1);
        assert_eq!(list_pages(512, 4096), 1);
        assert_eq!(list_pages(513, 4096), 2);
        assert_eq!(list_pages(1023, 4096), 2);
        assert_eq!(list_pages(1024, 4096), 3);
        assert_eq!(list_position(511, 512, 4096), (0, 511));
        assert_eq!(list_position(511, 513, 4096), (1, 0));
        assert_eq!(list_position(512, 513, 4096), (1, 1));
        assert_eq!(list_position(1022, 1023, 4096), (1, 511));
        assert_eq!(list_position(1022, 1024, 4096), (2, 0));
    }

    #[test]
    fn positions_fill_every_list_without_gap_or_clash() {
        // Pages of 64 bytes make lists of eight slots: every case in a short table.
        for entries in 1..100 {
            let pages = list_pages(entries, 64);
            let mut used = std::vec![[false; 8]; pages];
            for index in 0..entries {
                let (page, slot) = list_position(index, entries, 64);
                assert!(!used[page][slot], "{entries} entries: slot {slot} of {page} twice");
                used[page][slot] = true;
                assert!(page + 1 == pages || slot < 7, "entry in a link's slot");
            }
            for page in &used[..pages - 1] {
                assert!(page[..7].iter().all(|slot| *slot), "gap with {entries} entries");
            }
        }
    }
}
