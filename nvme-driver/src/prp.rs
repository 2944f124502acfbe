//! Physical region pages: what PRP1, PRP2 and a PRP list must say for a buffer.
//!
//! Pure arithmetic over an IOVA and a length; [`crate::queue`] writes what it answers. It does not
//! know about slots or memory. Rules are those of NVMe Base 2.0, section 4.1.1: PRP1 may start
//! anywhere in a page on a dword, PRP2 is the second page when there are two and a list's address
//! when there are more, later entries are page aligned, and the last slot of a list page is a link
//! only if more entries follow. Lengths are bytes.

use core_runtime::mem::Iova;

/// Bytes of one list entry.
pub(crate) const ENTRY_BYTES: usize = 8;

/// A buffer whose first byte is not on a dword (or that is empty, or wraps) has no PRPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBuffer;

/// What follows PRP1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// All in the first page: PRP2 is not used and stays 0, an address that is never mapped.
    Nothing,
    /// Exactly one more page: PRP2 is its address.
    Page(Iova),
    /// `pages` more pages, the first at `first`: PRP2 points to a list.
    List {
        /// Address of the second page of the buffer, page aligned.
        first: Iova,
        /// Number of pages that the list must name, at least 2.
        pages: u32,
    },
}

/// Works out what follows PRP1 for `len` bytes at `iova`, with pages of `1 << page_shift` bytes.
#[inline(always)]
pub(crate) const fn rest(iova: Iova, len: u32, page_shift: u32) -> Result<Rest, BadBuffer> {
    if len == 0 || iova.0 & 3 != 0 {
        return Err(BadBuffer);
    }
    let Some(last) = iova.0.checked_add(len.wrapping_sub(1) as u64) else {
        return Err(BadBuffer);
    };
    let first_page_last = iova.0 | (1_u64.wrapping_shl(page_shift)).wrapping_sub(1);
    if last <= first_page_last {
        return Ok(Rest::Nothing);
    }
    // There is a byte after it, so this does not wrap.
    let second = first_page_last.wrapping_add(1);
    let pages = (last.wrapping_sub(second)).wrapping_shr(page_shift).wrapping_add(1);
    if pages == 1 {
        return Ok(Rest::Page(Iova(second)));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most one more than the pages of a 32-bit length"
    )]
    let pages = pages as u32;
    Ok(Rest::List { first: Iova(second), pages })
}

/// Calls `put(index, address)` for each entry of a list at `list` that names `pages` pages from
/// `first`; `index` counts 8-byte entries from the list's start. The list's memory is contiguous
/// and either lies within one page or starts on one.
pub(crate) fn list(
    first: Iova,
    pages: u32,
    list: Iova,
    page_bytes: u64,
    mut put: impl FnMut(usize, Iova),
) {
    let per_page = per_list_page(page_bytes);
    let mut index = 0;
    for page in 0..pages {
        if index % per_page == per_page - 1 && page + 1 < pages {
            put(index, Iova(list.0 + (index as u64 + 1) * ENTRY_BYTES as u64));
            index += 1;
        }
        put(index, Iova(first.0 + u64::from(page) * page_bytes));
        index += 1;
    }
}

/// Entries of list memory that one command of up to `len` bytes may need, links included.
pub(crate) const fn list_entries(len: u32, page_bytes: u64) -> usize {
    // With an offset the buffer spans one page more than its length says; PRP1 names the first.
    #[expect(clippy::cast_possible_truncation, reason = "at most a 32-bit length")]
    let pages = (len as u64).div_ceil(page_bytes) as usize;
    let per_page = per_list_page(page_bytes);
    if pages <= 1 {
        0
    } else if pages <= per_page {
        pages
    } else {
        pages + (pages - 2) / (per_page - 1)
    }
}

const fn per_list_page(page_bytes: u64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a page has at most 128 MiB (CAP.MPSMIN is 4 bits)"
    )]
    let bytes = page_bytes as usize;
    bytes / ENTRY_BYTES
}

/// For those who have Kani (`cargo kani -p nvme-driver`): for every buffer, not for some.
#[cfg(any(kani, test))]
mod proofs {
    use super::*;
    #[cfg(not(kani))]
    use hybrid_conventions::testing::kani;

    /// PRP1 and what follows it name exactly the pages that the buffer touches.
    #[cfg_attr(kani, kani::proof)]
    pub(super) fn the_pages_are_those_of_the_buffer() {
        let (iova, len) = (kani::any(), kani::any());
        let page_shift = kani::any_where(|shift| (12..=16).contains(shift));
        let page = |at: u64| at >> page_shift;
        let Ok(rest) = rest(Iova(iova), len, page_shift) else {
            let wraps = len != 0 && iova.checked_add(u64::from(len) - 1).is_none();
            assert!(len == 0 || iova & 3 != 0 || wraps);
            return;
        };
        let last = iova + (u64::from(len) - 1);
        let pages = page(last) - page(iova) + 1;
        match rest {
            Rest::Nothing => assert!(pages == 1),
            Rest::Page(second) => {
                assert!(pages == 2 && second.0 == (page(iova) + 1) << page_shift);
            }
            Rest::List { first, pages: listed } => {
                assert!(pages == u64::from(listed) + 1 && listed >= 2);
                assert!(first.0 == (page(iova) + 1) << page_shift);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    use hybrid_conventions::testing::kani;

    const PAGE: u64 = 4096;
    const SHIFT: u32 = 12;

    #[test]
    fn the_proof_holds_for_random_values() {
        kani::sample(proofs::the_pages_are_those_of_the_buffer);
    }

    /// The pages that PRP1, PRP2 and the list name, read back as a controller would.
    fn walk(iova: u64, len: u32, page: u64) -> Vec<u64> {
        let list_at = 0x7000_0000_0000_u64;
        let mut memory = std::collections::HashMap::new();
        let mut named = std::vec![iova];
        let spanned = (iova % page + u64::from(len)).div_ceil(page);
        match rest(Iova(iova), len, page.trailing_zeros()).expect("a legal buffer") {
            Rest::Nothing => {}
            Rest::Page(second) => named.push(second.0),
            Rest::List { first, pages } => {
                list(first, pages, Iova(list_at), page, |i, a| {
                    assert!(i < list_entries(len, page), "entry {i} of {len} bytes");
                    memory.insert(list_at + i as u64 * 8, a.0);
                });
                let mut at = list_at;
                while (named.len() as u64) < spanned {
                    let value = memory[&at];
                    let last_of_page = at % page == page - 8;
                    if last_of_page && spanned - named.len() as u64 > 1 {
                        assert!(value > at, "a link that leads back");
                        at = value;
                        continue;
                    }
                    named.push(value);
                    at += 8;
                }
            }
        }
        named
    }

    #[test]
    fn page_counts_around_every_boundary_with_and_without_offset() {
        // Lists of a smaller page are as long in pages, and the interpreter gets along with them.
        let sizes: &[u64] = if cfg!(miri) { &[1024] } else { &[4096, 8192, 65536] };
        for &page in sizes {
            let per = page / 8;
            for pages in [1, 2, 3, per - 1, per, per + 1, per + 2, 2 * per, 2 * per + 1] {
                for offset in [0, 4, 512, page - 512, page - 4] {
                    let base = 0x1_2345_0000 * page;
                    let len = u32::try_from(pages * page).expect("small");
                    let named = walk(base + offset, len, page);
                    let spanned = pages + u64::from(offset != 0);
                    assert_eq!(named.len() as u64, spanned, "{pages} pages at {offset}");
                    assert_eq!(named[0], base + offset);
                    for (i, address) in named.iter().enumerate().skip(1) {
                        assert_eq!(*address, base + i as u64 * page, "{pages} at {offset}");
                    }
                }
            }
        }
    }

    #[test]
    fn shapes_of_short_buffers() {
        let at = |off: u64, len: u32| rest(Iova(0x10_0000 + off), len, SHIFT);
        assert_eq!(at(0, 512), Ok(Rest::Nothing));
        assert_eq!(at(0, 4096), Ok(Rest::Nothing));
        assert_eq!(at(4, 4096), Ok(Rest::Page(Iova(0x10_1000))));
        assert_eq!(at(0, 4097), Ok(Rest::Page(Iova(0x10_1000))));
        assert_eq!(at(0, 8192), Ok(Rest::Page(Iova(0x10_1000))));
        assert_eq!(at(512, 8192), Ok(Rest::List { first: Iova(0x10_1000), pages: 2 }));
    }

    #[test]
    fn a_full_list_page_ends_in_an_entry_and_one_more_makes_it_a_link() {
        let mut last = None;
        list(Iova(0), 512, Iova(0x9000), PAGE, |i, a| last = Some((i, a)));
        assert_eq!(last, Some((511, Iova(511 * PAGE))));
        let mut all = Vec::new();
        list(Iova(0), 513, Iova(0x9000), PAGE, |i, a| all.push((i, a)));
        assert_eq!(all[511], (511, Iova(0x9000 + PAGE)));
        assert_eq!(all[512], (512, Iova(511 * PAGE)));
        assert_eq!(all[513], (513, Iova(512 * PAGE)));
    }

    #[test]
    fn list_memory_is_what_the_worst_offset_needs_and_no_more() {
        // The interpreter gets along with the smaller one.
        for page in [64_u64, 4096].into_iter().take(if cfg!(miri) { 1 } else { 2 }) {
            let per = u32::try_from(page / 8).expect("small");
            let near = |pages: u32| pages.saturating_sub(2)..pages + 4;
            for pages in near(0).chain(near(per)).chain(near(2 * per)).chain(near(5 * per)) {
                // Behind an offset a buffer has one page more than its length says.
                let mut used = 0;
                if pages > 1 {
                    list(Iova(0), pages, Iova(0), page, |i, _| used = i + 1);
                }
                let len = pages * u32::try_from(page).expect("small");
                assert_eq!(list_entries(len, page), used, "{pages} pages of {page}");
                assert_eq!(list_entries(len.saturating_sub(3), page), used, "{pages} of {page}");
            }
        }
    }

    #[test]
    fn unaligned_empty_and_wrapping_buffers_are_refused() {
        assert_eq!(rest(Iova(2), 512, SHIFT), Err(BadBuffer));
        assert_eq!(rest(Iova(4096), 0, SHIFT), Err(BadBuffer));
        assert_eq!(rest(Iova(u64::MAX - 3), 8, SHIFT), Err(BadBuffer));
    }
}
