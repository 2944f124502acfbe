//! Following PRPs: from the two entries of a command to pieces of host memory, in order.
//!
//! The entries come from the host and are checked one by one; nothing is transferred through an
//! entry before it was.

use core_runtime::mem::{DmaMap, Iova};
use hybrid_shm::Span;
use nvme_spec::prp;

/// A PRP that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrpError {
    /// An offset where none is allowed.
    Offset(u64),
    /// Not mapped.
    Unmapped { iova: u64, len: usize },
}

/// Why a transfer stopped.
#[derive(Debug)]
pub(crate) enum Stop<E> {
    Prp(PrpError),
    Piece(E),
}

/// Where a transfer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prps {
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
    pub(crate) len: usize,
    /// CC.MPS in bytes; a power of two of at least 4 KiB.
    pub(crate) page: usize,
}

/// Ranges of addresses, start and end, those that adjoin as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeList(Vec<(u64, u64)>);

impl RangeList {
    fn push(&mut self, start: u64, len: usize) {
        let end = start.saturating_add(len as u64);
        match self.0.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.0.push((start, end)),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Where something lies in both.
    pub(crate) fn overlap(&self, other: &Self) -> Option<u64> {
        self.iter().find_map(|(start, end)| {
            let mut others = other.iter();
            others.find(|(from, to)| *from < end && start < *to).map(|(from, _)| from.max(start))
        })
    }
}

/// The memory that PRPs name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) data: RangeList,
    /// PRP lists.
    pub(crate) tables: RangeList,
}

fn translate(dma: &DmaMap, iova: u64, len: usize) -> Result<Span<'static>, PrpError> {
    let unmapped = PrpError::Unmapped { iova, len };
    dma.translate(Iova(iova), len).map_err(|_| unmapped)
}

impl Prps {
    /// Calls `piece(memory, offset in the transfer, length)` for each piece in order.
    #[inline]
    pub(crate) fn each<E>(
        &self,
        dma: &DmaMap,
        mut piece: impl FnMut(Span<'static>, usize, usize) -> Result<(), E>,
    ) -> Result<(), Stop<E>> {
        let offset = usize::try_from(self.prp1).unwrap_or(0) & (self.page - 1);
        if !prp::prp1_is_valid(self.prp1) {
            return Err(Stop::Prp(PrpError::Offset(self.prp1)));
        }
        let first = self.len.min(self.page - offset);
        if first > 0 {
            let memory = translate(dma, self.prp1, first).map_err(Stop::Prp)?;
            piece(memory, 0, first).map_err(Stop::Piece)?;
        }
        let rest = self.len - first;
        if rest == 0 {
            return Ok(());
        }
        if rest <= self.page {
            return self.page_piece(dma, self.prp2, first, &mut piece);
        }
        self.list(dma, first, &mut piece)
    }

    /// All addresses that a transfer would touch, unchecked; `None` if a list cannot be followed.
    pub(crate) fn ranges(&self, dma: &DmaMap) -> Option<Ranges> {
        let mut ranges = Ranges::default();
        let offset = usize::try_from(self.prp1).ok()? & (self.page - 1);
        let mut done = self.len.min(self.page - offset);
        ranges.data.push(self.prp1, done);
        if self.len - done <= self.page {
            if self.len > done {
                ranges.data.push(self.prp2, self.len - done);
            }
            return Some(ranges);
        }
        let mut list = self.prp2;
        while done < self.len {
            let within = usize::try_from(list).ok()? & (self.page - 1);
            let slots = (self.page - within) / prp::ENTRY_BYTES;
            let wanted = (self.len - done).div_ceil(self.page);
            let bytes = wanted.min(slots) * prp::ENTRY_BYTES;
            let table = dma.translate(Iova(list), bytes).ok()?;
            let entry = |slot: usize| Some(table.word64(slot * prp::ENTRY_BYTES).ok()?.load());
            ranges.tables.push(list, bytes);
            for slot in 0..if wanted > slots { slots.checked_sub(1)? } else { wanted } {
                let len = self.page.min(self.len - done);
                ranges.data.push(entry(slot)?, len);
                done += len;
            }
            if wanted > slots {
                list = entry(slots - 1)?;
                // Also what makes sure that this ends: such a list has more than one entry.
                if !prp::entry_is_valid(list, self.page as u64) {
                    return None;
                }
            }
        }
        Some(ranges)
    }

    /// One page-aligned entry: the piece at `done`.
    #[inline]
    fn page_piece<E>(
        &self,
        dma: &DmaMap,
        entry: u64,
        done: usize,
        piece: &mut impl FnMut(Span<'static>, usize, usize) -> Result<(), E>,
    ) -> Result<(), Stop<E>> {
        if !prp::entry_is_valid(entry, self.page as u64) {
            return Err(Stop::Prp(PrpError::Offset(entry)));
        }
        let len = (self.len - done).min(self.page);
        let memory = translate(dma, entry, len).map_err(Stop::Prp)?;
        piece(memory, done, len).map_err(Stop::Piece)
    }

    /// The pieces that a list names, from `done` on.
    fn list<E>(
        &self,
        dma: &DmaMap,
        mut done: usize,
        piece: &mut impl FnMut(Span<'static>, usize, usize) -> Result<(), E>,
    ) -> Result<(), Stop<E>> {
        let mut list = self.prp2;
        if !prp::list_pointer_is_valid(list) {
            return Err(Stop::Prp(PrpError::Offset(list)));
        }
        while done < self.len {
            // The first list may start inside its page; what is left of the page holds entries.
            let within = usize::try_from(list).unwrap_or(0) & (self.page - 1);
            let slots = (self.page - within) / prp::ENTRY_BYTES;
            let wanted = (self.len - done).div_ceil(self.page);
            let entries = if wanted > slots { slots - 1 } else { wanted };
            let bytes = wanted.min(slots) * prp::ENTRY_BYTES;
            let table = translate(dma, list, bytes).map_err(Stop::Prp)?;
            let entry = |slot: usize| {
                let word = table.word64(slot * prp::ENTRY_BYTES);
                // Mapped memory is aligned as its IOVA is; one that is not cannot be read.
                word.map(|word| word.load())
                    .map_err(|_| Stop::Prp(PrpError::Unmapped { iova: list, len: bytes }))
            };
            for slot in 0..entries {
                self.page_piece(dma, entry(slot)?, done, piece)?;
                done += self.page.min(self.len - done);
            }
            if wanted > slots {
                list = entry(slots - 1)?;
                // NVMe Base 2.0, section 4.1.1: a list that is linked to starts at a page.
                if !prp::entry_is_valid(list, self.page as u64) {
                    return Err(Stop::Prp(PrpError::Offset(list)));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_runtime::mem::DmaRegion;

    const PAGE: usize = 4096;
    const BASE: u64 = 0x7_0000_0000;
    /// Data pages of the test region; the lists follow them.
    const PAGES: usize = 1200;

    fn region() -> (DmaMap, Span<'static>) {
        let region = DmaRegion::leak(1210 * PAGE, Iova(BASE));
        let mut map = DmaMap::new();
        map.map(region).expect("room");
        (map, region.span)
    }

    /// Builds PRPs for `len` bytes at `offset`, with data pages in descending order.
    fn build(span: Span<'static>, offset: usize, len: usize) -> Prps {
        let page_iova = |n: usize| BASE + ((PAGES - 1 - n) * PAGE) as u64;
        let list_at = |n: usize| (PAGES + n) * PAGE;
        let list_iova = |n: usize| BASE + list_at(n) as u64;
        let prp1 = page_iova(0) + offset as u64;
        let prp2 = match prp::shape(offset, len, PAGE) {
            prp::PrpShape::None | prp::PrpShape::One => 0xdead_beef_f001,
            prp::PrpShape::Two => page_iova(1),
            prp::PrpShape::List { entries } => {
                let set = |page: usize, slot: usize, value: u64| {
                    let at = list_at(page) + slot * 8;
                    span.word64(at).expect("inside").store(value);
                };
                for index in 0..entries {
                    let (page, slot) = prp::list_position(index, entries, PAGE);
                    set(page, slot, page_iova(index + 1));
                }
                for page in 1..prp::list_pages(entries, PAGE) {
                    set(page - 1, PAGE / 8 - 1, list_iova(page));
                }
                list_iova(0)
            }
        };
        Prps { prp1, prp2, len, page: PAGE }
    }

    #[test]
    fn every_shape_yields_each_byte_once_and_in_order() {
        let (map, span) = region();
        for pages in [1, 2, 3, 511, 512, 513, 514, 1023, 1024, 1025] {
            for offset in [0, 4, 512, PAGE - 4] {
                for cut in [0, 4, PAGE - 4] {
                    let Some(len) = (pages * PAGE).checked_sub(offset + cut) else { continue };
                    if len == 0 {
                        continue;
                    }
                    let prps = build(span, offset, len);
                    let mut next = 0;
                    let mut count = 0;
                    prps.each(&map, |memory, at, len| {
                        assert_eq!(at, next);
                        assert!(memory.len() >= len && len > 0);
                        let place = memory.as_ptr() as usize - span.as_ptr() as usize;
                        let page = PAGES - 1 - count;
                        let skip = if count == 0 { offset } else { 0 };
                        assert_eq!(place, page * PAGE + skip);
                        next += len;
                        count += 1;
                        Ok::<_, ()>(())
                    })
                    .unwrap_or_else(|stop| panic!("{pages} pages, offset {offset}: {stop:?}"));
                    assert_eq!(next, len);
                    assert_eq!(count, prp::pages(offset, len, PAGE));
                }
            }
        }
    }

    fn stops(prps: Prps) -> PrpError {
        let (map, _) = region();
        match prps.each(&map, |_, _, _| Ok::<_, ()>(())) {
            Err(Stop::Prp(error)) => error,
            other => panic!("followed: {other:?}"),
        }
    }

    #[test]
    fn offsets_where_none_is_allowed_are_refused() {
        let prps = |prp1, prp2, len| Prps { prp1, prp2, len, page: PAGE };
        assert_eq!(stops(prps(BASE + 2, 0, 8)), PrpError::Offset(BASE + 2));
        let second = BASE + 0x1004;
        assert_eq!(stops(prps(BASE, second, 2 * PAGE)), PrpError::Offset(second));
        let list = BASE + 0x2004;
        assert_eq!(stops(prps(BASE, list, 3 * PAGE)), PrpError::Offset(list));
    }

    #[test]
    fn unmapped_pages_and_lists_are_refused() {
        let prps = |prp1, prp2, len| Prps { prp1, prp2, len, page: PAGE };
        let end = BASE + 1210 * PAGE as u64;
        let unmapped = |iova, len| PrpError::Unmapped { iova, len };
        assert_eq!(stops(prps(end, 0, 8)), unmapped(end, 8));
        assert_eq!(stops(prps(BASE, end, 2 * PAGE)), unmapped(end, PAGE));
        assert_eq!(stops(prps(BASE, end, 4 * PAGE)), unmapped(end, 24));
        // The list's entries are zero: address 0 is not mapped.
        assert_eq!(stops(prps(BASE, BASE + 0x1000, 4 * PAGE)), unmapped(0, PAGE));
    }

    #[test]
    fn a_list_may_start_inside_its_page() {
        let (map, span) = region();
        // Two slots are left: one entry and a link to a page with the rest.
        let list = PAGES * PAGE + PAGE - 16;
        let next = (PAGES + 1) * PAGE;
        span.word64(list).unwrap().store(BASE + PAGE as u64);
        span.word64(list + 8).unwrap().store(BASE + next as u64);
        span.word64(next).unwrap().store(BASE + 2 * PAGE as u64);
        span.word64(next + 8).unwrap().store(BASE + 3 * PAGE as u64);
        let prps = Prps { prp1: BASE, prp2: BASE + list as u64, len: 4 * PAGE, page: PAGE };
        let mut places = vec![];
        prps.each(&map, |memory, _, _| {
            places.push((memory.as_ptr() as usize - span.as_ptr() as usize) / PAGE);
            Ok::<_, ()>(())
        })
        .expect("followed");
        assert_eq!(places, [0, 1, 2, 3]);
    }
}
